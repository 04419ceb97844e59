//! Messages (RFC 7011, section 3): rows of a spool and templates, in as few bytes as there are.

use super::{
    element::{self, Element},
    row::{self, HEADER},
    template::{self, Value},
};

/// Who exports, to whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Exporter {
    /// Observation domain ID.
    pub domain: u32,
    /// The enterprise of own elements, where there are any.
    pub pen: Option<u32>,
    /// Exporting process ID.
    pub process: u32,
    pub host: String,
    pub agent: String,
    pub boot_id: String,
}

/// A message, all but when it is sent and its number.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// Data records in it, which sequence numbers count.
    pub records: u32,
}

impl Message {
    /// The bytes of it, sent so many seconds after 1970, after so many other records (RFC 7011, section 3.1).
    pub(super) fn bytes(&mut self, seconds: u32, sequence: u32) -> &[u8] {
        self.bytes[4..8].copy_from_slice(&seconds.to_be_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_be_bytes());
        &self.bytes
    }
}

/// Messages with the records of a spool, of `longest` bytes at most, but for a record that is longer; and how many records have no form
/// with these settings.
pub(super) fn of_rows(rows: &[u8], exporter: &Exporter, longest: usize) -> (Vec<Message>, u64) {
    let mut packing = Packing::new(exporter.domain, longest);
    let mut left_out = 0;
    for set in row::sets(rows) {
        let fits = match (set, exporter.pen) {
            (
                Ok(set @ (template::CONNECTION_4 | template::CONNECTION_6 | template::NOT_SENT, _)),
                _,
            ) => Some(set),
            (Ok(set), Some(_)) if template::is_own(set.0) => Some(set),
            (Ok((number, record)), None) => row::without_own(number, record),
            _ => None,
        };
        match fits {
            Some((number, record)) => packing.add(number, record, 1),
            None => left_out += 1,
        }
    }
    (packing.finish(), left_out)
}

/// Messages with all templates, and the records of options about this exporter, which has lost so many records. Names and types of own
/// elements come first: a collector has them when it reads the templates that need them.
pub(super) fn of_templates(exporter: &Exporter, lost: u64, longest: usize) -> Vec<Message> {
    let mut packing = Packing::new(exporter.domain, longest);
    let pen = exporter.pen.unwrap_or(0);
    let (types, others): (Vec<_>, Vec<_>) = template::all(exporter.pen.is_some())
        .into_iter()
        .partition(|(number, ..)| *number == template::TYPES);
    for template in types {
        packing.add_template(template, pen);
        for element in element::OWN {
            let values = [
                Value::U32(pen),
                Value::U16(element.number),
                Value::U8(element.kind.code()),
                // Neither semantics, units, a range nor a description.
                Value::U8(0),
                Value::U16(0),
                Value::U64(0),
                Value::U64(0),
                Value::Text(element.name.into()),
                Value::Text("".into()),
            ];
            packing.add_options(template::TYPES, &values);
        }
    }
    for template in others {
        packing.add_template(template, pen);
    }
    let name = Value::Text(exporter.host.as_str().into());
    packing.add_options(template::NOT_SENT, &[Value::U32(exporter.process), Value::U64(lost)]);
    let domain = Value::U32(exporter.domain);
    if exporter.pen.is_some() {
        let agent = Value::Text(exporter.agent.as_str().into());
        let boot = Value::Text(exporter.boot_id.as_str().into());
        packing.add_options(template::OWN_HOST, &[domain, name, agent, boot]);
    } else {
        packing.add_options(template::HOST, &[domain, name]);
    }
    packing.finish()
}

/// Messages in the making.
struct Packing {
    domain: u32,
    longest: usize,
    done: Vec<Message>,
    current: Message,
    /// The Set that is last in it: its number, and where it begins.
    set: Option<(u16, usize)>,
}

impl Packing {
    fn new(domain: u32, longest: usize) -> Self {
        let longest = longest.min(LONGEST);
        let current = Message { bytes: Vec::new(), records: 0 };
        Self { domain, longest, done: Vec::new(), current, set: None }
    }

    fn add_template(&mut self, (number, scopes, elements): (u16, u16, Vec<Element>), pen: u32) {
        let mut bytes = Vec::new();
        let count = u16::try_from(elements.len()).unwrap_or(0);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&count.to_be_bytes());
        if scopes > 0 {
            bytes.extend_from_slice(&scopes.to_be_bytes());
        }
        elements.into_iter().for_each(|element| element.specify(pen, &mut bytes));
        self.add(if scopes > 0 { OPTIONS_TEMPLATES } else { TEMPLATES }, &bytes, 0);
    }

    fn add_options(&mut self, number: u16, values: &[Value<'_>]) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.put(&mut bytes));
        self.add(number, &bytes, 1);
    }

    /// Appends what belongs into a Set of this number.
    fn add(&mut self, number: u16, record: &[u8], counted: u32) {
        let continues = |set: Option<(u16, usize)>| set.is_some_and(|(last, _)| last == number);
        let length = record.len() + if continues(self.set) { 0 } else { HEADER };
        if self.set.is_some() && self.current.bytes.len() + length > self.longest {
            self.end_message();
        }
        if self.current.bytes.is_empty() {
            let bytes = &mut self.current.bytes;
            bytes.extend_from_slice(&VERSION.to_be_bytes());
            bytes.resize(MESSAGE_HEADER - 4, 0);
            bytes.extend_from_slice(&self.domain.to_be_bytes());
        }
        if !continues(self.set) {
            self.end_set();
            self.set = Some((number, self.current.bytes.len()));
            self.current.bytes.extend_from_slice(&number.to_be_bytes());
            self.current.bytes.extend_from_slice(&[0; 2]);
        }
        self.current.bytes.extend_from_slice(record);
        self.current.records += counted;
    }

    fn end_set(&mut self) {
        if let Some((_, at)) = self.set.take() {
            put_length(&mut self.current.bytes, at, at + 2);
        }
    }

    fn end_message(&mut self) {
        self.end_set();
        if !self.current.bytes.is_empty() {
            put_length(&mut self.current.bytes, 0, 2);
            let next = Message { bytes: Vec::new(), records: 0 };
            self.done.push(std::mem::replace(&mut self.current, next));
        }
    }

    fn finish(mut self) -> Vec<Message> {
        self.end_message();
        self.done
    }
}

