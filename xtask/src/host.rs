//! The machine and the cargo that run this command.

use std::{
    env, fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Error, Result, bail};

/// The repository's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a member of a workspace")
}

/// The cargo that runs this command.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` says of this program. Some build scripts run again where it differs, and all that needs them is built again.
    for (name, _) in env::vars_os() {
        let is_of_this =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(is_of_this) {
            command.env_remove(name);
        }
    }
    command
}

/// Where that cargo puts what it builds: this program is in `debug` below it. The variables and files that decide on
/// it are all taken into account in that way.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let executable = env::current_exe().context("where is this program?")?;
    let directory =
        executable.ancestors().nth(2).context("this program is not in cargo's target directory")?;
    Ok(directory.to_owned())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whoever types `command` must be root.
///
/// # Errors
///
/// Where this user is not: what to type instead.
pub(crate) fn needs_root(command: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "the tests need root: they make network namespaces and load the kernel programs. Type:\n\n    \
             sudo -E env \"PATH=$PATH\" {command}"
        );
    }
    Ok(())
}

/// Whether the PATH has a program of that name, or root's would: a user's may lack the directories for administrators.
pub(crate) fn on_path(program: &str) -> bool {
    find(program).is_some()
}

/// The packages that are compiled for a host: all but those of kernel programs.
pub(crate) const PACKAGES: [&str; 5] =
    ["--workspace", "--exclude", "tracker-ebpf", "--exclude", "tracker-bench-ebpf"];

/// Leaves the fuzz targets out, which need a C++ compiler.
pub(crate) const WITHOUT_FUZZING: [&str; 2] = ["--exclude", "tracker-fuzz"];

/// The program of that name.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Whether a command can be started and succeeds; what it says is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end.
///
/// # Errors
///
/// Where it fails. `what` names it.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Runs a command to its end, and returns what it wrote on stdout.
///
/// # Errors
///
/// Where it fails; the message has what it wrote on stderr.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().display().to_string();
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// As [`output`], as text.
///
/// # Errors
///
/// As [`output`].
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Removes a directory, which need not be there.
///
/// # Errors
///
/// Where it is there, and stays.
pub(crate) fn remove_all(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// How many virtual machines fit side by side: two processors and 3 GiB each.
pub(crate) fn machines_at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line =
            text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim().to_owned();
        line.split(' ').next()?.parse::<usize>().ok()
    });
    // Emulation has its own pauses: one more machine than processors for pairs keeps them busy.
    (processors / 2 + 1).min(memory.unwrap_or(0) / (3 << 20)).max(1)
}

/// Becomes a command: signals then go to it, and its exit code is this one's.
///
/// # Errors
///
/// Always; otherwise this does not return.
pub(crate) fn become_command(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(Error::new(error).context(format!("starting {}", command.get_program().display())))
}
