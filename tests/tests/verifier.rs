//! The kernel's verifier takes the programs, and has not much more to follow than it had.

use anyhow::{Context, Result, bail};
use aya::{Ebpf, programs::Program};
use tracker_common::config::InterfaceConfig;
use tracker_user::{
    attach::{Sizes, load},
    object,
    private_bpffs::PrivateBpffs,
};

/// Instructions that the verifier may follow in one program; docs/internals.md says so too. The kernel's limit is
/// 1,000,000, and another kernel's verifier may need more than this one's for the same program.
const BUDGET: u32 = 500_000;

const SIZES: Sizes = Sizes { max_flows: 16, max_half_open: 16, ring_bytes: 1 << 16 };

const ETHERNET: InterfaceConfig =
    InterfaceConfig { slot: 1, zone: 0, raw_ip: 0, replay: 0, reserved: 0 };

/// The object, with all of its programs taken by the verifier, and the instructions that each took.
fn verified(object: &[u8], interface: InterfaceConfig) -> Result<(Ebpf, Vec<(String, u32)>)> {
    let pins = PrivateBpffs::new()?;
    let mut ebpf = load(object, &pins.path(), &SIZES, interface)?;
    let mut counts = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => bail!("{name} is of another kind"),
        }
        .with_context(|| format!("the verifier refused {name}"))?;
        let count = program.info()?.verified_instruction_count();
        counts.push((name.to_owned(), count.context("this kernel does not say")?));
    }
    counts.sort();
    Ok((ebpf, counts))
}

#[test]
fn every_program_stays_within_its_budget() -> Result<()> {
    let mut over = Vec::new();
    for (kind, interface) in [
        ("Ethernet", ETHERNET),
        ("raw IP", InterfaceConfig { raw_ip: 1, ..ETHERNET }),
        ("replay", InterfaceConfig { replay: 1, ..ETHERNET }),
    ] {
        let (_ebpf, counts) = verified(object::PLAIN, interface)?;
        let names: Vec<_> = counts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tracker_egress", "tracker_ingress", "tracker_sweep"]);
        for (name, count) in &counts {
            println!("{kind}: {name} {count} of {BUDGET}");
            if !(1..=BUDGET).contains(count) {
                over.push(format!("{kind}: {name} {count}"));
            }
        }
    }
    assert!(over.is_empty(), "the budget is {BUDGET} instructions: {}", over.join(", "));
    Ok(())
}

#[test]
fn the_programs_with_debug_messages_load() -> Result<()> {
    let (_ebpf, counts) = verified(object::WITH_LOG, ETHERNET)?;
    assert_eq!(counts.len(), 3);
    for (name, count) in counts {
        println!("with debug messages: {name} {count}");
    }
    Ok(())
}
