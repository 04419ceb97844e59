//! Network namespaces without a name: they are gone when the last process that holds them is.

use std::{
    fs::File,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Output},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::{prctl, signal::Signal},
};

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing but its loopback interface, which is up.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses: this needs root.
    pub fn new() -> Result<Self> {
        let file = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("making a network namespace needs root and CONFIG_NET_NS")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        })
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that makes a namespace panicked"))??;
        let namespace = Self { file };
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A path by which other programs can open it while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A command that will run inside, and end with this process.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Root's programs are found on a user's PATH too.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let fd = self.file.try_clone();
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                let fd = fd.as_ref().map_err(|error| std::io::Error::from(error.kind()))?;
                setns(fd, CloneFlags::CLONE_NEWNET)?;
                prctl::set_pdeathsig(Signal::SIGTERM)?;
                Ok(())
            });
        }
        command
    }

    /// Runs a command inside to its end, and returns what it printed.
    ///
    /// # Errors
    ///
    /// Where it cannot be started or fails; the message holds what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("starting {program}: `cargo xtask setup` installs it"))?;
        text(program, arguments, &output)
    }

    /// Calls `work` on a thread inside.
    ///
    /// # Errors
    ///
    /// What `work` says, or that the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)
                        .context("entering a network namespace")?;
                    work()
                })
                .join()
                .map_err(|_| anyhow::anyhow!("work inside a namespace panicked"))?
        })
    }

    /// Sets a sysctl inside, as in `net/ipv4/tcp_ecn`. Its files show the namespace of who opens them.
    ///
    /// # Errors
    ///
    /// Where there is no such sysctl.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.enter(|| {
            std::fs::write(format!("/proc/sys/{name}"), value)
                .with_context(|| format!("setting {name}={value}"))
        })
    }

    /// The same where this kernel has it. Returns whether it has.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub fn sysctl_if_present(&self, name: &str, value: &str) -> Result<bool> {
        let path = format!("/proc/sys/{name}");
        let is_present = self.enter(|| Ok(std::path::Path::new(&path).exists()))?;
        if is_present {
            self.sysctl(name, value)?;
        }
        Ok(is_present)
    }
}

/// Runs a command where this program is, and returns what it printed.
///
/// # Errors
///
/// As [`Namespace::run`].
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("starting {program}: `cargo xtask setup` installs it"))?;
    text(program, arguments, &output)
}

pub(crate) fn text(program: &str, arguments: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
