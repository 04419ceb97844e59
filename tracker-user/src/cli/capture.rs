//! Captures as files hold them (pcap, pcapng), one packet after the other, each as an Ethernet frame.
//!
//! The blocks' fields of pcapng are decoded by `pcap-parser`; the bytes are cut into records here. So a record
//! with a nonsensical length and one that the file's end cuts off are different errors, each with its offset, and nothing
//! larger than a record is held in memory.

mod legacy;
mod link;
mod merge;
mod ng;
mod source;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use anyhow::{Context, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

pub use self::merge::{Merged, Part};
use self::{legacy::Legacy, link::Link, ng::Ng, source::Source};
use crate::model::failure::Failure;

/// The most bytes of one packet that a capture is believed to hold; libpcap stops at a quarter of it.
const LARGEST_PACKET: u32 = 1 << 20;

/// A captured packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its number in the file, from 1, as Wireshark counts.
    pub number: u64,
    /// When it was captured: nanoseconds since 1970, UTC.
    pub timestamp_ns: i64,
    /// Bytes on the wire, with the Ethernet header that stands for another link layer's.
    pub wire_len: u32,
    /// Its captured bytes, from the Ethernet header on.
    pub frame: &'a [u8],
}

/// A packet as a format's reader finds it.
struct Raw {
    link: u32,
    timestamp_ns: i64,
    wire_len: u32,
    /// Where its bytes are in the source's buffer.
    data: Range<usize>,
}

/// Where a file makes no sense any more.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, JsonSchema)]
pub struct Broken {
    /// Packets before that, all of which were read.
    pub after_packet: u64,
    /// Where the broken record begins, in bytes from the start.
    pub offset: u64,
    /// What is wrong with it.
    pub error: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "broken at offset {}, after packet {}: {}",
            self.offset, self.after_packet, self.error
        )
    }
}

impl std::error::Error for Broken {}

/// How many packets of a link type there are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, JsonSchema)]
pub struct LinkCount {
    /// The link type's number (LINKTYPE_ of tcpdump.org).
    pub link_type: u32,
    /// Its name, where it is one that is understood.
    pub name: Option<&'static str>,
    /// Packets of it.
    pub packets: u64,
}

/// An open capture.
pub struct Capture {
    source: Source,
    format: Format,
    packets: u64,
    links: BTreeMap<u32, u64>,
    /// The packet that was read last.
    current: Option<Current>,
    /// Where a frame is built that does not stand in the file as one.
    built: Vec<u8>,
}

/// A packet that was read, of a link type that is understood.
struct Current {
    timestamp_ns: i64,
    wire_len: u32,
    frame: Frame,
}

enum Frame {
    /// As it stands in the source's buffer.
    Whole(Range<usize>),
    Built,
}

enum Format {
    Legacy(Legacy),
    Ng(Ng),
}

