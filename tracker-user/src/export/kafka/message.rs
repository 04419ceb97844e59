//! Requests to a broker, and what it answers (Apache Kafka, "Protocol"), in versions that brokers from 0.11 on know, and those of 4.

use bytes::{Buf, BufMut};

use crate::{
    export::http::one_line,
    model::error::{Error, Result},
};

/// Kinds of requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Produce = 0,
    Metadata = 3,
    SaslHandshake = 17,
    ApiVersions = 18,
    SaslAuthenticate = 36,
}

/// Versions of requests that a broker knows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Versions(Vec<(i16, i16, i16)>);

impl Versions {
    /// Reads an answer to [`Kind::ApiVersions`], version 0.
    pub(super) fn read(mut answer: &[u8]) -> Result<Self> {
        let from = &mut answer;
        refused(i16(from)?, "")?;
        let mut all = Vec::new();
        for _ in 0..count(from)? {
            all.push((i16(from)?, i16(from)?, i16(from)?));
        }
        Ok(Self(all))
    }

    /// The highest version of those that this agent knows.
    pub(super) fn of(&self, kind: Kind, known: (i16, i16)) -> Result<i16> {
        let found = self.0.iter().find(|(it, ..)| *it == kind as i16);
        let version = found.and_then(|(_, low, high)| {
            let version = known.1.min(*high);
            (version >= known.0.max(*low)).then_some(version)
        });
        version.ok_or_else(|| {
            Error::text(format!(
                "the broker does not know {kind:?} in version {} to {}",
                known.0, known.1
            ))
        })
    }
}

/// A request with its length ahead.
pub(super) fn request(kind: Kind, version: i16, number: i32, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(32 + body.len());
    request.put_i32(0);
    request.put_i16(kind as i16);
    request.put_i16(version);
    request.put_i32(number);
    put_string(&mut request, CLIENT);
    request.put_slice(body);
    let length = i32::try_from(request.len() - 4).unwrap_or(i32::MAX);
    request[..4].copy_from_slice(&length.to_be_bytes());
    request
}

/// Where the partitions of a topic are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Metadata {
    /// Number, host and port.
    pub(super) brokers: Vec<(i32, String, u16)>,
    /// The leader of each partition, by its number; `None` where there is none.
    pub(super) leaders: Vec<Option<i32>>,
    pub(super) throttle_ms: i32,
}

/// Asks for the metadata of a topic, version 4, and never makes it.
pub(super) fn metadata_request(topic: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i32(1);
    put_string(&mut body, topic);
    body.put_u8(0);
    body
}

impl Metadata {
    /// Reads an answer to [`metadata_request`].
    pub(super) fn read(mut answer: &[u8], topic: &str) -> Result<Self> {
        let from = &mut answer;
        let throttle_ms = i32(from)?;
        let mut brokers = Vec::new();
        for _ in 0..count(from)? {
            let (number, host, port) = (i32(from)?, string(from)?, i32(from)?);
            string(from)?;
            let port = u16::try_from(port).map_err(|_| malformed())?;
            brokers.push((number, host, port));
        }
        string(from)?;
        i32(from)?;
        let mut leaders = Vec::new();
        for _ in 0..count(from)? {
            let code = i16(from)?;
            let name = string(from)?;
            u8(from)?;
            let mut partitions = Vec::new();
            for _ in 0..count(from)? {
                // An error, such as a replica that is away, need not be one of the leader.
                i16(from)?;
                let (number, leader) = (i32(from)?, i32(from)?);
                for _ in 0..2 {
                    for _ in 0..count(from)? {
                        i32(from)?;
                    }
                }
                partitions.push((number, (leader >= 0).then_some(leader)));
            }
            if name == topic {
                refused(code, "")?;
                partitions.sort_unstable_by_key(|(number, _)| *number);
                let is_whole = (0..).zip(&partitions).all(|(at, (number, _))| at == *number);
                if !is_whole {
                    return Err(Error::text(
                        "the broker does not know all partitions of the topic",
                    ));
                }
                leaders = partitions.into_iter().map(|(_, leader)| leader).collect();
            }
        }
        if leaders.is_empty() {
            return Err(Error::text("the broker knows no partition of the topic"));
        }
        Ok(Self { brokers, leaders, throttle_ms })
    }
}

/// Asks a leader to append batches, one for each of some partitions; version 3 to 8. All replicas that are in sync are to have them.
pub(super) fn produce_request(topic: &str, batches: &[(i32, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + batches.iter().map(|it| it.1.len() + 8).sum::<usize>());
    body.put_i16(-1);
    body.put_i16(ALL);
    body.put_i32(REPLICATION_MS);
    body.put_i32(1);
    put_string(&mut body, topic);
    put_count(&mut body, batches.len());
    for (partition, batch) in batches {
        body.put_i32(*partition);
        put_count(&mut body, batch.len());
        body.put_slice(batch);
    }
    body
}

/// What became of the batch of one partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Produced {
    pub(super) partition: i32,
    /// 0: it is there.
    pub(super) code: i16,
    /// What the broker says of it.
    pub(super) said: String,
}

