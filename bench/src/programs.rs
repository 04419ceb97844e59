//! The kernel programs, and what there is to set in them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{Xdp, XdpMode},
};
use etherparse::PacketBuilder;
use nix::net::if_::if_nametoindex;
use tracker_tests::namespace::Namespace;

use crate::cable::{Cable, PORT, SERVER, SOURCES};

/// All kernel programs of the benchmarks.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracker-bench-ebpf"));

/// The kernel programs, loaded for one cable.
#[derive(Debug)]
pub(crate) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads them, with a SYN that goes from one end of the cable to the other.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses them.
    pub(crate) fn load(cable: &Cable) -> Result<Self> {
        let (template, sums) = syn(cable.clients.hardware, cable.server.hardware)?;
        let (first, length) = SOURCES;
        let sources = [first.to_bits(), u32::MAX.checked_shr(length.into()).unwrap_or(0)];
        let wire = &cable.wire;
        let clients = wire.namespace.enter(|| Ok(if_nametoindex(wire.to_clients.as_str())?))?;
        let ebpf = EbpfLoader::new()
            .override_global("TEMPLATE", &template, true)
            .override_global("SUMS", &sums, true)
            .override_global("SOURCES", &sources, true)
            .override_global("CLIENTS", &clients, true)
            .load(OBJECT)
            .context("loading the benchmark's kernel programs")?;
        let mut programs = Self { ebpf };
        for name in ["flood", "merge", "split", "drop_all"] {
            programs.xdp(name)?.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(programs)
    }

    /// Attaches a program to an interface, for as long as this lives.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn attach(
        &mut self,
        name: &str,
        namespace: &Namespace,
        interface: &str,
    ) -> Result<()> {
        let program = self.xdp(name)?;
        namespace.enter(|| {
            program
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("attaching {name} to {interface}"))?;
            Ok(())
        })
    }

    /// The program that floods.
    ///
    /// # Errors
    ///
    /// Where the object is not ours.
    pub(crate) fn flood(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("flood").context("no program flood")?.try_into()?)
    }

    /// Sets how many nanoseconds there are between two SYNs, `u64::MAX` for none at all, and counts them anew.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn set_gap(&mut self, gap_ns: u64) -> Result<()> {
        let map = self.ebpf.map_mut("PACE").context("no map PACE")?;
        Array::<&mut MapData, [u64; 3]>::try_from(map)?.set(0, [gap_ns, 0, 0], 0)?;
        Ok(())
    }

    /// How many SYNs were sent since the gap was set.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn sent(&self) -> Result<u64> {
        let map = self.ebpf.map("PACE").context("no map PACE")?;
        let [_, _, sent] = Array::<&MapData, [u64; 3]>::try_from(map)?.get(&0, 0)?;
        Ok(sent)
    }

    /// How many SYN,ACKs have come back to the flood's sources.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn answers(&self) -> Result<u64> {
        let map = self.ebpf.map("ANSWERS").context("no map ANSWERS")?;
        let by_core = PerCpuArray::<&MapData, u64>::try_from(map)?.get(&0, 0)?;
        Ok(by_core.iter().sum())
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }
}

/// Length of the SYN, in bytes.
pub(crate) const SYN_LENGTH: usize = 74;

/// The SYN of a present-day client, with 0 in place of its source, its sequence number and its checksums, padded to whole
/// words; and the sums that its checksums begin with.
fn syn(from: [u8; 6], to: [u8; 6]) -> Result<([u64; 10], [u64; 2])> {
    use etherparse::TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };
    let mut frame = Vec::with_capacity(80);
    PacketBuilder::ethernet2(from, to)
        .ipv4(Ipv4Addr::UNSPECIFIED.octets(), SERVER.octets(), 64)
        .tcp(0, PORT, 0, 64_240)
        .syn()
        .options(&[
            MaximumSegmentSize(1460),
            SelectiveAcknowledgementPermitted,
            Timestamp(0x0102_0304, 0),
            Noop,
            WindowScale(7),
        ])?
        .write(&mut frame, &[])?;
    anyhow::ensure!(frame.len() == SYN_LENGTH, "a SYN of {} bytes", frame.len());
    for checksum in [24..26, 50..52] {
        frame[checksum].fill(0);
    }
    let tcp_length = u16::try_from(SYN_LENGTH - 34)?;
    let pseudo = [&frame[30..34], &[0, 6], &tcp_length.to_be_bytes()].concat();
    let sums = [sum(&frame[14..34]), sum(&pseudo) + sum(&frame[34..])];
    frame.resize(80, 0);
    let mut template = [0; 10];
    for (word, bytes) in template.iter_mut().zip(frame.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok((template, sums))
}

/// The sum of 16-bit words as they lie in memory.
fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks().0.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum()
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    /// The kernel programs finish the checksums as it is done here; etherparse says whether they are right.
    #[test]
    fn the_sums_lead_to_right_checksums() -> Result<()> {
        let (template, sums) = syn([2; 6], [4; 6])?;
        let mut frame: Vec<u8> = template.iter().flat_map(|word| word.to_ne_bytes()).collect();
        frame.truncate(SYN_LENGTH);
        let (source, port, sequence) =
            ([198, 19, 0xab, 0xcd], [0xfe, 0xdc], [0x98, 0x76, 0x54, 0xff]);
        frame[26..30].copy_from_slice(&source);
        frame[34..36].copy_from_slice(&port);
        frame[38..42].copy_from_slice(&sequence);
        let fold = |mut sum: u64| {
            while sum > 0xffff {
                sum = (sum >> 16) + (sum & 0xffff);
            }
            u16::try_from(sum).map(|sum| (!sum).to_ne_bytes())
        };
        frame[24..26].copy_from_slice(&fold(sums[0] + sum(&source))?);
        let tcp = sums[1] + sum(&source) + sum(&port) + sum(&sequence);
        frame[50..52].copy_from_slice(&fold(tcp)?);

        let packet = SlicedPacket::from_ethernet(&frame)?;
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
        let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("not TCP")
        };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(source, SERVER.octets())?);
        Ok(())
    }
}
