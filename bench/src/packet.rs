//! `cargo xtask bench packet`: what one packet costs, beside the least that a program could do for it.

pub(crate) mod frame;
pub(crate) mod rig;

use std::{collections::BTreeMap, fmt::Write, ops::Range, path::Path};

use anyhow::{Result, ensure};
use tracker_common::counters::Fate;

use self::{
    frame::{Family, Frame, Kind},
    rig::{COOKIES, Rig, Target},
};
use crate::{
    cpu::{Cores, Task},
    machine, section,
    spread::Spread,
    table::{Table, grouped},
};

const COMMAND: &str = "cargo xtask bench packet";

/// The numbers of flows that are measured, with rounds and with turns a round.
const ONE: (u32, u32, u32) = (1, 9, 100_000);
const SOME: (u32, u32, u32) = (10_000, 9, 10);
const MANY: (u32, u32, u32) = (1_000_000, 5, 1);

/// Room for half-open flows: the command's default.
const HALF_OPEN: u32 = 65_536;

/// Flows that are opened at a time.
const CHUNK: u32 = 50_000;

/// One packet of so many flows, by name: a line of a table.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Line {
    order: u32,
    packet: &'static str,
    family: &'static str,
    flows: u32,
}

/// Nanoseconds of each program at each measurement, net of one that only passes.
type Figures = BTreeMap<Line, Vec<Vec<f64>>>;

/// Measures, prints the section, and writes it into docs/performance.md.
///
/// # Errors
///
/// Where nothing can be measured here, or something else than intended was measured.
pub(crate) fn packet() -> Result<()> {
    let machine = machine::describe();
    Task::this_thread().pin(Cores::choose()?.server)?;
    let mut bench = Bench::default();
    for family in Family::ALL {
        for (flows, rounds, turns) in [ONE, SOME] {
            bench.few(family, flows, rounds, turns)?;
        }
        bench.many(family)?;
        bench.flood(family)?;
        bench.others(family)?;
    }
    let text = bench.section(&machine)?;
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    section::write(&page, "packet", COMMAND, &text)?;
    eprintln!("Written to docs/performance.md.");
    Ok(())
}

/// What was measured, by table.
#[derive(Default)]
struct Bench {
    established: Figures,
    opening: Figures,
    inserting: Figures,
    others: Figures,
}

/// Measures one packet for several programs, which take turns, and adds what they took.
fn measure(
    rig: &mut Rig,
    frame: &Frame,
    flows: Range<u32>,
    turns: u32,
    targets: &[Target],
    into: &mut Vec<Vec<f64>>,
) -> Result<()> {
    let nothing = rig.run(frame, flows.clone(), turns, Target::Nothing)?;
    into.resize(targets.len(), Vec::new());
    for (target, figures) in targets.iter().zip(into) {
        figures.push(rig.run(frame, flows.clone(), turns, *target)? - nothing);
    }
    Ok(())
}

impl Bench {
    /// Flows that all fit into caches, or nearly: everything from their SYNs to their ends, again and again.
    fn few(&mut self, family: Family, flows: u32, rounds: u32, turns: u32) -> Result<()> {
        let mut rig = Rig::new(2 * flows.max(1000), HALF_OPEN, false)?;
        let all = 0..flows;
        for _ in 0..rounds {
            let at = |order, packet| Line { order, packet, family: family.name(), flows };
            let lru = &[Target::Tracker, Target::InsertLru][..];
            let hash = &[Target::Tracker, Target::Insert, Target::InsertGrowing][..];
            let found = &[Target::Tracker, Target::LookUp, Target::LookUpTimeless][..];
            let first = |kind| Frame::new(kind, family, 0);
            let (mut syn, mut third) = (Vec::new(), Vec::new());
            measure(&mut rig, &first(Kind::Syn)?, all.clone(), 1, lru, &mut syn)?;
            rig.run(&first(Kind::SynAck)?, all.clone(), 1, Target::Tracker)?;
            measure(&mut rig, &first(Kind::ThirdAck)?, all.clone(), 1, hash, &mut third)?;
            rig.run(&first(Kind::WindowUpdate)?, all.clone(), 1, Target::Tracker)?;
            let mut add = |table: &mut Figures, line: Line, kind, flows, turns| {
                let frame = Frame::new(kind, family, 0)?;
                let figures = table.entry(line).or_default();
                measure(&mut rig, &frame, flows, turns, found, figures)
            };
            add(&mut self.established, at(0, "data"), Kind::Data, all.clone(), turns)?;
            add(&mut self.established, at(1, "ACK"), Kind::Ack, all.clone(), turns)?;
            if flows == 1 {
                // One of each says nothing.
                rig.clear()?;
                continue;
            }
            let half = flows / 2;
            for (line, kind, range) in
                [(at(2, "FIN"), Kind::Fin, 0..half), (at(3, "RST"), Kind::Rst, half..flows)]
            {
                let frame = Frame::new(kind, family, turns)?;
                measure(&mut rig, &frame, range, 1, found, self.opening.entry(line).or_default())?;
            }
            extend(self.inserting.entry(at(0, "SYN")).or_default(), syn);
            extend(self.inserting.entry(at(2, "third segment")).or_default(), third);
            rig.clear()?;
        }
        check(&rig)
    }