/// Reads an answer to [`produce_request`]: what became of each batch, and how many milliseconds the broker wants to be left alone.
pub(super) fn read_produced(mut answer: &[u8], version: i16) -> Result<(Vec<Produced>, i32)> {
    let from = &mut answer;
    let mut all = Vec::new();
    for _ in 0..count(from)? {
        string(from)?;
        for _ in 0..count(from)? {
            let (partition, code) = (i32(from)?, i16(from)?);
            let times = if version >= 5 { 3 } else { 2 };
            for _ in 0..times {
                from.try_get_i64().map_err(|_| malformed())?;
            }
            let mut said = String::new();
            if version >= 8 {
                for _ in 0..count(from)? {
                    i32(from)?;
                    let of_record = string(from)?;
                    if said.is_empty() {
                        said = of_record;
                    }
                }
                let of_batch = string(from)?;
                if !of_batch.is_empty() {
                    said = of_batch;
                }
            }
            all.push(Produced { partition, code, said });
        }
    }
    Ok((all, i32(from)?))
}

/// Asks for a mechanism of SASL, version 1.
pub(super) fn handshake_request(mechanism: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_string(&mut body, mechanism);
    body
}

/// Reads an answer to [`handshake_request`].
pub(super) fn read_handshake(mut answer: &[u8]) -> Result<()> {
    let from = &mut answer;
    let code = i16(from)?;
    let mut mechanisms = Vec::new();
    for _ in 0..count(from)? {
        mechanisms.push(string(from)?);
    }
    let has = if mechanisms.is_empty() {
        String::new()
    } else {
        format!("it has {}", mechanisms.join(", "))
    };
    refused(code, &has)
}

/// A step of SASL, version 0.
pub(super) fn authenticate_request(step: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + step.len());
    put_count(&mut body, step.len());
    body.put_slice(step);
    body
}

/// Reads an answer to [`authenticate_request`]: the broker's step.
pub(super) fn read_authenticate(mut answer: &[u8]) -> Result<Vec<u8>> {
    let from = &mut answer;
    let code = i16(from)?;
    let said = string(from)?;
    refused(code, &said)?;
    let length = count(from)?;
    from.get(..length).map(<[u8]>::to_vec).ok_or_else(malformed)
}

/// The error of a code that is not 0, with what the broker says of it.
pub(super) fn refused(code: i16, said: &str) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let said = one_line(said);
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let known = CODES.iter().find(|(known, _)| *known == code);
    let text = known.map_or("an error", |(_, text)| *text);
    Err(Error::text(format!("the broker answers {code}, {text}{said}")))
}

fn malformed() -> Error {
    Error::text("the broker's answer is none of Kafka's")
}

fn u8(from: &mut &[u8]) -> Result<u8> {
    from.try_get_u8().map_err(|_| malformed())
}

fn i16(from: &mut &[u8]) -> Result<i16> {
    from.try_get_i16().map_err(|_| malformed())
}

fn i32(from: &mut &[u8]) -> Result<i32> {
    from.try_get_i32().map_err(|_| malformed())
}

/// How many follow; -1 is none.
fn count(from: &mut &[u8]) -> Result<usize> {
    match i32(from)? {
        -1 => Ok(0),
        // Each takes a byte at least.
        count => usize::try_from(count).ok().filter(|it| *it <= from.len()).ok_or_else(malformed),
    }
}

/// A string; one that is absent is empty.
fn string(from: &mut &[u8]) -> Result<String> {
    let length = match i16(from)? {
        -1 => 0,
        length => usize::try_from(length).map_err(|_| malformed())?,
    };
    let (text, rest) = from.split_at_checked(length).ok_or_else(malformed)?;
    *from = rest;
    Ok(one_line(&String::from_utf8_lossy(text)))
}

/// A string of an option, which none is too long for.
fn put_string(to: &mut Vec<u8>, text: &str) {
    to.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    to.put_slice(text.as_bytes());
}

fn put_count(to: &mut Vec<u8>, count: usize) {
    to.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
}

/// Who asks, for the broker's log and quotas.
const CLIENT: &str = "tracker";

/// `acks=all`.
const ALL: i16 = -1;

/// How long a leader waits for other replicas.
const REPLICATION_MS: i32 = 30_000;

