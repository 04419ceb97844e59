//! The kernel's verifier takes the programs, and has not much more to follow than it had.

use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use aya::{Btf, Ebpf, programs::Program};
use tracker_common::{config::InterfaceConfig, protect::Protection};
use tracker_tests::kernel::egress_ways;
use tracker_user::kernel::{
    kfunc::{self, Patched},
    load::{Sizes, load_protecting},
    object,
    private_bpffs::PrivateBpffs,
    protection::Prepared,
};

/// Instructions that the verifier may follow in one program; docs/internals.md says so too. The kernel's limit is
/// 1,000,000, and another kernel's verifier may need more than this one's for the same program.
const BUDGET: u32 = 500_000;

const SIZES: Sizes = Sizes { max_flows: 16, max_half_open: 16, ring_bytes: 1 << 16 };

const ETHERNET: InterfaceConfig =
    InterfaceConfig { slot: 1, zone: 0, raw_ip: 0, replay: 0, shared: 1, drops: 1, reserved: 0 };

/// The object, with all of its programs taken by the verifier but the one that only protection needs, and the
/// instructions that each took.
fn verified(object: &[u8], interface: InterfaceConfig) -> Result<(Ebpf, Vec<(String, u32)>)> {
    verified_protecting(object, interface, Protection::default(), false)
}

fn verified_protecting(
    object: &[u8],
    interface: InterfaceConfig,
    protection: Protection,
    hands_over: bool,
) -> Result<(Ebpf, Vec<(String, u32)>)> {
    let pins = PrivateBpffs::new()?;
    let mut ebpf = load_protecting(object, &pins.path(), &SIZES, interface, protection)?;
    let btf = Btf::from_sys_fs()?;
    let mut counts = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        if !(hands_over && protection.enabled != 0) && name == "tracker_handover" {
            continue;
        }
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::Iter(program) => program.load("bpf_map_elem", &btf),
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
    let Prepared { protection, assign } = Prepared::for_this_kernel()?;
    // Without the handover (before 6.9) the kernel's own cookies are all that protection needs of an object.
    let patched =
        assign.map(|id| Patched::new(object::PLAIN, kfunc::ASSIGN_PLACEHOLDER, id)).transpose()?;
    let object = patched.as_ref().map_or(object::PLAIN, Patched::bytes);
    println!("egress: {}", egress_ways()?[0]);
    println!("cookies: {}", if patched.is_some() { "tracker's own" } else { "the kernel's" });
    let raw_ip = InterfaceConfig { raw_ip: 1, ..ETHERNET };
    let observing = Protection::default();
    let kinds = [
        ("Ethernet", ETHERNET, observing),
        ("raw IP", raw_ip, observing),
        ("replay", InterfaceConfig { replay: 1, ..ETHERNET }, observing),
        ("Ethernet, protected", ETHERNET, protection),
        ("raw IP, protected", raw_ip, protection),
    ];
    // All at the same time: each takes an emulated kernel half a minute.
    let outcomes = thread::scope(|scope| {
        let all = kinds.map(|(kind, interface, protection)| {
            let hands_over = patched.is_some();
            let counts = scope.spawn(move || {
                Ok(verified_protecting(object, interface, protection, hands_over)?.1)
            });
            (kind, protection, counts)
        });
        all.map(|(kind, protection, counts)| (kind, protection, counts.join()))
    });
    for (kind, protection, counts) in outcomes {
        let counts: Result<_> = counts.map_err(|_| anyhow!("{kind}: the thread panicked"))?;
        let counts: Vec<(String, u32)> = counts.context(kind)?;
        let names: Vec<_> = counts.iter().map(|(name, _)| name.as_str()).collect();
        let all = [
            "tracker_arrival",
            "tracker_egress",
            "tracker_handover",
            "tracker_ingress",
            "tracker_sweep",
            "tracker_walk",
        ];
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|name| {
                (patched.is_some() && protection.enabled != 0) || *name != "tracker_handover"
            })
            .collect();
        assert_eq!(names, wanted);
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
    assert_eq!(counts.len(), 5);
    for (name, count) in counts {
        println!("with debug messages: {name} {count}");
    }
    Ok(())
}
