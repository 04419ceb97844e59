//! What a user reads where the kernel refuses a program: a real refusal by the verifier of the kernel that this runs on.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::sys::utsname::uname;
use object::{Object, ObjectSection, ObjectSymbol};
use tracker_user::{
    agent::trial_load::TrialLoad,
    kernel::{link_kind::LinkKind, object as programs},
    model::{failure::Failure, refusal::Refusal},
};

/// The production object, but for the first instruction of one program: it reads beyond the context that the kernel hands it.
fn broken(program: &str) -> Result<Vec<u8>> {
    // r0 = *(u64 *)(r1 + 4096)
    const READ: [u8; 8] = [0x79, 0x10, 0x00, 0x10, 0, 0, 0, 0];
    let file = object::File::parse(programs::PLAIN)?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(program)).context("no symbol")?;
    let section = file.section_by_index(symbol.section_index().context("no section")?)?;
    let start = section.file_range().context("no place")?.0 + symbol.address();
    let start = usize::try_from(start)?;
    let mut copy = programs::PLAIN.to_vec();
    copy[start..start + READ.len()].copy_from_slice(&READ);
    Ok(copy)
}

fn refusal(trial: &TrialLoad) -> Result<Refusal> {
    let error = trial.interface(LinkKind::Ethernet, None).err().context("it was accepted")?;
    match error.failure() {
        Failure::Refused(refusal) => Ok(refusal.clone()),
        _ => bail!("another error: {error:#}"),
    }
}

#[test]
fn the_verifiers_last_words_are_passed_on() -> Result<()> {
    for program in ["tracker_arrival", "tracker_ingress", "tracker_egress"] {
        let trial = TrialLoad::new(&broken(program)?)?;
        let said = refusal(&trial)?.to_string();
        println!("{said}\n");
        let release = uname()?.release().to_string_lossy().into_owned();
        let first = format!(
            "Linux {release} refuses {program} (Permission denied (os error 13)); its verifier ends with"
        );
        assert_eq!(said.lines().next(), Some(&first[..]));
        let log: Vec<_> = said.lines().filter(|line| line.starts_with("    ")).collect();
        assert!((3..=5).contains(&log.len()), "{said}");
        assert_eq!(log.last(), Some(&"    invalid bpf_context access off=4096 size=8"));
        // The object knows its source.
        assert!(log.iter().any(|line| line.starts_with("    ; ")), "{said}");
        assert!(!said.contains("processed "), "{said}");
        assert!(said.ends_with("with the output of `tracker -v check`"), "{said}");
        // The others are as they were.
        let swept = trial.sweep()?;
        let names: Vec<_> = swept.iter().map(|accepted| &accepted.name[..]).collect();
        assert_eq!(names, ["tracker_sweep", "tracker_walk"]);
    }
    Ok(())
}

#[test]
fn a_trial_leaves_no_pins() -> Result<()> {
    let pins = || -> Result<Vec<_>> {
        let entries = fs::read_dir("/sys/fs/bpf")?.map(|entry| Ok(entry?.file_name()));
        entries.collect()
    };
    let accepted = TrialLoad::new(programs::PLAIN)?.interface(LinkKind::Ethernet, None)?;
    assert_eq!(accepted.len(), 3);
    // A map that is pinned where nobody says where goes there.
    for map in ["CONFIRMED", "HALF_OPEN", "EVENTS"] {
        assert!(!pins()?.iter().any(|pin| pin == map));
    }
    Ok(())
}
