//! TCP checksums, for those who ask for them: the kernel programs do not look at them, because a host's own packets
//! get theirs from the network card.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::cli::capture::Packet;

/// Whether it is a whole TCP packet and its checksum is wrong. The checksum of a packet that was cut off, or of a fragment,
/// cannot be verified.
#[must_use]
pub(super) fn is_wrong(packet: &Packet<'_>) -> bool {
    if packet.frame.len() < packet.wire_len as usize {
        return false;
    }
    let Ok(sliced) = SlicedPacket::from_ethernet(packet.frame) else { return false };
    let (Some(net), Some(TransportSlice::Tcp(tcp))) = (&sliced.net, &sliced.transport) else {
        return false;
    };
    let right = match net {
        // A length of 0 says that the sender's network card was to cut it into packets.
        NetSlice::Ipv4(ip) if ip.header().total_len() == 0 => return false,
        NetSlice::Ipv6(ip) if ip.header().payload_length() == 0 => return false,
        NetSlice::Ipv4(ip) => {
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
        }
        NetSlice::Ipv6(ip) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
        }
        NetSlice::Arp(_) => return false,
    };
    right.is_ok_and(|right| right != tcp.checksum())
}