/// The leader is another one, or the partition elsewhere: metadata is old.
pub(super) const MOVED: [i16; 7] = [3, 5, 6, 9, 56, 74, 75];

/// It is about the messages of a batch.
pub(super) const OF_CONTENT: [i16; 5] = [2, 10, 18, 32, 87];

/// Some errors, and what to do about them (Apache Kafka, `Errors`).
const CODES: [(i16, &str); 22] = [
    (-1, "an unexpected error; its log has more"),
    (2, "a message is corrupt, or has no key in a compacted topic"),
    (3, "there is no such topic; make it, because the agent does not"),
    (5, "the partition has no leader"),
    (6, "it is not the partition's leader"),
    (7, "not all replicas had the messages in time"),
    (9, "the replica is not there"),
    (10, "a message is too large (max.message.bytes)"),
    (17, "the topic's name cannot be one"),
    (18, "the batch is larger than a segment of the topic"),
    (19, "too few replicas are in sync (min.insync.replicas)"),
    (20, "too few replicas were in sync (min.insync.replicas)"),
    (29, "the user may not write to the topic; give it WRITE and DESCRIBE"),
    (31, "the user may not use the cluster"),
    (32, "a message's time is too far away (message.timestamp.*.max.ms)"),
    (33, "it does not have the mechanism of --export-kafka-mechanism"),
    (34, "it wants no user, or wanted one before"),
    (35, "it does not know this version of the request"),
    (56, "its disk fails"),
    (58, "user or password are wrong"),
    (76, "it does not have the compression of --export-kafka-compression"),
    (87, "it refuses a message"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_a_header() {
        let expected = b"\0\0\0\x12\0\x12\0\0\0\0\0\x07\0\x07trackerB";
        assert_eq!(request(Kind::ApiVersions, 0, 7, b"B"), expected);
    }

    #[test]
    fn versions() {
        let versions =
            Versions::read(b"\0\0\0\0\0\x02\0\0\0\x03\0\x0b\0\x03\0\0\0\x0c").expect("two");
        assert_eq!(versions.of(Kind::Produce, (3, 8)).ok(), Some(8));
        assert_eq!(versions.of(Kind::Metadata, (4, 4)).ok(), Some(4));
        let error = versions.of(Kind::SaslHandshake, (1, 1)).expect_err("it has none");
        assert_eq!(error.to_string(), "the broker does not know SaslHandshake in version 1 to 1");
        assert!(Versions::read(b"\0\x23").is_err_and(|error| error.to_string().contains("35")));
    }

    #[test]
    fn metadata_is_of_the_topic() {
        let metadata = |code: u8, leader: u8| {
            [
                &b"\0\0\0\0\0\0\0\x01\0\0\0\x05\0\x01h\0\0\x23\x84\xff\xff\xff\xff\0\0\0\x05"[..],
                &[0, 0, 0, 1, 0, code, 0, 1, b't', 0, 0, 0, 0, 2],
                b"\0\0\0\0\0\x01\0\0\0\x05\0\0\0\x01\0\0\0\x05\0\0\0\x01\0\0\0\x05",
                &[0, 5, 0, 0, 0, 0, leader, leader, leader, leader, 0, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat()
        };
        let found = Metadata::read(&metadata(0, 255), "t").expect("two partitions");
        assert_eq!(found.brokers, [(5, "h".to_owned(), 9092)]);
        assert_eq!(found.leaders, [None, Some(5)]);
        let error = Metadata::read(&metadata(3, 0), "t").expect_err("it is not there");
        assert!(error.to_string().contains("there is no such topic"), "{error}");
        assert!(Metadata::read(&metadata(0, 0), "u").is_err());
    }

    #[test]
    fn what_became_of_batches() {
        let version_3 = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x02\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07";
        let expected = Produced { partition: 2, code: 10, said: String::new() };
        assert_eq!(read_produced(version_3, 3).ok(), Some((vec![expected.clone()], 7)));
        let version_8 =
            [&version_3[..33], &[0; 8], b"\0\0\0\x01\0\0\0\0\0\x02no\0\x04why\n\0\0\0\0"].concat();
        let expected = Produced { said: "why".to_owned(), ..expected };
        assert_eq!(read_produced(&version_8, 8).ok(), Some((vec![expected], 0)));
        let error = refused(10, "why\x1b\nnot").expect_err("an error");
        assert!(error.to_string().ends_with("(max.message.bytes): why?"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_a_broker_answers_is_read_or_refused(answer: Vec<u8>, version in 3..=8_i16) {
            let _ = Versions::read(&answer);
            let _ = Metadata::read(&answer, "t");
            let _ = read_produced(&answer, version);
            let _ = read_handshake(&answer);
            let _ = read_authenticate(&answer);
        }
    }
}
