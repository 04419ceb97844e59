//! A package for Debian, by dpkg-deb.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{Programs, compress, copy, lay_out, write};
use crate::host;

/// What it has besides what either package has.
const FILES: [(&str, &str, u32); 4] = [
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
    ("packaging/debian/lintian-overrides", "usr/share/lintian/overrides/tracker", 0o644),
];

/// Whom the package names.
const MAINTAINER: &str = "The tracker developers <tracker@localhost>";

/// Puts a package together in `directory`, and returns it.
///
/// # Errors
///
/// Where something cannot be written, or dpkg-deb is missing.
pub(super) fn assemble(programs: &Programs<'_>, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    lay_out(programs, &root, "usr/share/zsh/vendor-completions", directory)?;
    for (from, to, mode) in FILES {
        copy(&host::workspace().join(from), &root.join(to), mode)?;
    }
    compress(&root.join("usr/share/doc/tracker/CHANGELOG.md"))?;
    let changelog = root.join("usr/share/doc/tracker/changelog");
    write(&changelog, &changelog_of_the_package()?)?;
    compress(&changelog)?;
    write(&root.join("usr/share/doc/tracker/copyright"), &copyright()?)?;
    write(&root.join("DEBIAN/conffiles"), "/etc/tracker/tracker.toml\n")?;
    let architecture = programs.target.debian();
    write(&root.join("DEBIAN/control"), &control(programs.program, architecture)?)?;

    let version = env!("CARGO_PKG_VERSION");
    let package = directory.join(format!("tracker_{version}_{architecture}.deb"));
    host::run(
        Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).arg(&root).arg(&package),
        "dpkg-deb",
    )?;
    Ok(package)
}

/// Debian's own, which has what changed in the package.
fn changelog_of_the_package() -> Result<String> {
    let date = Command::new("date").args(["--utc", "--rfc-email"]).output().context("date")?;
    ensure!(date.status.success(), "date: {}", date.status);
    Ok(format!(
        "tracker ({}) unstable; urgency=medium\n\n  * CHANGELOG.md says what changed.\n\n -- {MAINTAINER}  {}",
        env!("CARGO_PKG_VERSION"),
        String::from_utf8(date.stdout)?
    ))
}

fn control(program: &Path, architecture: &str) -> Result<String> {
    let (major, minor) = glibc(&fs::read(program)?).context("it needs no version of glibc")?;
    Ok(format!(
        "Package: tracker\n\
         Version: {}\n\
         Architecture: {architecture}\n\
         Maintainer: {MAINTAINER}\n\
         Section: net\n\
         Priority: optional\n\
         Depends: libc6 (>= {major}.{minor}), libgcc-s1\n\
         Description: knows what every TCP connection on an interface is doing\n \
         Kernel programs (XDP and tcx) derive the state of both ends of every TCP\n \
         connection, report what breaks the protocol, and answer SYN floods with\n \
         SYN cookies. It observes, and changes no packet, unless asked to protect.\n",
        env!("CARGO_PKG_VERSION")
    ))
}

/// The newest version of glibc whose symbols a program asks for; they stand in it as `GLIBC_2.34`.
fn glibc(program: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"GLIBC_";
    let versions = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    versions
        .filter_map(|(at, _)| {
            let rest = &program[at + NAME.len()..];
            let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
            let mut numbers = std::str::from_utf8(&rest[..end]).ok()?.split('.');
            Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        })
        .max()
}

fn copyright() -> Result<String> {
    let mit = fs::read_to_string(host::workspace().join("LICENSE-MIT"))?;
    Ok(format!(
        "tracker is licensed under the MIT licence, which follows, or the Apache licence, version 2.0, which is in\n\
         /usr/share/common-licenses/Apache-2.0, as you like. Its kernel programs declare themselves `Dual MIT/GPL`; the GPL's\n\
         version 2 is in /usr/share/common-licenses/GPL-2.\n\n{mit}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc() {
        assert_eq!(glibc(b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE\0"), Some((2, 34)));
        assert_eq!(glibc(b"nothing"), None);
    }
}
