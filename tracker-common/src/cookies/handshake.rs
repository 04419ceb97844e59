//! The handshake that a cookie stands for. Nobody remembered it, so that both its segments are made again from what the
//! cookie holds, and tracked like any other: no second rule says what an open connection is.

use crate::{
    cookie::{LIFETIME_NS, timestamp_clock},
    key::{FlowKey, is_mapped},
    packet::Packet,
    protect::{Accepted, Listener, feature},
    segment::{Flags, Segment, SynOptions},
    seq::Seq,
};

/// The SYN of the connection that `arrived` opens; `timestamp` is that segment's. Its window is the largest that the
/// connection's first window allows.
#[inline(always)]
#[must_use]
pub fn syn(accepted: &Accepted, arrived: &Packet, timestamp: u32) -> Segment {
    let mut flags = Flags::SYN;
    if accepted.features & feature::ECN != 0 {
        flags = flags.with(Flags::ECE).with(Flags::CWR);
    }
    let scale = shift(accepted.client_scale);
    let window = u32::from(arrived.segment.window) << scale;
    #[allow(clippy::cast_possible_truncation)] // limited
    let window = window.min(0xffff) as u16;
    let numbers = [accepted.client_isn, 0];
    let sizes = Sizes { window, mss: accepted.mss, scale };
    segment(accepted, &arrived.key, numbers, flags, &sizes, timestamp)
}

/// The SYN,ACK that was sent for `listener`; `timestamp` is what `arrived` echoes.
#[inline(always)]
#[must_use]
pub fn syn_ack(
    accepted: &Accepted,
    arrived: &Packet,
    listener: &Listener,
    timestamp: u32,
) -> Segment {
    let mut flags = Flags::SYN.with(Flags::ACK);
    if accepted.features & feature::ECN != 0 {
        flags = flags.with(Flags::ECE);
    }
    let numbers = [accepted.cookie, accepted.client_isn.wrapping_add(1)];
    let window = listener.first_window(accepted.features & feature::TIMESTAMPS != 0);
    let sizes = Sizes { window, mss: listener.mss, scale: accepted.host_scale };
    segment(accepted, &arrived.key, numbers, flags, &sizes, timestamp)
}

/// Nanoseconds since boot when the SYN was answered: by the timestamp that is echoed at `now_ns`, or `now_ns` where none is.
#[inline(always)]
#[must_use]
pub fn answered_ns(accepted: &Accepted, timestamp_echo: u32, now_ns: u64) -> u64 {
    if accepted.features & feature::TIMESTAMPS == 0 {
        return now_ns;
    }
    let clock = timestamp_clock(now_ns).wrapping_add(accepted.timestamp_offset);
    let age_ns = u64::from(clock.wrapping_sub(timestamp_echo)) * 1_000_000;
    if age_ns < LIFETIME_NS { now_ns.saturating_sub(age_ns) } else { now_ns }
}

/// The shift of a window scale; of 15, which stands for none, 0.
#[inline(always)]
const fn shift(scale: u8) -> u8 {
    if scale > 14 { 0 } else { scale }
}

/// What one end says of itself.
struct Sizes {
    window: u16,
    mss: u16,
    scale: u8,
}

