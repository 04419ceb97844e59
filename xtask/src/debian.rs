//! Debian's package manager, where there is one.

use std::{collections::BTreeSet, process::Command};

use anyhow::Result;

use crate::host;

/// What `apt-get install` is always told. A package that others conflict with never removes them unasked.
pub(crate) const INSTALL: [&str; 4] = ["install", "-y", "--no-install-recommends", "--no-remove"];

/// Whether packages come from apt here.
pub(crate) fn is_here() -> bool {
    host::on_path("apt-get")
}

/// Fetches the lists of packages. Old ones may do, so that it fails is no reason to stop.
pub(crate) fn update() {
    if let Err(error) = host::run(apt_get().arg("update"), "apt-get update") {
        eprintln!("{error:#}; going on with the lists of packages that are here");
    }
}

/// Installs packages.
///
/// # Errors
///
/// Where apt-get fails; its own words went to stderr.
pub(crate) fn install(packages: &BTreeSet<String>) -> Result<()> {
    host::run(apt_get().args(INSTALL).args(packages), "apt-get install")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether apt could install a package.
pub(crate) fn offers(package: &str) -> bool {
    capture(Command::new("apt-cache").args(["policy", package]))
        .is_some_and(|text| has_candidate(&text))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .is_some_and(|version| version != "(none)")
}

/// Whether a package is installed.
pub(crate) fn has(package: &str) -> bool {
    capture(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}\n", package]))
        .is_some_and(|text| text.lines().any(|status| status == "installed"))
}

fn capture(command: &mut Command) -> Option<String> {
    let output = command.env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::has_candidate;

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        let offered = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert!(has_candidate(offered));
        // A name that apt has only heard of, and one that it has not.
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
