//! `cargo xtask package`: a package for Debian or for systems with RPM, or an archive or an image of containers with a static program.
//! None needs a toolchain where it is installed.

mod build;
mod check;
mod debian;
mod image;
mod machine;
mod rpm;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use self::build::Build;
use crate::{cross::Target, host, plan::Purpose, setup::setup};

/// Alerts for Prometheus.
const ALERTS: &str = "packaging/prometheus/tracker.rules.yml";
/// A dashboard for Grafana.
const DASHBOARD: &str = "packaging/grafana/tracker.json";

/// What is copied as it is into either package: from below the project's root, to below the package's, with the mode.
const FILES: [(&str, &str, u32); 12] = [
    ("packaging/tracker.service", "usr/lib/systemd/system/tracker.service", 0o644),
    ("packaging/tracker.toml", "etc/tracker/tracker.toml", 0o644),
    ("README.md", "usr/share/doc/tracker/README.md", 0o644),
    ("CHANGELOG.md", "usr/share/doc/tracker/CHANGELOG.md", 0o644),
    ("docs/violations.md", "usr/share/doc/tracker/violations.md", 0o644),
    ("docs/metrics.md", "usr/share/doc/tracker/metrics.md", 0o644),
    ("docs/guide.md", "usr/share/doc/tracker/guide.md", 0o644),
    ("docs/reference.md", "usr/share/doc/tracker/reference.md", 0o644),
    ("docs/faq.md", "usr/share/doc/tracker/faq.md", 0o644),
    (
        "packaging/prometheus/tracker.test.yml",
        "usr/share/doc/tracker/examples/tracker.test.yml",
        0o644,
    ),
    (ALERTS, "usr/share/doc/tracker/examples/tracker.rules.yml", 0o644),
    (DASHBOARD, "usr/share/doc/tracker/examples/grafana.json", 0o644),
];

/// The same for an archive.
const ARCHIVED: [(&str, &str); 11] = [
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("packaging/tracker.service", "tracker.service"),
    ("packaging/tracker.toml", "tracker.toml"),
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("docs/violations.md", "docs/violations.md"),
    ("docs/metrics.md", "docs/metrics.md"),
    ("docs/guide.md", "docs/guide.md"),
    (ALERTS, "examples/tracker.rules.yml"),
    (DASHBOARD, "examples/grafana.json"),
];

/// What is copied from below `packaging` to below the examples of either. They name each other by their places there.
const EXAMPLES: [&str; 10] = [
    "clickhouse/records.sql",
    "clickhouse/shipped.sql",
    "clickhouse/views.sql",
    "grafana/clickhouse.json",
    "ipfix/nfacctd.conf",
    "ipfix/tracker.lst",
    "shippers/vector.toml",
    "shippers/fluent-bit.yaml",
    "shippers/opentelemetry.yaml",
    "shippers/compose.yaml",
];

/// Completions: what `tracker generate` calls them, and where their shells look. Zsh's is where each kind of package has it.
const COMPLETIONS: [(&str, &str); 2] = [
    ("tracker.bash", "usr/share/bash-completion/completions/tracker"),
    ("tracker.fish", "usr/share/fish/vendor_completions.d/tracker.fish"),
];

/// What is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// A package for Debian.
    Deb,
    /// One for systems with RPM.
    Rpm,
    /// An archive with a static program.
    Archive,
    /// An image of containers with that.
    Image,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Options {
    /// For which processor; without, for this machine's.
    pub(crate) target: Option<Target>,
    /// What for.
    pub(crate) form: Form,
    /// Whether the package is tried.
    pub(crate) checks: bool,
}

/// The command, built.
struct Programs<'a> {
    /// To be packaged.
    program: &'a Path,
    /// For which processor that is.
    target: Target,
    /// The same for this machine, which writes manual pages and completions.
    own: &'a Path,
}