    /// Flows that fit into no cache.
    fn many(&mut self, family: Family) -> Result<()> {
        let (flows, rounds, turns) = MANY;
        let mut rig = Rig::new(flows + flows / 4, HALF_OPEN, false)?;
        let at = |order, packet| Line { order, packet, family: family.name(), flows };
        let hash = &[Target::Tracker, Target::Insert, Target::InsertGrowing];
        let found = &[Target::Tracker, Target::LookUp, Target::LookUpTimeless];
        for from in (0..flows).step_by(CHUNK as usize) {
            let chunk = from..from + CHUNK;
            for kind in [Kind::Syn, Kind::SynAck] {
                rig.run(&Frame::new(kind, family, 0)?, chunk.clone(), 1, Target::Tracker)?;
            }
            let figures = self.inserting.entry(at(2, "third segment")).or_default();
            let third = Frame::new(Kind::ThirdAck, family, 0)?;
            measure(&mut rig, &third, chunk.clone(), 1, hash, figures)?;
            let update = Frame::new(Kind::WindowUpdate, family, 0)?;
            rig.run(&update, chunk, 1, Target::Tracker)?;
        }
        for round in 0..rounds {
            for (line, kind) in [(at(0, "data"), Kind::Data), (at(1, "ACK"), Kind::Ack)] {
                let frame = Frame::new(kind, family, round * turns)?;
                let figures = self.established.entry(line).or_default();
                measure(&mut rig, &frame, 0..flows, turns, found, figures)?;
            }
        }
        let (half, part) = (flows / 2, flows / 2 / rounds);
        for round in 0..rounds {
            for (line, kind, from) in
                [(at(2, "FIN"), Kind::Fin, 0), (at(3, "RST"), Kind::Rst, half)]
            {
                let frame = Frame::new(kind, family, rounds * turns)?;
                let range = from + round * part..from + (round + 1) * part;
                measure(&mut rig, &frame, range, 1, found, self.opening.entry(line).or_default())?;
            }
        }
        check(&rig)
    }

    /// SYNs that nobody goes on with, into a table that is full of them.
    fn flood(&mut self, family: Family) -> Result<()> {
        let mut rig = Rig::new(1000, HALF_OPEN, false)?;
        let frame = Frame::new(Kind::Syn, family, 0)?;
        let line =
            Line { order: 1, packet: "SYN, table full", family: family.name(), flows: HALF_OPEN };
        let lru = &[Target::Tracker, Target::InsertLru];
        for target in lru {
            rig.run(&frame, 0..2 * HALF_OPEN, 1, *target)?;
        }
        for round in 1..=9 {
            let range = round * 2 * HALF_OPEN..(round + 1) * 2 * HALF_OPEN;
            let figures = self.inserting.entry(line.clone()).or_default();
            measure(&mut rig, &frame, range, 1, lru, figures)?;
        }
        check(&rig)
    }

    /// What is no part of a connection, and what is one's only by a cookie.
    fn others(&mut self, family: Family) -> Result<()> {
        let lab = tracker_tests::namespace::Namespace::new()?;
        // The programs look for a listener in the namespace of whoever runs them.
        lab.enter(|| self.others_here(family))
    }

    fn others_here(&mut self, family: Family) -> Result<()> {
        let any: std::net::SocketAddr = match family {
            Family::V4 => (std::net::Ipv4Addr::UNSPECIFIED, frame::PORT).into(),
            Family::V6 => (std::net::Ipv6Addr::UNSPECIFIED, frame::PORT).into(),
        };
        let _listener = std::net::TcpListener::bind(any)?;
        let mut rig = Rig::new(20 * COOKIES, HALF_OPEN, true)?;
        let at = |order, packet, flows| Line { order, packet, family: family.name(), flows };
        let tracker = &[Target::Tracker];
        let udp = Frame::new(Kind::Udp, family, 0)?;
        let mut syn = Frame::new(Kind::Syn, family, 0)?;
        let mut third = Frame::new(Kind::Cookie, family, 0)?;
        for _ in 0..9 {
            // A cookie is accepted once.
            syn.seq += 1;
            third.seq += 1;
            let before = rig.counted(Fate::CookieSent)?;
            let figures = self.others.entry(at(0, "no TCP (UDP)", 1)).or_default();
            measure(&mut rig, &udp, 0..1, 100_000, tracker, figures)?;
            let figures =
                self.others.entry(at(1, "SYN, answered with a cookie", COOKIES)).or_default();
            measure(&mut rig, &syn, 0..COOKIES, 10, tracker, figures)?;
            let sent = rig.counted(Fate::CookieSent)? - before;
            ensure!(sent == u64::from(COOKIES) * 10, "{sent} SYNs were answered");
            rig.take_cookies(&syn, 0..COOKIES)?;
            let opened = self.cookies(
                &mut rig,
                &third,
                at(2, "third segment with a right cookie", COOKIES),
            )?;
            ensure!(opened[0] == u64::from(COOKIES), "{opened:?}: not every cookie was right");
            rig.clear()?;
            rig.forge_answers(0..COOKIES)?;
            let refused =
                self.cookies(&mut rig, &third, at(3, "third segment with a forged one", COOKIES))?;
            ensure!(refused[1] == u64::from(COOKIES), "{refused:?}: a forged cookie was right");
        }
        Ok(())
    }

