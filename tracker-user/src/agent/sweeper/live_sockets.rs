//! Connections whose time is over by the clock, but whose sockets on this host are still there: nothing has to be sent on a
//! connection to keep it open.

use std::{collections::HashSet, net::IpAddr, time::Instant};

use netlink_packet_sock_diag::inet::{ExtensionFlags, StateFlags};
use tracker_common::{
    key::{Address, FlowKey, mapped},
    state::State,
    sweep::{Removal, lives_with_its_socket},
};

use crate::{agent::condition::is_shortage, kernel::sock_diag::each_socket, model::error::Result};

/// Asking for sockets may take one part in so many of the time. A host that has a million of them is asked seldom, and due
/// flows wait meanwhile.
const SHARE: u32 = 50;

/// Which flows live on.
#[derive(Debug, Default)]
pub(super) struct LiveSockets {
    not_before: Option<Instant>,
    has_warned: bool,
}

impl LiveSockets {
    /// Takes those from `due` that stay: their sockets are there, or it is too early to ask. Returns how many have sockets.
    pub(super) fn keep(&mut self, due: &mut Vec<Removal>) -> usize {
        // Those of which no socket was found; at first that is all.
        let mut orphans: HashSet<Ends> =
            due.iter().filter(|removal| depends_on_a_socket(removal)).map(ends).collect();
        if orphans.is_empty() {
            return 0;
        }
        let start = Instant::now();
        if self.not_before.is_some_and(|until| start < until) {
            due.retain(|removal| !depends_on_a_socket(removal));
            return 0;
        }
        // After the flows were judged: a socket that was there then, and is closed meanwhile, changes its flow.
        if let Err(error) = remove_connected(&mut orphans) {
            if is_shortage(&error) {
                // It is asked again at the next sweep.
                due.retain(|removal| !depends_on_a_socket(removal));
                return 0;
            }
            if !std::mem::replace(&mut self.has_warned, true) {
                tracing::warn!(
                    "silent connections are forgotten when their time is over: {error:#}"
                );
            }
            return 0;
        }
        self.not_before = Some(Instant::now() + start.elapsed() * (SHARE - 1));
        let before = due.len();
        due.retain(|removal| !depends_on_a_socket(removal) || orphans.contains(&ends(removal)));
        before - due.len()
    }
}

fn depends_on_a_socket(removal: &Removal) -> bool {
    State::ALL
        .into_iter()
        .any(|state| state as u32 == removal.state && lives_with_its_socket(state))
}

/// Both ends of a connection, in the order of its key. A socket knows no zone.
type Ends = ([Address; 2], [[u8; 2]; 2]);

fn ends(removal: &Removal) -> Ends {
    (removal.key.addresses, removal.key.ports)
}

/// Removes the ends of every connected socket of this network namespace.
fn remove_connected(from: &mut HashSet<Ends>) -> Result<()> {
    let states = StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::CLOSING
        | StateFlags::LAST_ACK;
    each_socket(&states, &ExtensionFlags::empty(), |socket| {
        let id = &socket.header.socket_id;
        let (source, destination) = (address(id.source_address), address(id.destination_address));
        let (key, _) = FlowKey::new(
            (&source, id.source_port.to_be_bytes()),
            (&destination, id.destination_port.to_be_bytes()),
            0,
        );
        from.remove(&(key.addresses, key.ports));
    })
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}
