//! Community ID, version 1: the hash of a connection's ends by which other tools (Zeek, Suricata, Elastic) name the same
//! connection (<https://github.com/corelight/community-id-spec>).

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use crate::model::record::Ends;

/// IANA's number of TCP.
const TCP: u8 = 6;

/// The Community ID of a TCP connection with the seed 0, which all tools have by default. Both directions have the same.
#[must_use]
pub fn community_id(ends: &Ends) -> String {
    let mut hash = Sha1::new();
    let [(one, one_port), (other, other_port)] = ordered(ends);
    hash.update([0, 0]);
    hash.update(bytes(one));
    hash.update(bytes(other));
    hash.update([TCP, 0]);
    hash.update(one_port.to_be_bytes());
    hash.update(other_port.to_be_bytes());
    format!("1:{}", STANDARD.encode(hash.finalize()))
}

/// Both ends, the one with the lower address (then port) first, whoever opened the connection.
pub(super) fn ordered(ends: &Ends) -> [(IpAddr, u16); 2] {
    let mut both = [(ends.src, ends.sport), (ends.dst, ends.dport)];
    both.sort_unstable();
    both
}

/// An address as it is on the wire.
pub(super) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        for (src, sport, dst, dport, expected) in [
            ("128.232.110.120", 34855, "66.35.250.204", 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (
                "2001:470:e5bf:dead:4957:2174:e82c:4887",
                63943,
                "2607:f8b0:400c:c03::1a",
                25,
                "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
        ] {
            let address = |text: &str| text.parse().expect("an address");
            let ends = Ends { src: address(src), dst: address(dst), sport, dport };
            assert_eq!(community_id(&ends), expected);
            assert_eq!(community_id(&ends.reversed()), expected);
        }
    }
}