/// What other files than captures begin with, and how to make a capture of them.
const COMPRESSED: [(&[u8], &str, &str); 3] = [
    (&[0x1f, 0x8b], "gzip", "gunzip -c"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -dc"),
    (&[0xfd, b'7', b'z', b'X'], "xz", "xz -dc"),
];

/// A file that cannot be replayed.
fn not_a_capture(message: impl Into<String>) -> Error {
    Failure::BadInput(message.into()).into()
}

impl Capture {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, is not a capture, or is one of a link type that is not understood.
    pub fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Self::new(Box::new(io::stdin()));
        }
        let file = File::open(path).context("opening it")?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(not_a_capture("it is a directory"));
        }
        Self::new(Box::new(file))
    }

    /// Reads a capture from wherever.
    ///
    /// # Errors
    ///
    /// As [`Capture::open`].
    pub fn new(reader: Box<dyn Read + Send>) -> Result<Self> {
        let mut source = Source::new(reader);
        source.fill(4).context("reading it")?;
        let magic = source.buffer();
        if magic.is_empty() {
            return Err(not_a_capture("it is empty: not a capture"));
        }
        for (start, name, unpack) in COMPRESSED {
            if magic.starts_with(start) {
                return Err(not_a_capture(format!(
                    "it is compressed by {name}: unpack it first, as in `{unpack} FILE | tracker replay -`"
                )));
            }
        }
        let format = if ng::is_ng(magic) {
            Format::Ng(Ng::default())
        } else if legacy::is_legacy(magic) {
            let legacy = Legacy::open(&mut source)?;
            if Link::of(legacy.link).is_none() {
                return Err(not_a_capture(format!(
                    "link type {} is not understood; {}",
                    legacy.link,
                    link::understood()
                )));
            }
            Format::Legacy(legacy)
        } else {
            let bytes: Vec<_> = magic.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(not_a_capture(format!(
                "it is not a capture, neither pcap nor pcapng: it begins with {}",
                bytes.join(" ")
            )));
        };
        let (links, built) = (BTreeMap::new(), Vec::new());
        Ok(Self { source, format, packets: 0, links, current: None, built })
    }

    /// `pcap` or `pcapng`.
    #[must_use]
    pub fn format(&self) -> &'static str {
        match self.format {
            Format::Legacy(_) => "pcap",
            Format::Ng(_) => "pcapng",
        }
    }

    /// Packets so far, those of link types that are not understood included.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Packets so far by link type.
    pub fn links(&self) -> impl Iterator<Item = LinkCount> {
        self.links.iter().map(|(link_type, packets)| LinkCount {
            link_type: *link_type,
            name: Link::of(*link_type).map(Link::name),
            packets: *packets,
        })
    }

    /// Packets so far of link types that are not understood.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.links().filter(|link| link.name.is_none()).map(|link| link.packets).sum()
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// The next packet of a link type that is understood; others are counted. `None` at the end.
    ///
    /// # Errors
    ///
    /// Where the file is broken. What came before was read; there is nothing to be had after it.
    #[allow(clippy::should_implement_trait)] // an iterator's items cannot borrow from it
    pub fn next(&mut self) -> Result<Option<Packet<'_>>, Broken> {
        self.advance()?;
        Ok(self.current())
    }

    /// Reads the next packet of a link type that is understood, which [`Capture::current`] then returns.
    ///
    /// # Errors
    ///
    /// As [`Capture::next`].
    fn advance(&mut self) -> Result<(), Broken> {
        self.current = None;
        loop {
            let raw = match &mut self.format {
                Format::Legacy(legacy) => legacy.next(&mut self.source),
                Format::Ng(ng) => ng.next(&mut self.source),
            };
            let raw = raw.map_err(|error| Broken { after_packet: self.packets, ..error })?;
            let Some(Raw { link, timestamp_ns, wire_len, data }) = raw else { return Ok(()) };
            self.packets += 1;
            *self.links.entry(link).or_default() += 1;
            let is_big_endian = match &self.format {
                Format::Legacy(legacy) => legacy.is_big_endian,
                Format::Ng(ng) => ng.big_endian,
            };
            let Some(link) = Link::of(link) else { continue };
            let bytes = &self.source.buffer()[data.clone()];
            let built = link.build(bytes, wire_len, is_big_endian, &mut self.built);
            let (frame, wire_len) =
                built.map_or((Frame::Whole(data), wire_len), |len| (Frame::Built, len));
            self.current = Some(Current { timestamp_ns, wire_len, frame });
            return Ok(());
        }
    }

    /// The packet that was read last; `None` before the first and after the last.
    fn current(&self) -> Option<Packet<'_>> {
        let Current { timestamp_ns, wire_len, frame } = self.current.as_ref()?;
        Some(Packet {
            number: self.packets,
            timestamp_ns: *timestamp_ns,
            wire_len: *wire_len,
            frame: match frame {
                Frame::Whole(range) => &self.source.buffer()[range.clone()],
                Frame::Built => &self.built,
            },
        })
    }
}

/// The error for a capture in which nothing is understood.
#[must_use]
pub fn nothing_understood(links: &[LinkCount]) -> String {
    let numbers: Vec<_> = links.iter().map(|link| link.link_type.to_string()).collect();
    format!("link type {} is not understood; {}", numbers.join(", "), link::understood())
}
