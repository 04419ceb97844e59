//! Lists that the kernel gives over netlink, of any protocol.

use std::{fmt::Debug, io};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

use crate::model::error::{Error, Result};

/// Bytes that the kernel puts into one answer at most.
const ANSWER: usize = 1 << 16;

/// Asks, over a socket of this netlink protocol, and calls `visit` with each entry of the answer.
///
/// # Errors
///
/// What the kernel says, as an [`io::Error`], or that its answer is not understood.
pub fn dump<M>(protocol: isize, question: M, mut visit: impl FnMut(M)) -> Result<()>
where
    M: Debug + NetlinkDeserializable + NetlinkSerializable,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answer = Vec::with_capacity(ANSWER);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest)?;
            match message.payload {
                NetlinkPayload::InnerMessage(entry) => visit(entry),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(io::Error::from(error).into()),
                _ => return Err(Error::text("the kernel's answer is not understood")),
            }
            let length = usize::try_from(message.header.length)?.next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
