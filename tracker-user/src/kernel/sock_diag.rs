//! This network namespace's TCP sockets, as the kernel's sock_diag tells.

use std::io;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

/// Octets that the kernel puts into one answer at most.
const ANSWER: usize = 1 << 16;

/// Calls `visit` with every TCP socket in one of these states, over IPv4 and IPv6.
///
/// # Errors
///
/// What the kernel says.
pub fn each_socket(
    states: &StateFlags,
    extensions: &ExtensionFlags,
    mut visit: impl FnMut(&InetResponse),
) -> Result<()> {
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
            states: states.clone(),
            socket_id: any,
        };
        dump(request, &mut visit)
            .context("asking the kernel for its sockets (sock_diag: CONFIG_INET_DIAG)")?;
    }
    Ok(())
}

fn dump(request: InetRequest, visit: &mut impl FnMut(&InetResponse)) -> Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    socket.send(&octets, 0)?;

    let mut answer = Vec::with_capacity(ANSWER);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    visit(&response);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    return Err(io::Error::from(error).into());
                }
                _ => bail!("the kernel's answer is not understood"),
            }
            let length = usize::try_from(message.header.length)?.next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
