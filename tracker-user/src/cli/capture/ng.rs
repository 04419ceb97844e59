//! pcapng: sections, each with interfaces of its own, and packets of these.

use pcap_parser::{Block, InterfaceDescriptionBlock, OptionCode, parse_block_be, parse_block_le};

use super::{Broken, LARGEST_PACKET, Raw, source::Source};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// The obsolete packet block, which the library does not know.
const PACKET: u32 = 2;
const SIMPLE: u32 = 3;
const ENHANCED: u32 = 6;

/// The largest block that is read into memory: a packet, and options.
const LARGEST_BLOCK: u32 = LARGEST_PACKET + (1 << 17);

pub(super) fn is_ng(magic: &[u8]) -> bool {
    magic == SECTION.to_ne_bytes()
}

#[derive(Default)]
pub(super) struct Ng {
    pub(super) big_endian: bool,
    interfaces: Vec<Interface>,
    /// The last packet's time, for packets that have none.
    last_ns: i64,
}

struct Interface {
    link: u32,
    /// The most bytes of a packet that were captured; 0 for all.
    snap: u32,
    /// Units in a second; `None` where they are too small for a 64-bit time to reach a nanosecond.
    units: Option<u128>,
    /// Seconds to add.
    offset: i64,
}

/// A packet's block, as far as the three kinds have it.
struct PacketBlock {
    interface: u32,
    /// In the interface's units; `None` for a simple packet.
    time: Option<u64>,
    captured: u32,
    wire_len: u32,
    /// Where its bytes begin in the block.
    at: usize,
}

impl Ng {
    pub(super) fn next(&mut self, source: &mut Source) -> Result<Option<Raw>, Broken> {
        loop {
            // The file's first four bytes have been read, to see what it is.
            if source.position() != 4 {
                source.begin();
            }
            if !source.begins(8, "a block's header")? {
                return Ok(None);
            }
            let kind = source.number(0, self.big_endian);
            if kind == SECTION {
                self.section(source)?;
            }
            let len = source.number(4, self.big_endian);
            if len < 12 || !len.is_multiple_of(4) {
                return Err(source.broken(format!(
                    "a block of {len} bytes; there are 12 at least, and always a multiple of 4"
                )));
            }
            if !matches!(kind, SECTION | INTERFACE | PACKET | SIMPLE | ENHANCED) {
                self.pass_by(source, len)?;
                continue;
            }
            if len > LARGEST_BLOCK {
                return Err(source.broken(format!(
                    "a block of {len} bytes, more than any packet takes ({LARGEST_BLOCK})"
                )));
            }
            source.need(len as usize, "a block")?;
            self.check_end(source, len, len as usize - 4)?;
            if let Some(found) = self.read(source, kind)? {
                return self.packet(source, &found).map(Some);
            }
        }
    }

    /// Learns the byte order of a new section, and forgets the interfaces of the last one.
    fn section(&mut self, source: &mut Source) -> Result<(), Broken> {
        source.need(12, "a section's header")?;
        self.big_endian = match source.number(8, false) {
            0x1a2b_3c4d => false,
            0x4d3c_2b1a => true,
            other => {
                return Err(source
                    .broken(format!("a section in no byte order that there is ({other:#010x})")));
            }
        };
        self.interfaces.clear();
        Ok(())
    }

    /// Skips a block that is no packet, however long.
    fn pass_by(&self, source: &mut Source, len: u32) -> Result<(), Broken> {
        let rest = u64::from(len) - 12;
        let skipped = source.skip(rest)?;
        if skipped < rest {
            return Err(source.broken(format!(
                "the file ends within a block: {} of {len} bytes are there",
                skipped + 8
            )));
        }
        source.need(12, "a block")?;
        self.check_end(source, len, 8)?;
        source.add_skipped(rest);
        Ok(())
    }

    /// A block ends as it begins, with its length.
    fn check_end(&self, source: &Source, len: u32, at: usize) -> Result<(), Broken> {
        let end = source.number(at, self.big_endian);
        if end == len {
            return Ok(());
        }
        Err(source
            .broken(format!("a block that says {len} bytes at its start and {end} at its end")))
    }

