//! A package for systems with RPM, by rpmbuild.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{Programs, copy, lay_out};
use crate::host;

/// Puts a package together in `directory`, and returns it.
///
/// # Errors
///
/// Where something cannot be written, or rpmbuild is missing.
pub(super) fn assemble(programs: &Programs<'_>, directory: &Path) -> Result<PathBuf> {
    let (root, work) = (directory.join("rpm-root"), directory.join("rpmbuild"));
    host::remove_all(&work)?;
    lay_out(programs, &root, "usr/share/zsh/site-functions", directory)?;
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let to = root.join("usr/share/licenses/tracker").join(name);
        copy(&host::workspace().join(name), &to, 0o644)?;
    }
    let (version, processor) = (env!("CARGO_PKG_VERSION"), programs.target.processor());
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    let path = |path: &Path| path.display().to_string();
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild
        .args(["-bb", "--quiet", "--target", &format!("{processor}-linux")])
        .args(define("_topdir", &path(&work)))
        .args(define("_rpmdir", &path(directory)))
        .args(define("_rpmfilename", "%{name}-%{version}-%{release}.%{arch}.rpm"))
        .args(define("laid_out", &path(&root)))
        .args(define("release_version", version))
        .arg(host::workspace().join("packaging/rpm/tracker.spec"));
    host::run(&mut rpmbuild, "rpmbuild, of the package rpm or rpm-build")?;
    Ok(directory.join(format!("tracker-{version}-1.{processor}.rpm")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use anyhow::{Context, ensure};

    use super::*;
    use crate::{cross::Target, package::EXAMPLES};

    #[test]
    fn a_package() -> Result<()> {
        // This program is in `deps` beside it.
        let built = std::env::current_exe()?.ancestors().nth(2).map(Path::to_owned);
        let built = built.context("this program is not in cargo's target directory")?;
        let program = built.join("tracker");
        let programs = Programs { program: &program, target: Target::here()?, own: &program };
        let directory = built.join("rpm-test");
        let package = assemble(&programs, &directory)?;
        let ask = |what: &[&str]| -> Result<String> {
            let mut rpm = Command::new("rpm");
            let output = rpm.args(["--query", "--package"]).args(what).arg(&package).output();
            let output = output.context("starting rpm: `cargo xtask setup` installs it")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8(output.stdout)?)
        };
        let list = ask(&["--list"])?;
        let files: BTreeSet<&str> = list.lines().collect();
        for path in [
            "/usr/bin/tracker",
            "/usr/lib/systemd/system/tracker.service",
            "/usr/share/man/man1/tracker-run.1.gz",
            "/usr/share/man/man5/tracker.toml.5.gz",
            "/usr/share/licenses/tracker/LICENSE-MIT",
            "/usr/share/zsh/site-functions/_tracker",
        ] {
            ensure!(files.contains(path), "{path}: {list}");
        }
        let examples = "/usr/share/doc/tracker/examples";
        ensure!(EXAMPLES.iter().all(|name| files.contains(&*format!("{examples}/{name}"))));
        ensure!(ask(&["--configfiles"])? == "/etc/tracker/tracker.toml\n");
        // It needs glibc and nothing of this machine's; root owns everything.
        let needs = ask(&["--requires"])?;
        ensure!(
            needs.contains("libc.so.6(GLIBC_") && needs.contains("/usr/sbin/groupadd"),
            "{needs}"
        );
        let of_others = |line: &&str| {
            !["lib", "ld-", "rpmlib(", "/bin/sh", "/usr/", "rtld(", "config("]
                .iter()
                .any(|known| line.starts_with(known))
        };
        ensure!(needs.lines().find(of_others).is_none(), "{needs}");
        let owners = ask(&["--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\\n]"])?;
        ensure!(owners.lines().all(|owner| owner == "root:root"), "{owners}");
        let scripts = ask(&["--scripts"])?;
        ensure!(scripts.contains("try-restart tracker.service"), "{scripts}");
        Ok(())
    }
}
