//! SYN cookies: what a SYN is answered with, and what comes back.
//!
//! Promised: what was made is accepted for as long as its page says, with what was agreed on. What was altered, in any bit of the
//! acknowledgment, is judged as a model with the standard library's SipHash-2-4 judges it. The SYN,ACK is well-formed, its checksum
//! is right, and it offers nothing that the client or the host did not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracker_common::{
    answer::{MOST, Terms, write},
    cookie::{
        Agreed, Cookie, DatedKey, Keys, PERIOD_SHIFT, Refused, check, make, timestamp_clock,
        was_sent,
    },
    key::{FlowKey, mapped},
    packet::Packet,
    protect::{Listener, feature},
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
};
use tracker_fuzz::{cookie::Model, frame, input::Input, reached::reached};

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    // A thousand years, and hosts that share keys; a clock that runs over is not looked at.
    let now_ns = input.u64() >> 3;
    let keys = Keys {
        clock_ns: input.u64() >> 2,
        skew_ns: input.u64() >> 30,
        keys: [key(&mut input), key(&mut input)].map(|mut key| {
            // Near the present, or anywhere.
            if key.since & 1 == 0 {
                let now = (now_ns >> PERIOD_SHIFT) as u32;
                key.since = now.wrapping_add((key.since >> 1) % 16).wrapping_sub(8);
            }
            key
        }),
    };
    let syn = syn(&mut input);
    let listener = listener(&mut input);
    let agreed = Agreed::on(&syn, &listener);
    let model = Model { keys: &keys };

    let made = make(&keys, &syn, agreed, now_ns);
    assert_eq!(made, model.make(&syn, agreed, now_ns));
    let Some(cookie) = made else {
        reached(|| "no key");
        return;
    };
    answer(&syn, &listener, agreed, &cookie, now_ns);
    comes_back(&keys, &syn, agreed, &cookie, now_ns, &mut input);
});

fn key(input: &mut Input<'_>) -> DatedKey {
    DatedKey {
        key: [input.u64(), input.u64()],
        since: input.u32(),
        present: u32::from(input.u8() & 3 != 3),
    }
}

