//! Captures: pcap and pcapng, whole, cut, or nonsense.
//!
//! Promised: no panic, and no more memory than a record takes. A file is read in the same way in one piece and byte by byte. No
//! position is behind its end, no packet has more bytes than it had on the wire, and a host can track every frame.
#![no_main]

use std::io::{Cursor, Read};

use libfuzzer_sys::fuzz_target;
use tracker_common::{
    config::InterfaceConfig,
    counters::Hook,
    simulator::{Captured, Host},
};
use tracker_fuzz::reached::reached;
use tracker_user::cli::capture::Capture;

/// The largest packet that is believed, and a header in front of it.
const LARGEST: usize = (1 << 20) + 14;

/// Returns a few bytes at a time.
struct Trickle(Cursor<Vec<u8>>, usize);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 % 7 + 1;
        let most = self.1.min(buffer.len());
        self.0.read(&mut buffer[..most])
    }
}

/// What there is to read.
#[derive(Debug, Default, Eq, PartialEq)]
struct Found {
    packets: Vec<(u64, i64, u32, Vec<u8>)>,
    end: String,
    position: u64,
}

fn read(reader: Box<dyn Read + Send>, len: u64) -> Found {
    let mut found = Found::default();
    let mut capture = match Capture::new(reader) {
        Ok(capture) => capture,
        Err(error) => return Found { end: format!("{error:#}"), ..found },
    };
    loop {
        match capture.next() {
            Ok(Some(packet)) => {
                assert!(
                    packet.frame.len() <= LARGEST && packet.wire_len as usize >= packet.frame.len()
                );
                let frame = packet.frame.to_vec();
                found.packets.push((packet.number, packet.timestamp_ns, packet.wire_len, frame));
            }
            Ok(None) => break,
            Err(broken) => {
                assert!(broken.offset <= len && broken.after_packet == capture.packets());
                found.end = broken.to_string();
                break;
            }
        }
        assert!(capture.position() <= len);
    }
    found.position = capture.position();
    let links = capture.links().map(|link| link.packets).sum::<u64>();
    assert_eq!((links, links - capture.skipped()), (capture.packets(), found.packets.len() as u64));
    reached(|| {
        format!("{}{}", capture.format(), if found.end.is_empty() { "" } else { ", broken" })
    });
    for link in capture.links() {
        reached(|| format!("{}: {}", capture.format(), link.name.unwrap_or("another link type")));
    }
    found
}

fuzz_target!(|data: &[u8]| {
    let len = data.len() as u64;
    let whole = read(Box::new(Cursor::new(data.to_vec())), len);
    let trickled = read(Box::new(Trickle(Cursor::new(data.to_vec()), data.len())), len);
    assert_eq!(whole, trickled);
    let mut host = Host::default();
    for (_, timestamp_ns, wire_len, frame) in &whole.packets {
        let captured = Captured { bytes: frame, wire_len: *wire_len as usize };
        host.frame(
            &captured,
            InterfaceConfig::default(),
            Hook::Ingress,
            timestamp_ns.unsigned_abs(),
        );
    }
    let counted = host.packets(0, Hook::Ingress).iter().sum::<u64>();
    assert_eq!(counted, whole.packets.len() as u64);
});