    /// How many were tracked, and how many refused.
    fn cookies(&mut self, rig: &mut Rig, third: &Frame, line: Line) -> Result<[u64; 2]> {
        let count = |rig: &Rig| -> Result<[u64; 2]> {
            Ok([rig.counted(Fate::Tracked)?, rig.counted(Fate::CookieRefused)?])
        };
        let nothing = rig.run_answering(third, 0..COOKIES, 1, Target::Nothing, true)?;
        let before = count(rig)?;
        let took = rig.run_answering(third, 0..COOKIES, 1, Target::Tracker, true)?;
        let after = count(rig)?;
        extend(self.others.entry(line).or_default(), vec![vec![took - nothing]]);
        Ok([after[0] - before[0], after[1] - before[1]])
    }

    fn section(&self, machine: &str) -> Result<String> {
        let mut text =
            format!("## What a packet costs\n\n{machine}\nWritten by the command above.\n\n");
        text += TEXT;
        for (title, header, figures) in [
            ("A flow that is known", &["look-up", "without a clock"][..], &self.established),
            ("A flow that ends", &["look-up", "without a clock"], &self.opening),
            ("A flow that begins", &["insertion", "growing"], &self.inserting),
            ("What is no flow's", &[], &self.others),
        ] {
            write!(text, "\n### {title}\n\n{}", into_table(header, figures))?;
        }
        Ok(text)
    }
}

/// How the figures came about.
const TEXT: &str = "\
- Nanoseconds of one run of the program for arriving packets, as `tracker run` attaches it, above those of one that only
  passes the packet on. `BPF_PROG_TEST_RUN` runs them; before each run a program of the benchmark writes the next flow's
  packet over what the last run has made of it, and jumps to what is measured. No packet is like the one before:
  flows take turns, and numbers go on as those of a transfer do.
- *Look-up* is the least that a tracker can do for a flow that it knows: read the headers, find a record of the same
  size by the same key in the same kind of table, write 64 bytes of it, among them the time; *without a clock* the
  same without the time. *Insertion* is the least for one that it does not: read the headers, insert a record of the
  same size into the same kind of table: one that evicts for a SYN, one that does not for the third segment, which is
  copied from the first to the second and deleted there. Both have taken all of their memory before; one that is
  *growing* asks for it at each insertion.
- The programs take turns; medians, in brackets the least and the most.
- With one flow everything is in the first cache; 10,000 flows fit into the second or third; a million into none.
";

fn extend(into: &mut Vec<Vec<f64>>, further: Vec<Vec<f64>>) {
    into.resize(further.len(), Vec::new());
    for (figures, further) in into.iter_mut().zip(further) {
        figures.extend(further);
    }
}

fn into_table(others: &[&str], figures: &Figures) -> String {
    let mut header = vec!["Packet", "flows", "tracker, ns"];
    let named: Vec<_> = others.iter().map(|name| format!("{name}, ns")).collect();
    header.extend(named.iter().map(String::as_str));
    if !others.is_empty() {
        header.push("tracker / first");
    }
    let mut table = Table::new(&header);
    for (line, figures) in figures {
        let spreads: Vec<_> =
            figures.iter().filter_map(|figures| Spread::of(figures.clone())).collect();
        let mut cells =
            vec![format!("{}, {}", line.packet, line.family), grouped(u64::from(line.flows))];
        cells.extend((0..=others.len()).map(|n| {
            spreads.get(n).map_or_else(String::new, |spread| {
                format!("{:.0} ({:.0} to {:.0})", spread.median, spread.least, spread.most)
            })
        }));
        if let [tracker, first, ..] = &*spreads
            && !others.is_empty()
        {
            cells.push(format!("{:.2}", tracker.median / first.median));
        }
        table.row(cells);
    }
    table.into_text()
}

/// Everything was legal, and tracked.
fn check(rig: &Rig) -> Result<()> {
    let violations = rig.violations()?;
    ensure!(violations.is_empty(), "this is not what the benchmark measures: {violations:?}");
    for fate in [Fate::NotInserted, Fate::NoFlow, Fate::Illegal] {
        let count = rig.counted(fate)?;
        ensure!(count == 0, "{count} packets were {}", fate.name());
    }
    Ok(())
}
