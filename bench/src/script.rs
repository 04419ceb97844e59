//! Segments of many connections, sent by a kernel program: handshakes, data, and whole connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use nix::net::if_::if_nametoindex;
use tracker_tests::namespace::Namespace;

use crate::{cable::End, cpu::Task, programs::OBJECT};

/// Every frame's length.
const LENGTH: usize = 60;

/// Frames that the kernel hands to the program in a row.
const BATCH: u32 = 64;

/// Frames of one system call, where they have to wait until they are due.
const WAITING: u32 = 1 << 17;

/// A script that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(60);

const WORDS: usize = 9 + 8 * 4;
const MADE: usize = 2;

const FIN: u64 = 1;
const SYN: u64 = 2;
const ACK: u64 = 16;
const BY_SERVER: u64 = 1 << 8;
const OPTIONS: u64 = 1 << 9;

/// A segment: what it is, its sequence number, its acknowledgment, and what its sequence number grows by.
type Step = [u64; 4];

/// The client's SYN.
pub(crate) const OPEN: Step = [SYN | OPTIONS, 1_000, 0, 0];
/// The server's answer.
pub(crate) const ANSWER: Step = [SYN | ACK | OPTIONS | BY_SERVER, 5_000, 1_001, 0];
/// The client's answer to that.
pub(crate) const CONFIRM: Step = [ACK, 1_001, 5_001, 0];
/// The server's window, scaled, as any of its segments offers it.
pub(crate) const UPDATE: Step = [ACK | BY_SERVER, 5_001, 1_001, 0];
/// The client's FIN.
pub(crate) const CLOSE: Step = [FIN | ACK, 1_001, 5_001, 0];
/// The server's.
pub(crate) const CLOSE_TOO: Step = [FIN | ACK | BY_SERVER, 5_001, 1_002, 0];
/// The client's answer to that.
pub(crate) const DONE: Step = [ACK, 1_002, 5_002, 0];
/// Six bytes from the client, two behind where the last ones ended: the router must not make one packet of several.
pub(crate) const DATA: Step = [ACK | 6 << 16, 1_001, 5_001, 8];
/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The first flow's number.
    pub(crate) first: u64,
    /// How many flows take turns; the first follows the last.
    pub(crate) flows: u64,
    /// How many turns each has had before.
    pub(crate) turns: u64,
    /// How many segments.
    pub(crate) segments: u64,
    /// Segments a second, or as many as there can be.
    pub(crate) rate: Option<u64>,
}

/// The kernel programs, as they are loaded for one end of one wire.
#[derive(Debug)]
pub(crate) struct Sender {
    ebpf: Ebpf,
    ethernet: [u64; 2],
    interface: u32,
}

impl Sender {
    /// Loads them for frames from an end of a wire to the other.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn new(from: &End, to: [u8; 6]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading the sender")?;
        for name in ["segments", "drop_all"] {
            xdp(&mut ebpf, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        // The Ethernet header, and the first two bytes of the IPv4 header.
        let mut header = [0; 16];
        header[..6].copy_from_slice(&to);
        header[6..12].copy_from_slice(&from.hardware);
        header[12..].copy_from_slice(&[8, 0, 0x45, 0]);
        let (words, _) = header.as_chunks();
        let ethernet = [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])];
        let name = from.interface.as_str();
        let interface = from.namespace.enter(|| Ok(if_nametoindex(name)?))?;
        // What arrives there is dropped as early as can be.
        from.namespace.enter(|| {
            xdp(&mut ebpf, "drop_all")?.attach(name, XdpMode::Driver)?;
            Ok(())
        })?;
        Ok(Self { ebpf, ethernet, interface })
    }

    /// Sends what a load asks for, on a core, and returns how long that took.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses, or it takes too long.
    pub(crate) fn send(
        &mut self,
        namespace: &Namespace,
        core: usize,
        steps: &[Step],
        load: Load,
    ) -> Result<Duration> {
        let mut script = [0; WORDS];
        let gap = load.rate.map_or(0, |rate| 1_000_000_000 / rate.max(1));
        script[..7].copy_from_slice(&[
            gap,
            0,
            0,
            load.segments,
            load.flows,
            load.first,
            u64::try_from(steps.len())?,
        ]);
        script[7..9].copy_from_slice(&self.ethernet);
        for (words, step) in script[9..].chunks_exact_mut(4).zip(steps) {
            words.copy_from_slice(step);
            words[1] += load.turns * step[3];
        }
        self.script()?.set(0, script, 0)?;
        namespace.enter(|| {
            Task::this_thread().pin(core)?;
            let started = Instant::now();
            loop {
                let left = load.segments.saturating_sub(self.script()?.get(&0, 0)?[MADE]);
                if left == 0 {
                    return Ok(started.elapsed());
                }
                ensure!(started.elapsed() < LONGEST, "{left} segments are left after {LONGEST:?}");
                let repeat = if gap == 0 { u32::try_from(left)? } else { WAITING };
                self.run(repeat)?;
            }
        })
    }

    fn run(&mut self, repeat: u32) -> Result<()> {
        // `struct xdp_md`: where the frame begins and ends, and where it seems to have arrived.
        let context: Vec<u8> = [0, u32::try_from(LENGTH)?, 0, self.interface, 0, 0]
            .iter()
            .flat_map(|number: &u32| number.to_ne_bytes())
            .collect();
        xdp(&mut self.ebpf, "segments")?
            .test_run(TestRunOptions {
                data_in: Some(&[0; LENGTH]),
                ctx_in: Some(&context),
                repeat,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            })
            .context("sending needs BPF_F_TEST_XDP_LIVE_FRAMES, which Linux has since 5.18")?;
        Ok(())
    }

    fn script(&mut self) -> Result<Array<&mut MapData, [u64; WORDS]>> {
        Ok(self.ebpf.map_mut("SCRIPT").context("no map SCRIPT")?.try_into()?)
    }
}

fn xdp<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}
