//! Templates: which elements a record has, in which order, and where each value comes from.
//!
//! Records wait in spools as they were encoded. So the fields of a template never change: other fields have another number.

use std::{borrow::Cow, net::IpAddr};

use jiff::Timestamp;
use tracker_common::segment::Flags;

use super::element::{self as e, Element};
use crate::{
    export::record::ExportRecord,
    model::{
        event::parts::{SegmentView, ViolationView},
        record::{Ends, Record},
    },
};

/// A field: its element, and where its value comes from.
pub(super) struct Column<F> {
    pub element: Element,
    pub value: F,
}

/// A field of a connection.
type OfConnection = Column<for<'a> fn(&Connection<'a>) -> Value<'a>>;

/// A field of a breach.
type OfBreach = Column<for<'a> fn(&Breach<'a>) -> Value<'a>>;

/// A value. Its form is that of the element's kind.
#[derive(Debug)]
pub(super) enum Value<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Address(IpAddr),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    fn text(text: &'a str) -> Self {
        Self::Text(text.into())
    }

    fn optional(text: &'a Option<String>) -> Self {
        Self::text(text.as_deref().unwrap_or_default())
    }

    /// Appends it; text with its length, cut after [`LONGEST_TEXT`] bytes (RFC 7011, section 7).
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::U8(value) => to.push(*value),
            Self::U16(value) => to.extend_from_slice(&value.to_be_bytes()),
            Self::U32(value) => to.extend_from_slice(&value.to_be_bytes()),
            Self::U64(value) => to.extend_from_slice(&value.to_be_bytes()),
            Self::Address(IpAddr::V4(address)) => to.extend_from_slice(&address.octets()),
            Self::Address(IpAddr::V6(address)) => to.extend_from_slice(&address.octets()),
            Self::Text(text) => {
                let text = shortened(text);
                let length = u16::try_from(text.len()).unwrap_or(0);
                match u8::try_from(length) {
                    Ok(length) if length < 255 => to.push(length),
                    _ => {
                        to.push(255);
                        to.extend_from_slice(&length.to_be_bytes());
                    }
                }
                to.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn shortened(text: &str) -> &str {
    let most = LONGEST_TEXT.min(text.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// A connection that ended, or goes on.
#[derive(Clone, Copy)]
pub(super) struct Connection<'a> {
    pub record: &'a ExportRecord,
    pub flow: &'a Record,
}

/// A breach of a rule.
#[derive(Clone, Copy)]
pub(super) struct Breach<'a> {
    pub record: &'a ExportRecord,
    pub violation: &'a ViolationView,
    /// Those of the segment, its sender first; those of the flow where the agent found the breach.
    pub ends: Ends,
}

/// Connections over IPv4, with the elements of the registry.
pub(super) const CONNECTION_4: u16 = 256;
/// Connections over IPv6, with the elements of the registry.
pub(super) const CONNECTION_6: u16 = 257;
/// Connections over IPv4, with own elements after those of [`CONNECTION_4`].
pub(super) const OWN_CONNECTION_4: u16 = 258;
/// Connections over IPv6, with own elements after those of [`CONNECTION_6`].
pub(super) const OWN_CONNECTION_6: u16 = 259;
/// Breaches over IPv4.
pub(super) const BREACH_4: u16 = 260;
/// Breaches over IPv6.
pub(super) const BREACH_6: u16 = 261;
/// Options: records that were lost (RFC 7011, section 4.3).
pub(super) const NOT_SENT: u16 = 262;
/// Options: the host.
pub(super) const HOST: u16 = 263;
/// Options: the host, the agent and the boot.
pub(super) const OWN_HOST: u16 = 264;
/// Options: names and types of own elements (RFC 5610).
pub(super) const TYPES: u16 = 265;

/// Every template: its number, how many of its fields are the scope (0 where it has no options), and its elements.
pub(super) fn all(has_own: bool) -> Vec<(u16, u16, Vec<Element>)> {
    let mut numbers = vec![CONNECTION_4, CONNECTION_6, NOT_SENT];
    numbers.extend(if has_own { &WITH_OWN[..] } else { &[HOST] });
    let scopes = |number| match number {
        NOT_SENT | HOST | OWN_HOST => 1,
        TYPES => 2,
        _ => 0,
    };
    numbers.into_iter().map(|number| (number, scopes(number), elements(number))).collect()
}

const WITH_OWN: [u16; 6] =
    [OWN_CONNECTION_4, OWN_CONNECTION_6, BREACH_4, BREACH_6, OWN_HOST, TYPES];

/// Whether records of a spool may be of this template, which has own elements.
pub(super) fn is_own(number: u16) -> bool {
    (OWN_CONNECTION_4..=BREACH_6).contains(&number)
}

/// The elements of a template; none where there is no such one.
pub(super) fn elements(number: u16) -> Vec<Element> {
    let of_connection = |own: &[OfConnection]| {
        let ends = if matches!(number, CONNECTION_4 | OWN_CONNECTION_4) {
            [e::SOURCE_4, e::DESTINATION_4]
        } else {
            [e::SOURCE_6, e::DESTINATION_6]
        };
        let columns = REGISTERED.iter().chain(own).map(|column| column.element);
        ends.into_iter().chain(columns).collect()
    };
    match number {
        CONNECTION_4 | CONNECTION_6 => of_connection(&[]),
        OWN_CONNECTION_4 | OWN_CONNECTION_6 => of_connection(&OWN),
        BREACH_4 => of_breach([e::SOURCE_4, e::DESTINATION_4]),
        BREACH_6 => of_breach([e::SOURCE_6, e::DESTINATION_6]),
        NOT_SENT => vec![e::PROCESS, e::NOT_SENT],
        HOST => vec![e::DOMAIN, e::DOMAIN_NAME],
        OWN_HOST => vec![e::DOMAIN, e::DOMAIN_NAME, e::AGENT, e::BOOT],
        // All that RFC 5610 has: libfixbuf ignores records with fewer.
        TYPES => vec![
            e::ENTERPRISE,
            e::ELEMENT_NUMBER,
            e::ELEMENT_TYPE,
            e::ELEMENT_SEMANTICS,
            e::ELEMENT_UNITS,
            e::ELEMENT_FROM,
            e::ELEMENT_TO,
            e::ELEMENT_NAME,
            e::ELEMENT_DESCRIPTION,
        ],
        _ => Vec::new(),
    }
}

fn of_breach(ends: [Element; 2]) -> Vec<Element> {
    ends.into_iter().chain(BREACH.iter().map(|column| column.element)).collect()
}

/// The registry's elements of a connection, after its addresses. The only one without a length is the last.
pub(super) const REGISTERED: [OfConnection; 15] = [
    Column { element: e::SOURCE_PORT, value: |it| Value::U16(it.flow.sport) },
    Column { element: e::DESTINATION_PORT, value: |it| Value::U16(it.flow.dport) },
    Column { element: e::PROTOCOL, value: |_| Value::U8(TCP) },
    Column { element: e::FLOW_ID, value: |it| Value::U64(flow_id(it.record)) },
    Column { element: e::START, value: |it| Value::U64(start_ms(it)) },
    Column { element: e::END, value: |it| Value::U64(end_ms(it)) },
    Column { element: e::PACKETS, value: |it| Value::U64(it.flow.orig.packets) },
    Column { element: e::BYTES, value: |it| Value::U64(it.flow.orig.bytes) },
    Column { element: e::REVERSE_PACKETS, value: |it| Value::U64(it.flow.reply.packets) },
    Column { element: e::REVERSE_BYTES, value: |it| Value::U64(it.flow.reply.bytes) },
    Column { element: e::FLAGS, value: |it| Value::U8(flags(it.flow, true)) },
    Column { element: e::REVERSE_FLAGS, value: |it| Value::U8(flags(it.flow, false)) },
    Column { element: e::END_REASON, value: |it| Value::U8(end_reason(it.record)) },
    // Who opened a connection is not known where its start was not seen (RFC 5103, section 6.3.1).
    Column { element: e::DIRECTION, value: |it| Value::U8((!it.flow.midstream).into()) },
    Column { element: e::INTERFACE, value: |it| Value::text(&it.flow.interface) },
];

/// Own elements of a connection, after those of the registry.
pub(super) const OWN: [OfConnection; 15] = [
    Column { element: e::COMMUNITY_ID, value: |it| Value::optional(&it.record.community_id) },
    Column { element: e::CONN_STATE, value: |it| Value::text(&it.flow.conn_state) },
    Column { element: e::HISTORY, value: |it| Value::text(&it.flow.history) },
    Column { element: e::ORIG_STATE, value: |it| Value::text(&it.flow.orig.state) },
    Column { element: e::REPLY_STATE, value: |it| Value::text(&it.flow.reply.state) },
    Column { element: e::ORIG_ISN, value: |it| Value::U32(it.flow.orig.isn.unwrap_or(0)) },
    Column { element: e::REPLY_ISN, value: |it| Value::U32(it.flow.reply.isn.unwrap_or(0)) },
    Column { element: e::FACTS, value: |it| Value::U16(facts(it.flow)) },
    Column { element: e::RTT, value: |it| Value::U32(it.flow.rtt_us.unwrap_or(0)) },
    Column {
        element: e::ORIG_STREAM,
        value: |it| Value::U64(it.flow.orig.stream_bytes.unwrap_or(0)),
    },
    Column {
        element: e::REPLY_STREAM,
        value: |it| Value::U64(it.flow.reply.stream_bytes.unwrap_or(0)),
    },
    Column { element: e::VIOLATIONS, value: |it| Value::U32(it.flow.violations) },
    Column { element: e::BROKEN_RULES, value: |it| Value::Text(broken_rules(it.flow).into()) },
    Column { element: e::ZONE, value: |it| Value::U16(it.flow.zone) },
    Column {
        element: e::REASON,
        value: |it| Value::text(it.record.end.as_ref().map_or("", |end| &end.reason)),
    },
];

/// The elements of a breach, after its addresses.
pub(super) const BREACH: [OfBreach; 19] = [
    Column { element: e::SOURCE_PORT, value: |it| Value::U16(it.ends.sport) },
    Column { element: e::DESTINATION_PORT, value: |it| Value::U16(it.ends.dport) },
    Column { element: e::PROTOCOL, value: |_| Value::U8(TCP) },
    Column { element: e::FLOW_ID, value: |it| Value::U64(flow_id(it.record)) },
    Column { element: e::TIME, value: |it| Value::U64(ms(it.record.time)) },
    Column { element: e::FLAGS, value: |it| Value::U8(it.segment().map_or(0, segment_flags)) },
    Column { element: e::SEQUENCE, value: |it| Value::U32(it.segment().map_or(0, |s| s.seq)) },
    Column {
        element: e::ACKNOWLEDGMENT,
        value: |it| Value::U32(it.segment().map_or(0, |s| s.ack)),
    },
    Column { element: e::WINDOW, value: |it| Value::U16(it.segment().map_or(0, |s| s.window)) },
    Column { element: e::DIRECTION, value: |it| Value::U8(sender(it)) },
    Column { element: e::RULE, value: |it| Value::text(&it.violation.name) },
    Column { element: e::ACTION, value: |it| Value::text(&it.violation.action) },
    Column { element: e::ORIG_STATE, value: |it| Value::text(&it.violation.before.orig) },
    Column { element: e::REPLY_STATE, value: |it| Value::text(&it.violation.before.reply) },
    Column { element: e::PAYLOAD, value: |it| Value::U32(it.segment().map_or(0, |s| s.payload)) },
    Column { element: e::EXPECTED_LOW, value: |it| Value::U32(expected(it).0) },
    Column { element: e::EXPECTED_HIGH, value: |it| Value::U32(expected(it).1) },
    Column { element: e::ACTUAL, value: |it| Value::U32(it.violation.actual.unwrap_or(0)) },
    Column { element: e::COMMUNITY_ID, value: |it| Value::optional(&it.record.community_id) },
];

impl<'a> Breach<'a> {
    fn segment(&self) -> Option<&'a SegmentView> {
        self.record.segment.as_ref()
    }
}