fn syn(input: &mut Input<'_>) -> Packet {
    let kind = input.u8();
    // An IPv6 address that is mapped is in no packet that is read.
    let address = |mut bytes: [u8; 16]| {
        if kind & 1 == 0 {
            return mapped([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        bytes[0] |= 0x20;
        bytes
    };
    let (source, destination) = (address(input.address()), address(input.address()));
    let ports = [input.u16(), input.u16()].map(u16::to_be_bytes);
    let (key, from) = FlowKey::new((&source, ports[0]), (&destination, ports[1]), 0);
    let mut options = [0; 64];
    let len = usize::from(input.u8() % 41);
    options[..len].fill_with(|| input.u8());
    let options = SynOptions::parse(&options, len);
    let ecn = if kind & 2 == 0 { Flags(0) } else { Flags::ECE.with(Flags::CWR) };
    let segment = Segment {
        seq: Seq(input.u32()),
        flags: Flags::SYN.with(ecn),
        options,
        timestamp: options.timestamp,
        has_timestamp: options.has(SynOptions::HAS_TIMESTAMPS),
        ..Segment::default()
    };
    Packet { key, from, segment }
}

fn listener(input: &mut Input<'_>) -> Listener {
    Listener {
        mss: input.u16(),
        window: input.u16(),
        plain_window: input.u16(),
        scale: input.u8() % 15,
        features: input.u8(),
        ..Listener::default()
    }
}

/// The SYN,ACK on the wire, read by the model of frames.
fn answer(syn: &Packet, listener: &Listener, agreed: Agreed, cookie: &Cookie, now_ns: u64) {
    let terms = Terms::new(listener, &agreed, cookie, now_ns);
    let mut bytes = [0xa5; MOST];
    let len = write(&mut bytes, syn, &terms);
    let bytes = &bytes[..len];
    if frame::read(bytes, len, true) == Err("BadIpv6Address") {
        // To a multicast address; a SYN from one is not answered.
        return;
    }
    let tcp = frame::read(bytes, len, true).expect("a SYN,ACK");
    let end = |end: tracker_common::key::End| (syn.key.addresses[end.index()], syn.key.port(end));
    assert_eq!((tcp.destination, tcp.source), (end(syn.from), end(syn.from.other())));
    assert_eq!((tcp.seq, tcp.ack), (cookie.isn.0, syn.segment.seq.0.wrapping_add(1)));
    assert_eq!(tcp.flags & !0x40, 0x12);
    assert_eq!((tcp.payload, tcp.is_fragment), (0, false));
    assert_eq!(frame::tcp_checksum(bytes), 0xffff, "the checksum is wrong: {bytes:02x?}");

    let said = frame::options(&tcp.options.expect("all of it is there"));
    let offered = &syn.segment.options;
    let both = |option, feature| offered.has(option) && listener.has(feature);
    assert_eq!(said.scale.is_some(), both(SynOptions::HAS_WINDOW_SCALE, feature::WINDOW_SCALE));
    assert_eq!(said.sack, both(SynOptions::HAS_SACK, feature::SACK));
    assert_eq!(said.timestamps.is_some(), both(SynOptions::HAS_TIMESTAMPS, feature::TIMESTAMPS));
    assert_eq!(said.mss, Some(listener.mss).filter(|mss| *mss != 0));
    assert!(!said.malformed && !said.fast_open && !said.mptcp && !said.signed && !said.is_clamped);
    if let Some([_, echo]) = said.timestamps {
        assert_eq!(echo, offered.timestamp.0);
    }
    let is_ecn = syn.segment.has(Flags::ECE.with(Flags::CWR)) && listener.has(feature::ECN);
    assert_eq!(tcp.flags & 0x40 != 0, is_ecn);
    let least = if syn.key.is_ipv4() { 536 } else { 1220 };
    assert!(agreed.mss(&syn.key.addresses[0]) <= offered.mss.max(least));
    reached(|| format!("an answer over IPv{}", if syn.key.is_ipv4() { 4 } else { 6 }));
}

/// The acknowledgment, perhaps altered, after a while.
fn comes_back(
    keys: &Keys,
    syn: &Packet,
    agreed: Agreed,
    cookie: &Cookie,
    made_ns: u64,
    input: &mut Input<'_>,
) {
    let after_ns = input.u64() >> 24;
    let now_ns = made_ns + after_ns;
    let what = input.u8();
    let mut ack = *syn;
    ack.segment = Segment {
        seq: syn.segment.seq.add(1),
        ack: cookie.isn.add(1),
        flags: Flags::ACK,
        ..Segment::default()
    };
    let mut timestamps = agreed.timestamps;
    let mut echo = Seq(timestamp_clock(made_ns).wrapping_add(cookie.timestamp_offset));
    let mut is_altered = false;
    let mut alter = |number: &mut u32, bit: u8| {
        if what & bit != 0 {
            let mask = input.u32();
            *number ^= mask;
            is_altered |= mask != 0;
        }
    };
    alter(&mut ack.segment.ack.0, 1);
    alter(&mut ack.segment.seq.0, 2);
    let mut is_echo_altered = 0;
    alter(&mut is_echo_altered, 4);
    echo.0 ^= is_echo_altered;
    if what & 8 != 0 {
        ack.key.ports[usize::from(what >> 7)][1] ^= 1 + (what >> 4);
        is_altered = true;
    }
    if what & 16 != 0 {
        timestamps = !timestamps;
        is_altered = true;
    }

    let checked = check(keys, &ack, timestamps, now_ns);
    let model = Model { keys };
    assert_eq!(checked, model.check(&ack, timestamps, now_ns));
    let periods = ((now_ns + keys.clock_ns + keys.skew_ns) >> PERIOD_SHIFT)
        - ((made_ns + keys.clock_ns) >> PERIOD_SHIFT);
    match checked {
        Ok((found, again)) => {
            let is_sent = was_sent(keys, &again, echo, now_ns);
            assert_eq!(is_sent, model.was_sent(&ack, timestamps, echo, now_ns));
            if !is_altered {
                assert_eq!((found, again.isn), (agreed, cookie.isn));
                assert!(is_sent && periods <= 2, "{periods}");
            }
            reached(|| if is_altered { "accepted, and altered" } else { "accepted" });
        }
        Err(why) => {
            assert!(is_altered || periods > 2, "{why:?}");
            assert!(why != Refused::Replayed);
            reached(|| why.name());
        }
    }
}