/// Writes how many bytes there are from `from` on. A record has fewer than 65,535, and nothing is put behind one that is too long.
fn put_length(bytes: &mut [u8], from: usize, at: usize) {
    let length = u16::try_from(bytes.len() - from).unwrap_or(u16::MAX);
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// IPFIX.
const VERSION: u16 = 10;

/// Bytes of a message's header.
const MESSAGE_HEADER: usize = 16;

/// Bytes of a message at most.
const LONGEST: usize = 65_000;

/// The number of Sets of templates.
const TEMPLATES: u16 = 2;

/// The number of Sets of options templates.
const OPTIONS_TEMPLATES: u16 = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::export::record::tests::{ended, origin};

    fn exporter(pen: Option<u32>) -> Exporter {
        Exporter {
            domain: 7,
            pen,
            process: 9,
            host: "web-1".to_owned(),
            agent: "default".to_owned(),
            boot_id: "b".to_owned(),
        }
    }

    /// Takes a message apart: the numbers of its Sets, and their bytes.
    fn sets(message: &mut Message) -> Vec<(u16, Vec<u8>)> {
        let bytes = message.bytes(0x0102_0304, 5).to_vec();
        let length = u16::try_from(bytes.len()).expect("a message");
        assert_eq!(bytes[..4], [[0, 10], length.to_be_bytes()].concat());
        assert_eq!(bytes[4..16], [1, 2, 3, 4, 0, 0, 0, 5, 0, 0, 0, 7]);
        row::sets(&bytes[16..])
            .map(|set| set.map(|(n, it)| (n, it.to_vec())).expect("a Set"))
            .collect()
    }

    #[test]
    fn rows_of_a_template_are_one_set() {
        let row =
            |own| row::of(&origin().record(&ended(3)).expect("an end"), own, 9, 0).expect("a row");
        let (own, plain) = (row(true), row(false));
        let rows = [&own[..], &own, &plain, &own].concat();
        let (mut messages, left_out) = of_rows(&rows, &exporter(Some(1)), 9000);
        assert_eq!((messages.len(), messages[0].records, left_out), (1, 4, 0));
        let numbers: Vec<_> = sets(&mut messages[0]).iter().map(|(n, it)| (*n, it.len())).collect();
        let (long, short) = (own.len() - HEADER, plain.len() - HEADER);
        assert_eq!(numbers, [(259, 2 * long), (257, short), (259, long)]);
        // Without a number of an enterprise, all are alike.
        let (mut messages, left_out) = of_rows(&rows, &exporter(None), 9000);
        assert_eq!((messages[0].records, left_out), (4, 0));
        assert_eq!(sets(&mut messages[0]), [(257, [&plain[HEADER..]; 4].concat())]);
        let breach = row::set(template::BREACH_4, |to| to.push(1)).expect("a row");
        assert_eq!(of_rows(&[&breach[..], &plain].concat(), &exporter(None), 9000).1, 1);
        let other = row::set(4000, |to| to.push(1)).expect("a row");
        assert_eq!(of_rows(&[&other[..], &plain, &[1]].concat(), &exporter(Some(1)), 9000).1, 2);
    }

    #[test]
    fn templates_are_those_that_are_used() {
        for (pen, count, first) in [(None, 2, TEMPLATES), (Some(1), 25, OPTIONS_TEMPLATES)] {
            let mut messages = of_templates(&exporter(pen), 3, 1400);
            assert!(messages.iter_mut().all(|message| message.bytes(0, 0).len() <= 1400));
            assert_eq!(messages.iter().map(|message| message.records).sum::<u32>(), count);
            assert_eq!(sets(&mut messages[0])[0].0, first);
        }
    }

    proptest! {
        #[test]
        fn messages_keep_to_their_length(
            rows in prop::collection::vec((256_u16..258, 1_usize..400), 1..100), longest in 500_usize..3000
        ) {
            let mut bytes = Vec::new();
            for (number, length) in &rows {
                bytes.extend(row::set(*number, |to| to.resize(HEADER + length, 1)).expect("a row"));
            }
            let (mut messages, left_out) = of_rows(&bytes, &exporter(None), longest);
            prop_assert_eq!(left_out, 0);
            let (mut found, mut sum) = (0, 0);
            for message in &mut messages {
                prop_assert!(message.bytes(0, 0).len() <= longest);
                found += message.records as usize;
                sum += sets(message).iter().map(|(_, it)| it.len()).sum::<usize>();
            }
            prop_assert_eq!(found, rows.len());
            prop_assert_eq!(sum, rows.iter().map(|(_, length)| length).sum::<usize>());
        }
    }
}
