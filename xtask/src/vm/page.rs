//! docs/kernels.md, from what a run showed.

use std::{collections::BTreeMap, fmt::Write, fs};

use anyhow::{Context, Result};

use super::outcome::{Ending, Outcome};
use crate::host;

const HEAD: &str = "# Kernels

`cargo xtask vm --write` writes this page. It boots Debian's packages of each kernel in QEMU, and runs the tests of `tests/tests`
inside: the same programs that `cargo test` runs on the host. `cargo xtask test` boots 6.1, 6.12 and the newest with a part of
them. `cargo xtask vm --arch arm64` boots 6.12 and the newest for ARM64, emulated, with the tests that `arm64` names in
tests/vm/suite.toml; this page has none of that.

tracker needs Linux 6.1 or newer with BTF (`CONFIG_DEBUG_INFO_BTF`). What differs from kernel to kernel is chosen by asking the
kernel, never by its version:

| Needed for | Chosen | Otherwise |
|---|---|---|
| leaving packets | tcx (since 6.6) | clsact |
| connections that a SYN cookie opens | tracker's own cookies and `bpf_sk_assign_tcp_reqsk` (since 6.9) | the kernel's cookies, which need `net.ipv4.tcp_syncookies=2` |
| arriving packets | native XDP on network cards | tcx (since 6.6) or clsact: on virtual interfaces, and where the driver has no native XDP |

";

/// Writes the page.
///
/// # Errors
///
/// Where it cannot be written.
pub(crate) fn write(outcomes: &[Outcome], is_short: bool) -> Result<()> {
    let page = host::workspace().join("docs/kernels.md");
    fs::write(&page, text(outcomes, is_short)?)
        .with_context(|| format!("writing {}", page.display()))
}

fn text(outcomes: &[Outcome], is_short: bool) -> Result<String> {
    let mut text = HEAD.to_owned();
    text.push_str("## Tests\n\n");
    text.push_str(if is_short {
        "These are the tests that continuous integration runs (`short` in tests/vm/suite.toml).\n\n"
    } else {
        "These are the tests of every program in tests/vm/suite.toml.\n\n"
    });
    text.push_str(
        "| Kernel | Leaving packets | Cookies | Passed | Absent |\n|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            outcome.kernel.release,
            outcome.fact("egress: ").unwrap_or("?"),
            outcome.fact("cookies: ").unwrap_or("?"),
            outcome.endings.values().filter(|ending| **ending == Ending::Passed).count(),
            outcome.absent.len(),
        )?;
    }
    text.push_str("\n## Instructions that the verifier follows\n\nThe kernel's limit is 1,000,000, the project's 500,000.\n\n");
    let mut counts = BTreeMap::<&str, Vec<Option<&str>>>::new();
    for (index, outcome) in outcomes.iter().enumerate() {
        for (program, count) in outcome.verified() {
            counts.entry(program).or_insert_with(|| vec![None; outcomes.len()])[index] =
                Some(count);
        }
    }
    let names: Vec<_> = outcomes.iter().map(|outcome| outcome.kernel.name.as_str()).collect();
    writeln!(text, "| Program | {} |\n|---|{}", names.join(" | "), "--:|".repeat(names.len()))?;
    for (program, counts) in counts {
        let counts: Vec<_> = counts.into_iter().map(|count| count.unwrap_or("-")).collect();
        writeln!(text, "| {program} | {} |", counts.join(" | "))?;
    }
    text.push_str("\n## Absences\n\nThese tests must fail on these kernels; one that passes fails the run.\n\n| Test | Kernels | Reason |\n|---|---|---|\n");
    let mut absences = BTreeMap::<(&str, &str), Vec<&str>>::new();
    for outcome in outcomes {
        for (test, reason) in &outcome.absent {
            absences.entry((test, reason)).or_default().push(&outcome.kernel.name);
        }
    }
    for ((test, reason), kernels) in absences {
        writeln!(text, "| `{test}` | {} | {reason} |", kernels.join(", "))?;
    }
    Ok(text)
}