    fn read(&mut self, source: &Source, kind: u32) -> Result<Option<PacketBlock>, Broken> {
        let bytes = source.buffer();
        let nonsense =
            || source.broken(format!("a block (type {kind}) whose lengths contradict each other"));
        let parsed = if self.big_endian { parse_block_be(bytes) } else { parse_block_le(bytes) };
        let (_, block) = parsed.map_err(|_| nonsense())?;
        let found = match block {
            Block::InterfaceDescription(block) => {
                self.interfaces.push(self.interface(&block));
                return Ok(None);
            }
            Block::EnhancedPacket(block) => PacketBlock {
                interface: block.if_id,
                time: Some(u64::from(block.ts_high) << 32 | u64::from(block.ts_low)),
                captured: block.caplen,
                wire_len: block.origlen,
                at: 28,
            },
            Block::SimplePacket(block) => {
                let snap = self.interfaces.first().map_or(0, |interface| interface.snap);
                let captured = if snap == 0 { block.origlen } else { block.origlen.min(snap) };
                PacketBlock { interface: 0, time: None, captured, wire_len: block.origlen, at: 12 }
            }
            _ if kind == PACKET && bytes.len() >= 32 => {
                let number = |at| source.number(at, self.big_endian);
                let [a, b] = [bytes[8], bytes[9]];
                let interface = if self.big_endian {
                    u16::from_be_bytes([a, b])
                } else {
                    u16::from_le_bytes([a, b])
                };
                PacketBlock {
                    interface: interface.into(),
                    time: Some(u64::from(number(12)) << 32 | u64::from(number(16))),
                    captured: number(20),
                    wire_len: number(24),
                    at: 28,
                }
            }
            Block::SectionHeader(_) => return Ok(None),
            _ => return Err(nonsense()),
        };
        // Four bytes at the end are the block's length.
        if found.captured as usize > bytes.len() - 4 - found.at {
            return Err(source.broken(format!(
                "a packet of {} captured bytes in a block that has room for {}",
                found.captured,
                bytes.len() - 4 - found.at
            )));
        }
        Ok(Some(found))
    }

    /// Takes the two options about time from their bytes: the library reads the offset in one byte order only, and
    /// knows no powers of two.
    fn interface(&self, block: &InterfaceDescriptionBlock<'_>) -> Interface {
        let option = |code| {
            block
                .options
                .iter()
                .find(|option| option.code == code)
                .and_then(|option| option.as_bytes().ok())
        };
        let resolution = match option(OptionCode::IfTsresol) {
            Some([resolution]) => *resolution,
            _ => 6,
        };
        let units = if resolution & 0x80 == 0 {
            10u128.checked_pow(resolution.into())
        } else {
            Some(1 << (resolution & 0x7f))
        };
        let offset = option(OptionCode::IfTsoffset).and_then(|bytes| bytes.try_into().ok());
        let offset = offset.map_or(0, |bytes| {
            if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) }
        });
        Interface { link: block.linktype.0.cast_unsigned(), snap: block.snaplen, units, offset }
    }

    fn packet(&mut self, source: &Source, found: &PacketBlock) -> Result<Raw, Broken> {
        let Some(interface) = self.interfaces.get(found.interface as usize) else {
            return Err(source.broken(format!(
                "a packet of interface {}; this section has {}",
                found.interface,
                self.interfaces.len()
            )));
        };
        if let Some(time) = found.time {
            self.last_ns = interface.nanoseconds(time);
        }
        Ok(Raw {
            link: interface.link,
            timestamp_ns: self.last_ns,
            wire_len: found.wire_len.max(found.captured),
            data: found.at..found.at + found.captured as usize,
        })
    }
}

impl Interface {
    /// Nanoseconds since 1970; a time that they cannot say is the nearest that they can.
    fn nanoseconds(&self, time: u64) -> i64 {
        const SECOND: i128 = 1_000_000_000;
        let since = self.units.map_or(0, |units| {
            let (seconds, rest) = (u128::from(time) / units, u128::from(time) % units);
            // The rest is below 2^64, or below the units.
            let parts = rest * 1_000_000_000 / units;
            i128::try_from(seconds * 1_000_000_000 + parts).unwrap_or(i128::MAX)
        });
        let ns = since.saturating_add(i128::from(self.offset) * SECOND);
        i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(units: Option<u128>, offset: i64, time: u64) -> i64 {
        Interface { link: 1, snap: 0, units, offset }.nanoseconds(time)
    }

    #[test]
    fn times_in_every_unit() {
        assert_eq!(ns(Some(1_000_000), 0, 1_500_000), 1_500_000_000);
        assert_eq!(ns(Some(1_000_000_000), -1, 1_500_000_001), 500_000_001);
        assert_eq!(ns(Some(1 << 10), 7, 1536), 8_500_000_000);
        assert_eq!(ns(Some(1), 0, 3), 3_000_000_000);
        // The largest units, and times beyond what 64 bits of nanoseconds say.
        assert_eq!(ns(Some(1 << 127), 0, u64::MAX), 0);
        assert_eq!(ns(None, 5, u64::MAX), 5_000_000_000);
        assert_eq!(ns(Some(1), 0, u64::MAX), i64::MAX);
        assert_eq!(ns(Some(1), i64::MIN, 0), i64::MIN);
    }
}