/// The first 64 of the 128 bits of an identity; 0 where there is none.
fn flow_id(record: &ExportRecord) -> u64 {
    let digits = record.id.as_deref().and_then(|id| id.get(..16));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

fn ms(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

fn start_ms(connection: &Connection<'_>) -> u64 {
    ms(connection.flow.created)
}

/// When the last packet came that renewed the flow.
fn end_ms(connection: &Connection<'_>) -> u64 {
    let ns = connection.record.duration_ns.unwrap_or(0);
    start_ms(connection).saturating_add(ns / 1_000_000)
}

/// Flags of the segments that one end sent, as far as the history tells: never PSH, URG, ECE or CWR.
fn flags(flow: &Record, is_opener: bool) -> u8 {
    let letters = flow.history.chars().filter(|letter| letter.is_ascii_uppercase() == is_opener);
    letters.fold(0, |flags, letter| {
        flags
            | match letter.to_ascii_lowercase() {
                's' => SYN,
                'h' => SYN | ACK,
                'a' | 'd' | 't' | 'w' | 'g' => ACK,
                'f' => FIN | ACK,
                'r' => RST,
                'i' => FIN | RST,
                _ => 0,
            }
    })
}

/// Flags by the names that a segment has; AE is in none of the 8 bits.
fn segment_flags(segment: &SegmentView) -> u8 {
    let named = |name| Flags::NAMES.iter().find(|(_, known)| *known == name);
    let flags = segment.flags.split(',').filter_map(named);
    let [_, low] = flags.fold(0, |flags, (flag, _)| flags | flag.0).to_be_bytes();
    low
}

/// Why the record is sent now (IANA's registry of flowEndReason).
fn end_reason(record: &ExportRecord) -> u8 {
    match record.end.as_ref().map(|end| end.reason.as_str()) {
        // Active timeout: it goes on.
        None => 2,
        // Idle timeout.
        Some("timeout") => 1,
        // Forced end.
        Some("deleted") => 4,
        // End of flow detected: FINs, an RST, or a new connection of the same ends.
        Some(_) => 3,
    }
}

/// Whether the sender opened the connection: initiator, reverseInitiator, or arbitrary (RFC 5103, section 6.3.1).
fn sender(breach: &Breach<'_>) -> u8 {
    let is_known = breach.record.flow.as_ref().is_some_and(|flow| !flow.midstream);
    match breach.segment().map(|segment| segment.direction.as_str()) {
        _ if !is_known => 0,
        Some("reply") => 2,
        _ => 1,
    }
}

fn expected(breach: &Breach<'_>) -> (u32, u32) {
    breach.violation.expected.as_ref().map_or((0, 0), |range| (range.low, range.high))
}

fn broken_rules(flow: &Record) -> String {
    let names = flow.broken_rules.iter().flat_map(|rules| rules.keys()).map(String::as_str);
    names.collect::<Vec<_>>().join(",")
}

/// What values of 0 mean, and what has no value: bits of `trackerFacts`.
fn facts(flow: &Record) -> u16 {
    [
        flow.orig.isn.is_some(),
        flow.reply.isn.is_some(),
        flow.rtt_us.is_some(),
        flow.orig.stream_bytes.is_some(),
        flow.reply.stream_bytes.is_some(),
        flow.midstream,
        flow.seen != "both",
        flow.mptcp,
    ]
    .into_iter()
    .enumerate()
    .fold(0, |bits, (at, is_so)| bits | u16::from(is_so) << at)
}

/// The number of TCP among protocols.
const TCP: u8 = 6;

/// Flags of TCP's header (RFC 9293, section 3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bytes of a text at most: broken rules are the longest.
const LONGEST_TEXT: usize = 800;
