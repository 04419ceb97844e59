//! `cargo xtask bench forging`: how many of many acknowledgments that somebody makes up the programs take.

use std::{fmt::Write, net::TcpListener, path::Path};

use anyhow::{Result, ensure};
use tracker_common::{cookie::HASH_BITS, protect::Outcome};
use tracker_tests::namespace::Namespace;

use crate::{
    machine,
    packet::{
        frame::{Family, Frame, Kind, PORT},
        rig::{Rig, Target},
    },
    section,
    table::{Table, grouped},
};

const COMMAND: &str = "cargo xtask bench forging";

/// Clients that acknowledgments are made up for, and how many for each: 2^26 in all.
const CLIENTS: u32 = 1 << 16;
const EACH: u32 = 1 << 10;

/// From one acknowledgment to the next: odd, so that none comes twice.
const STEP: u32 = 0x9e37_79b1;

/// Measures, prints the section, and writes it into docs/syn-cookies.md.
///
/// # Errors
///
/// Where nothing can be measured here.
pub(crate) fn forging() -> Result<()> {
    let machine = machine::describe();
    let lab = Namespace::new()?;
    // The programs look for a listener in the namespace of whoever runs them.
    let text = lab.enter(|| {
        let _listener = TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, PORT))?;
        let mut table = Table::new(&["Acknowledgment", "made up", "taken", "expected", "ns each"]);
        let all = u64::from(CLIENTS) * u64::from(EACH);
        for (kind, name, expected) in [
            (Kind::PlainCookie, "without timestamps", (all >> HASH_BITS) * 3 / 4),
            (Kind::Cookie, "with timestamps", 0),
        ] {
            let (taken, nanoseconds) = taken(kind)?;
            table.row([
                name.to_owned(),
                grouped(all),
                grouped(taken),
                grouped(expected),
                format!("{nanoseconds:.0}"),
            ]);
        }
        Ok(table.into_text())
    })?;
    let mut body = String::new();
    writeln!(body, "{machine}\nWritten by the command above. {TEXT}\n\n{text}")?;
    println!("{body}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/syn-cookies.md");
    section::write(&page, "forging", COMMAND, &body)?;
    eprintln!("Written to docs/syn-cookies.md.");
    Ok(())
}

const TEXT: &str = "Each client's acknowledgments go through all of the sequence space in 1,024 steps; \
    `BPF_PROG_TEST_RUN` runs the program for arriving packets. A number can name \
    four periods, of which three are accepted.";

/// How many were taken for connections, and nanoseconds for each that was not.
fn taken(kind: Kind) -> Result<(u64, f64)> {
    let mut rig = Rig::new(2 * CLIENTS, CLIENTS, true)?;
    let mut frame = Frame::new(kind, Family::V4, 0)?;
    frame.ack_step = STEP;
    let nanoseconds = rig.run(&frame, 0..CLIENTS, EACH, Target::Tracker)?;
    let (taken, refused) = (rig.cookies(Outcome::Accepted)?, rig.cookies(Outcome::Forged)?);
    let all = u64::from(CLIENTS) * u64::from(EACH);
    // What a client sends after one that was taken belongs to its connection.
    let most = u64::from(EACH) * (taken + 1);
    ensure!(refused + most >= all, "{taken} taken and {refused} refused of {all}");
    // Twenty times what is expected at most: with another number something else was measured.
    ensure!(taken < 20 * (all >> HASH_BITS), "{taken} were taken");
    Ok((taken, nanoseconds))
}
