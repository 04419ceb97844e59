//! Debian's package manager, where there is one.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::host;

/// Arguments of every `apt-get install`. A package that others conflict with never removes them unasked.
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

/// The version of an installed package.
///
/// # Errors
///
/// Where it is not installed.
pub(crate) fn version(package: &str) -> Result<String> {
    let version = capture(Command::new("dpkg-query").args(["-W", "-f=${Version}", package]));
    version.with_context(|| format!("{package} is not installed"))
}

/// Unpacks a package of another architecture into a directory that does not exist yet. It comes from where this system's
/// packages come from, by an apt with folders of its own: this system's lists and packages stay as they are.
///
/// # Errors
///
/// Where it cannot be fetched; apt-get's own words went to stderr.
pub(crate) fn unpack_foreign(package: &str, architecture: &str, directory: &Path) -> Result<()> {
    let mut work = directory.as_os_str().to_owned();
    work.push(".new");
    let work = PathBuf::from(work);
    match fs::remove_dir_all(&work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let (state, cache) = (work.join("apt/state"), work.join("apt/cache"));
    fs::create_dir_all(state.join("lists/partial"))?;
    fs::create_dir_all(cache.join("archives/partial"))?;
    let status = state.join("status");
    fs::write(&status, "")?;
    let apt = |verb: &[&str]| {
        let mut command = apt_get();
        command.current_dir(&work).args(["-o", &format!("APT::Architecture={architecture}")]);
        command.args(["-o", &format!("APT::Architectures={architecture}")]);
        // Root's apt fetches as another user, who may not write here.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        for (folder, place) in
            [("Dir::State", &state), ("Dir::State::status", &status), ("Dir::Cache", &cache)]
        {
            command.arg("-o").arg(format!("{folder}={}", place.display()));
        }
        host::run(command.args(verb), &format!("apt-get {}", verb.join(" ")))
    };
    apt(&["-q", "update"])?;
    apt(&["-q", "download", package])?;
    let files = fs::read_dir(&work)?.collect::<Result<Vec<_>, _>>()?;
    let archive =
        files.iter().map(fs::DirEntry::path).find(|path| path.extension() == Some("deb".as_ref()));
    let archive = archive.context("apt-get has downloaded nothing")?;
    host::run(
        Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(work.join("root")),
        "dpkg-deb",
    )?;
    fs::rename(work.join("root"), directory)?;
    Ok(fs::remove_dir_all(&work)?)
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
