//! Records as they wait in the spool: each is a Set of its own (RFC 7011, section 3.3.2), which needs no other to be read.

use std::net::IpAddr;

use super::template::{self, Breach, Connection, Value};
use crate::{
    export::record::{About, ExportRecord},
    model::record::{Ends, Record},
};

/// Whether a record has a form: connections and lost records always, breaches with own elements only. Starts and ends of SYN cookies
/// are about no flow, and have none.
pub(super) fn has_form(record: &ExportRecord, has_own: bool) -> bool {
    match record.about {
        About::End | About::Update => record.flow.is_some(),
        About::Violation => has_own && ends(record).is_some(),
        About::Lost => true,
        About::Cookie => false,
    }
}

/// The Set of a record; `None` where it has no form. `lost` is how many records were lost since the process `process` began.
pub(super) fn of(record: &ExportRecord, has_own: bool, process: u32, lost: u64) -> Option<Vec<u8>> {
    if !has_form(record, has_own) {
        return None;
    }
    match (record.about, &record.flow) {
        (About::Lost, _) => set(template::NOT_SENT, |to| {
            Value::U32(process).put(to);
            Value::U64(lost).put(to);
        }),
        (About::Violation, _) => {
            let (violation, ends) = (record.violation.as_ref()?, ends(record)?);
            let breach = Breach { record, violation, ends };
            let number = if ends.src.is_ipv4() { template::BREACH_4 } else { template::BREACH_6 };
            set(number, |to| {
                addresses(&ends, to);
                template::BREACH.iter().for_each(|column| (column.value)(&breach).put(to));
            })
        }
        (_, Some(flow)) => {
            let connection = Connection { record, flow };
            let number = match (flow.src, has_own) {
                (IpAddr::V4(_), false) => template::CONNECTION_4,
                (IpAddr::V6(_), false) => template::CONNECTION_6,
                (IpAddr::V4(_), true) => template::OWN_CONNECTION_4,
                (IpAddr::V6(_), true) => template::OWN_CONNECTION_6,
            };
            let own: &[_] = if has_own { &template::OWN } else { &[] };
            set(number, |to| {
                addresses(&flow.ends(), to);
                let columns = template::REGISTERED.iter().chain(own);
                columns.for_each(|column| (column.value)(&connection).put(to));
            })
        }
        _ => None,
    }
}

/// The ends of a breach, the sender of its segment first.
fn ends(record: &ExportRecord) -> Option<Ends> {
    let of_segment = record.segment.as_ref().map(|segment| Ends {
        src: segment.src,
        dst: segment.dst,
        sport: segment.sport,
        dport: segment.dport,
    });
    of_segment.or_else(|| record.flow.as_ref().map(Record::ends))
}

fn addresses(ends: &Ends, to: &mut Vec<u8>) {
    Value::Address(ends.src).put(to);
    Value::Address(ends.dst).put(to);
}

/// A Set of one record.
pub(super) fn set(number: u16, fill: impl FnOnce(&mut Vec<u8>)) -> Option<Vec<u8>> {
    let mut set = vec![0; HEADER];
    fill(&mut set);
    let length = u16::try_from(set.len()).ok()?;
    set[..2].copy_from_slice(&number.to_be_bytes());
    set[2..HEADER].copy_from_slice(&length.to_be_bytes());
    Some(set)
}

/// The Sets that these bytes begin with: the number of each one's template, and its record. What comes last is `Err` where it is none.
pub(super) fn sets(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), &[u8]>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let header = bytes.first_chunk::<HEADER>();
        let parsed = header.map(|[a, b, c, d]| {
            (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])))
        });
        let set = parsed.and_then(|(number, length)| {
            let record = bytes.get(HEADER..length)?;
            bytes = &bytes[length..];
            Some((number, record))
        });
        Some(set.ok_or_else(|| std::mem::take(&mut bytes)))
    })
}

/// The record of a connection without its own elements, and the number of its template then. `None` where it is of another
/// template, or cut.
pub(super) fn without_own(number: u16, record: &[u8]) -> Option<(u16, &[u8])> {
    let number = match number {
        template::OWN_CONNECTION_4 => template::CONNECTION_4,
        template::OWN_CONNECTION_6 => template::CONNECTION_6,
        _ => return None,
    };
    let mut length = 0;
    for element in template::elements(number) {
        length += match element.kind.length() {
            Some(bytes) => usize::from(bytes),
            None => text_length(record.get(length..)?)?,
        };
    }
    Some((number, record.get(..length)?))
}

/// Bytes of a value that begins with its length, this included.
fn text_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [255, high, low, ..] => Some(3 + usize::from(u16::from_be_bytes([*high, *low]))),
        [length, ..] => Some(1 + usize::from(*length)),
        [] => None,
    }
}

