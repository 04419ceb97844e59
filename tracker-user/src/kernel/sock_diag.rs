//! This network namespace's TCP sockets, as the kernel's sock_diag tells.

use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::{
    kernel::netlink_dump::dump,
    model::error::{Context, Result},
};

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
        dump(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request), |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                visit(&response);
            }
        })
        .context("asking the kernel for its sockets (sock_diag: CONFIG_INET_DIAG)")?;
    }
    Ok(())
}
