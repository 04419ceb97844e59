//! `cargo xtask package --check`: what others say of the package, and what it does on a machine that has nothing else.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::{ALERTS, machine::Machine};
use crate::{debian, host};

/// The programs that check, and Debian's packages of them.
const TOOLS: [(&str, &str); 5] = [
    ("debootstrap", "debootstrap"),
    ("lintian", "lintian"),
    ("promtool", "prometheus"),
    ("systemd-analyze", "systemd"),
    ("python3", "python3-venv"),
];

/// What is said of manifests, by the schemas of Kubernetes' own API.
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.33.1";

/// A unit is the less exposed the lower this is, of 100; what it is goes into docs/guide.md.
const MOST_EXPOSED: u32 = 24;

/// Checks a package, with tools that are kept in `tools`.
pub(super) fn check(package: &Path, tools: &Path) -> Result<()> {
    ensure!(host::is_root(), "the check makes namespaces: run it as root");
    install_tools()?;
    let root = host::workspace();

    if package.extension().is_some_and(|name| name == "deb") {
        println!("lintian");
        let mut lintian = Command::new("lintian");
        lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package);
        host::run(&mut lintian, "lintian")?;
    }
    println!("promtool: alerts");
    host::run(
        Command::new("promtool").args(["check", "rules"]).arg(root.join(ALERTS)),
        "promtool check rules",
    )?;
    host::run(
        Command::new("promtool")
            .args(["test", "rules"])
            .arg(root.join("packaging/prometheus/tracker.test.yml")),
        "promtool test rules",
    )?;
    println!("kubernetes-validate");
    let validator = validator(tools)?;
    host::run(
        Command::new(validator)
            .arg("--strict")
            .arg(root.join("packaging/kubernetes/daemonset.yaml")),
        "kubernetes-validate",
    )?;
    println!("systemd-analyze");
    host::run(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={MOST_EXPOSED}"))
            .arg(root.join("packaging/tracker.service"))
            .stdout(Stdio::null()),
        "systemd-analyze security",
    )?;

    println!("on a machine of its own");
    let base = Machine::base(tools)?;
    let script = root.join("packaging/check.sh");
    let machine = Machine::start(&base, &[package, &script])?;
    let name = package.file_name().context("a package has a name")?;
    host::run(
        machine.command("bash")?.arg("/root/check.sh").arg(Path::new("/root").join(name)),
        "packaging/check.sh",
    )?;
    println!("the package is as it should be");
    Ok(())
}

fn install_tools() -> Result<()> {
    let missing = TOOLS.iter().filter(|(program, package)| {
        // The interpreter is there more often than what makes environments.
        !host::on_path(program)
            || (*program == "python3"
                && !host::succeeds(Command::new("python3").args(["-c", "import ensurepip"]))
                && !debian::has(package))
    });
    let missing: std::collections::BTreeSet<String> =
        missing.map(|(_, package)| (*package).to_owned()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !debian::is_here() {
        let names: Vec<_> = missing.into_iter().collect();
        bail!("install what checks the package: {}", names.join(", "));
    }
    debian::update();
    debian::install(&missing)
}

/// The program that validates manifests, from an environment of its own.
fn validator(tools: &Path) -> Result<std::path::PathBuf> {
    let environment = tools.join("kubernetes-validate");
    let program = environment.join("bin/kubernetes-validate");
    if !program.exists() {
        host::run(
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment),
            "python3 -m venv",
        )?;
        host::run(
            Command::new(environment.join("bin/pip")).args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                KUBERNETES_VALIDATE,
            ]),
            "pip install",
        )?;
    }
    Ok(program)
}