/// Builds the command, and a package or an archive with it in target/package; tries it, where that is asked for.
///
/// # Errors
///
/// Where something cannot be built, dpkg-deb or rpmbuild is missing, or something is wrong with the package.
pub(crate) fn package(options: Options) -> Result<()> {
    setup(Purpose::Run)?;
    let here = Target::here()?;
    let is_static = matches!(options.form, Form::Archive | Form::Image);
    let target = options.target.unwrap_or(here);
    let program = Build { target, is_static }.run()?;
    let own = if target == here {
        program.clone()
    } else {
        Build { target: here, is_static: false }.run()?
    };
    let directory = host::target_dir()?;
    let programs = Programs { program: &program, target, own: &own };
    let packages = directory.join("package");
    let package = match options.form {
        Form::Deb => debian::assemble(&programs, &packages)?,
        Form::Rpm => rpm::assemble(&programs, &packages)?,
        Form::Archive => assemble_archive(&programs, &packages)?,
        Form::Image => {
            assemble_archive(&programs, &packages)?;
            image::build(target, &packages)?
        }
    };
    println!("{}", package.display());
    match options.form {
        _ if !options.checks => Ok(()),
        Form::Image => image::check(&package),
        _ => check::check(&package, &directory.join("tools")),
    }
}

/// Puts an archive together in `directory`, and returns it: the program, which needs nothing else on any Linux, and what goes
/// with it.
fn assemble_archive(programs: &Programs<'_>, directory: &Path) -> Result<PathBuf> {
    let name = format!("tracker-{}-{}", env!("CARGO_PKG_VERSION"), programs.target);
    let parent = directory.join("archive");
    let root = parent.join(&name);
    host::remove_all(&parent)?;
    install_program(programs, &root.join("tracker"))?;
    for (from, to) in ARCHIVED {
        copy(&host::workspace().join(from), &root.join(to), 0o644)?;
    }
    copy_examples(&root.join("examples"))?;
    for (page, section) in write_manual(programs.own, &directory.join("man"))? {
        let name = page.file_name().context("a page")?;
        copy(&page, &root.join(format!("man/man{section}")).join(name), 0o644)?;
    }
    write_completions(programs.own, &root.join("completions"))?;
    let archive = directory.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    // The same files make the same archive.
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.args(["--mode=u=rwX,go=rX", "--use-compress-program=gzip -9 --no-name"]);
    host::run(tar.arg("--file").arg(&archive).arg("--directory").arg(&parent).arg(&name), "tar")?;
    Ok(archive)
}

/// Lays out in `root` what either package has, with zsh's completions in `zsh`. What is written on the way is in `directory`.
fn lay_out(programs: &Programs<'_>, root: &Path, zsh: &str, directory: &Path) -> Result<()> {
    host::remove_all(root)?;
    install_program(programs, &root.join("usr/bin/tracker"))?;
    for (from, to, mode) in FILES {
        copy(&host::workspace().join(from), &root.join(to), mode)?;
    }
    copy_examples(&root.join("usr/share/doc/tracker/examples"))?;
    let man = root.join("usr/share/man");
    for (page, section) in write_manual(programs.own, &directory.join("man"))? {
        let to = man.join(format!("man{section}")).join(page.file_name().context("a page")?);
        copy(&page, &to, 0o644)?;
        compress(&to)?;
    }
    let completions = directory.join("completions");
    write_completions(programs.own, &completions)?;
    for (from, to) in COMPLETIONS {
        copy(&completions.join(from), &root.join(to), 0o644)?;
    }
    copy(&completions.join("_tracker"), &root.join(zsh).join("_tracker"), 0o644)
}

fn copy_examples(to: &Path) -> Result<()> {
    EXAMPLES.iter().try_for_each(|name| {
        copy(&host::workspace().join("packaging").join(name), &to.join(name), 0o644)
    })
}

/// Copies the program to `to`, without its symbols.
fn install_program(programs: &Programs<'_>, to: &Path) -> Result<()> {
    copy(programs.program, to, 0o755)?;
    host::run(programs.target.tool("strip")?.arg(to), "strip")
}