/// Bytes of a Set's header.
pub(super) const HEADER: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        export::{
            ipfix::element::Kind,
            record::tests::{ended, origin},
        },
        model::event::Event,
    };

    fn record(event: &Event) -> ExportRecord {
        origin().record(event).expect("it is exported")
    }

    /// Takes a record apart, and wants it to end with its last value.
    fn values(number: u16, record: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let mut rest = record;
        let mut values = Vec::new();
        for element in template::elements(number) {
            let length =
                element.kind.length().map_or_else(|| text_length(rest), |n| Some(n.into()));
            let (value, behind) = rest.split_at(length.expect("a length"));
            let skip = match (element.kind, value) {
                (Kind::Text, [255, ..]) => 3,
                (Kind::Text, _) => 1,
                _ => 0,
            };
            values.push((element.name, value[skip..].to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty(), "{} bytes more than template {number} has", rest.len());
        values
    }

    #[test]
    fn a_record_has_what_its_template_says() {
        let mut event = ended(3);
        let flow = event.flow.as_mut().expect("a flow");
        (flow.history, flow.orig.packets, flow.reply.bytes) = ("ShADFar".to_owned(), 7, 300);
        let ended = record(&event);
        for (own, number) in [(false, template::CONNECTION_6), (true, template::OWN_CONNECTION_6)] {
            let set = of(&ended, own, 9, 0).expect("a connection");
            let all: Vec<_> = sets(&set).collect();
            let [Ok((of_set, record))] = all[..] else { panic!("{all:?}") };
            assert_eq!(of_set, number);
            let values = values(number, record);
            let value = |name: &str| {
                let all = values.iter().filter(|(known, _)| *known == name);
                all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
            };
            assert_eq!(value("packetTotalCount"), [7_u64.to_be_bytes(), [0; 8]]);
            assert_eq!(value("octetTotalCount"), [[0; 8], 300_u64.to_be_bytes()]);
            assert_eq!(value("tcpControlBits"), [[SYN | ACK | FIN], [SYN | ACK | RST]]);
            assert_eq!(value("flowEndReason"), [[3]]);
            assert_eq!(value("interfaceName"), [b"eth0"]);
            let zones: &[Vec<u8>] = if own { &[vec![0, 3]] } else { &[] };
            assert_eq!(value("trackerZone"), zones);
        }
    }

    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    #[test]
    fn own_elements_can_be_left_away() {
        let ended = record(&ended(3));
        let with = of(&ended, true, 9, 0).expect("a connection");
        let without = of(&ended, false, 9, 0).expect("a connection");
        let (number, cut) =
            without_own(template::OWN_CONNECTION_6, &with[HEADER..]).expect("a connection");
        assert_eq!((number, cut), (template::CONNECTION_6, &without[HEADER..]));
        assert!(without_own(template::OWN_CONNECTION_6, &with[HEADER..60]).is_none());
        assert!(without_own(template::BREACH_4, &with[HEADER..]).is_none());
    }

    #[test]
    fn what_has_no_form_is_left_out() {
        let lost = ExportRecord { about: About::Lost, flow: None, ..record(&ended(3)) };
        let set = of(&lost, false, 9, 12).expect("lost records");
        assert_eq!(set, [1, 6, 0, 16, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 12]);
        for about in [About::Violation, About::Cookie] {
            assert!(of(&ExportRecord { about, ..lost.clone() }, true, 9, 0).is_none());
        }
    }

    #[test]
    fn values_have_the_length_of_their_kind() {
        let ended = record(&ended(3));
        let flow = ended.flow.as_ref().expect("a flow");
        let connection = Connection { record: &ended, flow };
        for column in template::REGISTERED.iter().chain(&template::OWN) {
            let mut bytes = Vec::new();
            (column.value)(&connection).put(&mut bytes);
            let length = column
                .element
                .kind
                .length()
                .map_or_else(|| text_length(&bytes), |n| Some(n.into()));
            assert_eq!(Some(bytes.len()), length, "{}", column.element.name);
        }
    }

    #[test]
    fn texts_have_their_lengths() {
        for (length, header) in [(0, 1), (254, 1), (255, 3), (799, 3)] {
            let mut bytes = Vec::new();
            Value::Text("x".repeat(length).into()).put(&mut bytes);
            assert_eq!(
                (bytes.len(), text_length(&bytes)),
                (header + length, Some(header + length))
            );
        }
        let mut bytes = Vec::new();
        Value::Text("ä".repeat(600).into()).put(&mut bytes);
        assert_eq!(bytes.len(), 803);
    }

    proptest! {
        #[test]
        fn whatever_a_spool_has_is_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let all: Vec<_> = sets(&bytes).collect();
            let length: usize = all.iter().map(|set| match set {
                Ok((_, record)) => HEADER + record.len(),
                Err(rest) => rest.len(),
            }).sum();
            prop_assert_eq!(length, bytes.len());
            prop_assert!(all.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
