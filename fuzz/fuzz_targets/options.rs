//! The options of a SYN.
//!
//! Promised: whatever stands in them, they are read as a plain model reads them, and nothing behind their end is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracker_common::{segment::SynOptions, seq::Seq};
use tracker_fuzz::{frame, reached::reached};

fuzz_target!(|data: &[u8]| {
    let len = data.len().min(SynOptions::MAX);
    let read = |filler: u8| {
        let mut bytes = [filler; 64];
        bytes[..len].copy_from_slice(&data[..len]);
        SynOptions::parse(&bytes, len)
    };
    let options = read(0);
    assert_eq!(options, read(0xff), "what follows the options was read");
    assert_eq!(options, expected(&data[..len]), "{:?}", frame::options(&data[..len]));
});

/// What the model reads, in the tracker's form.
fn expected(options: &[u8]) -> SynOptions {
    let said = frame::options(options);
    let bits = [
        (said.scale.is_some(), SynOptions::HAS_WINDOW_SCALE, "window scale"),
        (said.sack, SynOptions::HAS_SACK, "SACK"),
        (said.timestamps.is_some(), SynOptions::HAS_TIMESTAMPS, "timestamps"),
        (said.fast_open, SynOptions::HAS_FAST_OPEN, "Fast Open"),
        (said.malformed, SynOptions::MALFORMED, "malformed"),
        (said.is_clamped, SynOptions::SCALE_CLAMPED, "scale above 14"),
        (said.signed, SynOptions::HAS_SIGNATURE, "signature"),
        (said.mptcp, SynOptions::HAS_MPTCP, "Multipath TCP"),
    ];
    let mut present = 0;
    for (is_there, bit, name) in bits {
        if is_there {
            present |= bit;
            reached(|| name);
        }
    }
    let [timestamp, timestamp_echo] = said.timestamps.unwrap_or_default().map(Seq);
    SynOptions {
        mss: said.mss.unwrap_or_default(),
        window_scale: said.scale.unwrap_or_default().min(14),
        present,
        timestamp,
        timestamp_echo,
    }
}