fn write_completions(program: &Path, directory: &Path) -> Result<()> {
    host::run(
        Command::new(program).args(["generate", "completions"]).arg(directory),
        "tracker generate",
    )
}

/// Writes the manual pages into an empty directory: each, and the section that its name says.
fn write_manual(program: &Path, directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    host::remove_all(directory)?;
    host::run(Command::new(program).args(["generate", "man"]).arg(directory), "tracker generate")?;
    let mut pages = Vec::new();
    for page in fs::read_dir(directory)? {
        let page = page?.path();
        let section = page.extension().and_then(|section| section.to_str()).context("a section")?;
        let section = section.to_owned();
        pages.push((page, section));
    }
    Ok(pages)
}

fn compress(path: &Path) -> Result<()> {
    host::run(Command::new("gzip").args(["-9", "--no-name"]).arg(path), "gzip")
}

fn write(path: &Path, text: &str) -> Result<()> {
    make_parent(path)?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn make_parent(path: &Path) -> Result<()> {
    Ok(fs::create_dir_all(path.parent().context("a file in a directory")?)?)
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    const DAEMON_SET: &str = "packaging/kubernetes/daemonset.yaml";

    #[test]
    fn what_is_watched_is_there() -> Result<()> {
        let read = |name: &str| fs::read_to_string(host::workspace().join(name));
        let documented = read("docs/metrics.md")?;
        for page in [ALERTS, DASHBOARD] {
            let text = read(page)?;
            let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
            let names: std::collections::BTreeSet<&str> =
                text.split(|c| !is_name(c)).filter(|word| word.starts_with("tracker_")).collect();
            ensure!(names.len() >= 6, "{page}: {names:?}");
            for name in names {
                // A histogram has three.
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|part| name.strip_suffix(part))
                    .unwrap_or(name);
                let is_known =
                    [base, name].iter().any(|name| documented.contains(&format!("`{name}`")));
                ensure!(is_known, "{page}: no metric is called {name}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_package() -> Result<()> {
        // This program is in `deps` beside it.
        let built = std::env::current_exe()?.ancestors().nth(2).map(Path::to_owned);
        let built = built.context("this program is not in cargo's target directory")?;
        let program = built.join("tracker");
        ensure!(program.exists(), "`cargo build --release --package tracker-user` comes first");
        let directory = built.join("package-test");
        let programs = Programs { program: &program, target: Target::here()?, own: &program };
        let package = debian::assemble(&programs, &directory)?;
        let output = Command::new("dpkg-deb").arg("--contents").arg(&package).output()?;
        let contents = String::from_utf8(output.stdout)?;
        let has = |path: &str| contents.lines().any(|line| line.ends_with(path));
        for path in [
            "./usr/bin/tracker",
            "./usr/share/man/man1/tracker-run.1.gz",
            "./usr/share/man/man5/tracker.toml.5.gz",
        ] {
            ensure!(has(path), "{path}: {contents}");
        }
        ensure!(
            FILES
                .iter()
                .all(|(_, to, _)| { has(&format!("./{to}")) || has(&format!("./{to}.gz")) })
        );
        let examples = "./usr/share/doc/tracker/examples";
        ensure!(EXAMPLES.iter().all(|name| has(&format!("{examples}/{name}"))), "{contents}");

        // Every page is one that readers of pages understand.
        let mut pages = 0;
        for (page, _) in write_manual(&program, &directory.join("man"))? {
            let read =
                Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8"]).arg(&page).output();
            let read =
                read.context("starting groff, of groff-base: `cargo xtask setup` installs it")?;
            ensure!(read.stderr.is_empty(), "{}", String::from_utf8_lossy(&read.stderr));
            let text = fs::read_to_string(&page)?;
            for section in ["SEE ALSO", "SYNOPSIS"] {
                let there = text.matches(&format!("\n.SH {section}\n")).count();
                ensure!(there == 1, "{}: {section} {there} times", page.display());
            }
            let says = text.contains("\n.SH EXIT STATUS\n");
            ensure!(says != page.ends_with("tracker.toml.5"), "{}: EXIT STATUS", page.display());
            pages += 1;
        }
        ensure!(pages > 10, "{pages} pages");
        let bash = directory.join("completions/tracker.bash");
        ensure!(host::succeeds(Command::new("bash").arg("-n").arg(bash)));

        // What is commented out in the settings that come with it is right, too.
        let settings = fs::read_to_string(directory.join("root/etc/tracker/tracker.toml"))?;
        let uncommented = settings.lines().map(|line| {
            let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
            format!("{}\n", setting.unwrap_or(line))
        });
        let file = directory.join("tracker.toml");
        // `config check` wants its interface to be there, and not to be loopback, which cannot be protected.
        let there = fs::read_dir("/sys/class/net")?.filter_map(Result::ok);
        let mut names = there.filter_map(|entry| entry.file_name().into_string().ok());
        let interface = names
            .find(|name| name != "lo" && Path::new("/sys/class/net").join(name).is_dir())
            .context("this host has no network interface beside loopback")?;
        // And the files that it names: here they are others.
        make_secrets(&directory)?;
        let here = directory.to_str().context("a path of UTF-8")?;
        let settings = uncommented.collect::<String>().replace("eth0", &interface);
        fs::write(&file, settings.replace("/etc/tracker/metrics.", &format!("{here}/metrics.")))?;
        check_settings(&program, &file)?;
        let cluster = fs::read_to_string(host::workspace().join(DAEMON_SET))?;
        let settings = cluster.split_once("tracker.toml: |\n").context("it has settings")?.1;
        fs::write(&file, settings.split("---").next().unwrap_or_default())?;
        check_settings(&program, &file)
    }

    #[test]
    fn an_archive() -> Result<()> {
        let built = std::env::current_exe()?.ancestors().nth(2).map(Path::to_owned);
        let built = built.context("this program is not in cargo's target directory")?;
        let program = built.join("tracker");
        let target = Target::here()?;
        let programs = Programs { program: &program, target, own: &program };
        let archive = assemble_archive(&programs, &built.join("archive-test"))?;
        let output = Command::new("tar").arg("--list").arg("--file").arg(&archive).output()?;
        let contents = String::from_utf8(output.stdout)?;
        let name = format!("tracker-{}-{target}", env!("CARGO_PKG_VERSION"));
        let has = |path: &str| contents.lines().any(|line| line == format!("{name}/{path}"));
        for path in ["tracker", "man/man1/tracker-run.1", "man/man5/tracker.toml.5"] {
            ensure!(has(path), "{path}: {contents}");
        }
        ensure!(ARCHIVED.iter().all(|(_, to)| has(to)), "{contents}");
        ensure!(EXAMPLES.iter().all(|name| has(&format!("examples/{name}"))), "{contents}");
        for name in ["tracker.bash", "_tracker", "tracker.fish"] {
            ensure!(has(&format!("completions/{name}")), "{name}: {contents}");
        }
        // Nothing lies beside the one directory.
        ensure!(contents.lines().all(|line| line.starts_with(&format!("{name}/"))), "{contents}");
        Ok(())
    }

    /// A certificate, its key and a token, for who serves metrics.
    fn make_secrets(directory: &Path) -> Result<()> {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-subj", "/CN=localhost", "-days", "1", "-keyout", "metrics.key", "-out"])
            .arg("metrics.pem")
            .current_dir(directory)
            .output()
            .context("starting openssl: `cargo xtask setup` installs it")?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(directory.join("metrics.token"), "0123456789abcdef0123456789abcdef\n")?;
        for secret in ["metrics.key", "metrics.token"] {
            fs::set_permissions(directory.join(secret), fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// They are right, and say what to attach to.
    fn check_settings(program: &Path, file: &Path) -> Result<()> {
        let checked = Command::new(program).args(["config", "check"]).arg(file).output()?;
        ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        ensure!(checked.stderr.is_empty(), "no interface is named");
        Ok(())
    }
}
