//! What an interface's driver can do for XDP, as the kernel's `netdev` family tells (Linux 6.3 and newer; its numbers are
//! those of include/uapi/linux/netdev.h).

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
    NlaBuffer, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::model::error::{Context, Error, Result};

const FAMILY: &str = "netdev";
/// NETDEV_CMD_DEV_GET.
const DEV_GET: u8 = 1;
/// NETDEV_A_DEV_IFINDEX.
const IFINDEX: u16 = 1;
/// NETDEV_A_DEV_XDP_FEATURES.
const XDP_FEATURES: u16 = 3;
/// NETDEV_XDP_ACT_BASIC: the driver runs XDP programs that pass, drop and answer.
const BASIC: u64 = 1;
/// Bytes of an answer at most; a family with all of its commands is some 2,000.
const ANSWER: usize = 1 << 15;

/// Whether the driver of this interface runs XDP programs by itself; `None` where the kernel cannot tell.
///
/// # Errors
///
/// What the kernel says.
pub fn has_native_xdp(ifindex: u32) -> Result<Option<bool>> {
    let socket = connect().context("opening generic netlink")?;
    let Some(family) = family(&socket)? else { return Ok(None) };
    let request = GenlMessage::from_payload(Device(vec![DefaultNla::new(
        IFINDEX,
        ifindex.to_ne_bytes().to_vec(),
    )]));
    let Some(Device(attributes)) = ask(&socket, family, request)? else {
        return Err(Error::text(format!("the kernel knows no interface with the index {ifindex}")));
    };
    Ok(attributes.iter().find(|attribute| attribute.kind() == XDP_FEATURES).and_then(|attribute| {
        let mut bytes = [0; 8];
        if attribute.value_len() != bytes.len() {
            return None;
        }
        attribute.emit_value(&mut bytes);
        Some(u64::from_ne_bytes(bytes) & BASIC != 0)
    }))
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The family's number, which the kernel gives it when it starts.
fn family(socket: &Socket) -> Result<Option<u16>> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
    });
    Ok(ask(socket, 0, request)?.and_then(|answer| {
        answer.nlas.into_iter().find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(number) => Some(number),
            _ => None,
        })
    }))
}

/// The kernel's answer; `None` where it knows nothing by that name or number.
fn ask<F>(socket: &Socket, family: u16, mut request: GenlMessage<F>) -> Result<Option<F>>
where
    F: GenlFamily
        + Emitable
        + ParseableParametrized<[u8], GenlHeader>
        + Clone
        + std::fmt::Debug
        + PartialEq
        + Eq,
{
    request.set_resolved_family_id(family);
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    match NetlinkMessage::<GenlMessage<F>>::deserialize(&answer)?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(Some(message.into_parts().1)),
        NetlinkPayload::Error(error) => match io::Error::from(error) {
            error if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            error => Err(error.into()),
        },
        _ => Err(Error::text("the kernel's answer is not understood")),
    }
}

/// A message about an interface: its attributes as they come.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Device(Vec<DefaultNla>);

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer)
            .map(|attribute| DefaultNla::parse(&NlaBuffer::new_checked(attribute?.into_inner())?));
        Ok(Self(attributes.collect::<Result<_, DecodeError>>()?))
    }
}