#[inline(always)]
fn segment(
    accepted: &Accepted,
    key: &FlowKey,
    [seq, ack]: [u32; 2],
    flags: Flags,
    sizes: &Sizes,
    timestamp: u32,
) -> Segment {
    let has = |bit| accepted.features & bit != 0;
    let mut present = 0;
    let mut ip_len = if is_mapped(&key.addresses[0]) { 20 + 20 + 4 } else { 40 + 20 + 4 };
    if has(feature::WINDOW_SCALE) {
        present |= SynOptions::HAS_WINDOW_SCALE;
        ip_len += 4;
    }
    if has(feature::SACK) {
        present |= SynOptions::HAS_SACK;
    }
    if has(feature::TIMESTAMPS) {
        present |= SynOptions::HAS_TIMESTAMPS;
        ip_len += 12;
    } else if has(feature::SACK) {
        ip_len += 4;
    }
    let timestamp = Seq(timestamp);
    Segment {
        seq: Seq(seq),
        ack: Seq(ack),
        flags,
        window: sizes.window,
        options: SynOptions {
            mss: sizes.mss,
            window_scale: sizes.scale,
            present,
            timestamp,
            timestamp_echo: Seq(0),
        },
        timestamp,
        has_timestamp: has(feature::TIMESTAMPS),
        ip_len,
        ..Segment::default()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};

    use super::*;
    use crate::{
        answer::{MOST, Terms, write},
        cookie::Agreed,
        packet::{LinkLayer, Parsed, parse},
    };

    fn parsed(bytes: &[u8]) -> Packet {
        let mut parsed = Parsed::default();
        parse(bytes, LinkLayer::RawIp, 0, &mut parsed).expect("a TCP packet");
        parsed.packet
    }

    /// A client's SYN with the options of these features, as Linux orders them.
    fn client_syn(v6: bool, features: u8) -> Packet {
        let has = |bit| features & bit != 0;
        let mut options = vec![TcpOptionElement::MaximumSegmentSize(1440)];
        if has(feature::SACK) {
            options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
        }
        if has(feature::TIMESTAMPS) {
            options.push(TcpOptionElement::Timestamp(1234, 0));
        }
        if has(feature::WINDOW_SCALE) {
            options.push(TcpOptionElement::Noop);
            options.push(TcpOptionElement::WindowScale(9));
        }
        let builder = if v6 {
            PacketBuilder::ipv6([9; 16], [1; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64)
        };
        let mut builder =
            builder.tcp(40_000, 443, 7000, 64_240).syn().options(&options).expect("they fit");
        if has(feature::ECN) {
            builder = builder.ece().cwr();
        }
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[]).expect("it can be written");
        parsed(&bytes)
    }

    #[test]
    fn both_segments_are_those_that_were_sent() {
        let listener = Listener {
            mss: 1460,
            window: 65_160,
            plain_window: 64_240,
            scale: 7,
            features: u8::MAX,
            ..Listener::default()
        };
        for (features, v6) in (0..16).flat_map(|features| [(features, false), (features, true)]) {
            let sent = client_syn(v6, features);
            let agreed = Agreed::on(&sent, &listener);
            let cookie = crate::cookie::Cookie { isn: Seq(99), timestamp_offset: 1000 };
            let terms = Terms::new(&listener, &agreed, &cookie, 5_000_000_000);
            let mut bytes = [0; MOST];
            let len = write(&mut bytes, &sent, &terms);
            let answer = parsed(&bytes[..len]);

            let accepted = Accepted {
                client_isn: 7000,
                cookie: 99,
                timestamp_offset: 1000,
                mss: agreed.mss(&sent.key.addresses[0]),
                client_scale: agreed.scale,
                host_scale: listener.scale,
                features,
                ..Accepted::default()
            };
            let mut arrived = sent;
            arrived.segment = Segment { window: 126, ..Segment::default() };
            let scaled = features & feature::WINDOW_SCALE != 0;
            let has_timestamps = features & feature::TIMESTAMPS != 0;

            let made = syn(&accepted, &arrived, if has_timestamps { 1234 } else { 0 });
            assert_eq!(made.window, if scaled { 126 << 9 } else { 126 });
            let made = Segment { window: sent.segment.window, ..made };
            // Linux pads window scale and timestamps otherwise than an answer.
            let made = Segment { ip_len: sent.segment.ip_len, ..made };
            assert_eq!(made, sent.segment, "{features} {v6}");

            let timestamp = if has_timestamps { 6000 } else { 0 };
            let mut made = syn_ack(&accepted, &arrived, &listener, timestamp);
            if has_timestamps {
                made.options.timestamp_echo = Seq(1234);
            }
            if !scaled {
                made.options.window_scale = 0;
            }
            assert_eq!(made, answer.segment, "{features} {v6}");
            assert_eq!(
                answered_ns(&accepted, 6000, 5_070_000_000),
                if has_timestamps { 5_000_000_000 } else { 5_070_000_000 }
            );
        }
    }

    #[test]
    fn an_echo_that_makes_no_sense_says_nothing() {
        let accepted = Accepted { features: feature::TIMESTAMPS, ..Accepted::default() };
        let now_ns = 500_000_000_000;
        // From the future, and older than any cookie.
        assert_eq!(answered_ns(&accepted, 500_001, now_ns), now_ns);
        assert_eq!(answered_ns(&accepted, 300_000, now_ns), now_ns);
        assert_eq!(answered_ns(&accepted, 499_000, now_ns), 499_000_000_000);
    }
}
