//! What the kernel says when it refuses a program: a few lines that a user can act on. The verifier's whole log, which can
//! take thousands of lines, is a debug message (`tracker -v`).

use std::{error::Error, fmt, io};

use aya::{BtfError, EbpfError, programs::ProgramError};
use nix::sys::utsname::uname;

/// Lines of the verifier's log that a refusal shows. Its last ones say why.
const LINES: usize = 5;

/// Characters of such a line: the states of all registers can take a thousand.
const WIDTH: usize = 160;

/// The kernel refused to load a program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What was to be loaded.
    program: String,
    /// The kernel's release, as `uname -r` prints it.
    release: String,
    /// The system call's error.
    cause: String,
    /// The verifier's whole log. Empty where the kernel refused before verification.
    log: String,
}

impl Refusal {
    /// The running kernel's refusal of a program, by the error of its loading. Logs the verifier's whole log as a debug
    /// message.
    #[must_use]
    pub fn new(program: &str, error: &ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Self::by_this_kernel(program, io_error.to_string(), verifier_log.to_string())
            }
            other => Self::by_this_kernel(program, chain(other), String::new()),
        }
    }

    fn by_this_kernel(program: &str, cause: String, log: String) -> Self {
        if !log.is_empty() {
            tracing::debug!("the verifier's whole log of {program}:\n{log}");
        }
        let release = uname().map_or_else(
            |_| "of unknown release".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Self { program: program.to_owned(), release, cause, log }
    }

    /// Which program and which kernel, and the last lines of the verifier's log.
    #[must_use]
    pub fn reason(&self) -> String {
        let Self { program, release, cause, .. } = self;
        let mut text = format!("Linux {release} refuses {program} ({cause})");
        let last = self.last_lines();
        if !last.is_empty() {
            text.push_str("; its verifier ends with");
        }
        for line in last {
            text.push_str("\n    ");
            text.push_str(&line);
        }
        text
    }

    /// What the user can do about a refusal by the verifier.
    #[must_use]
    pub fn advice() -> &'static str {
        if tracing::enabled!(tracing::Level::DEBUG) {
            "The verifier's whole log stands above. Report this to the developers of tracker, with the output of \
             `tracker -v check`"
        } else {
            "-v prints the verifier's whole log. Report this to the developers of tracker, with the output of `tracker -v \
             check`"
        }
    }

    /// The last lines of the log that are no statistics.
    fn last_lines(&self) -> Vec<String> {
        let told: Vec<_> = self.log.lines().filter(|line| is_told(line)).collect();
        let first = told.len().saturating_sub(LINES);
        told[first..].iter().map(|line| shortened(line.trim_end())).collect()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())?;
        if self.log.is_empty() { Ok(()) } else { write!(f, "\n{}", Self::advice()) }
    }
}

impl Error for Refusal {}

/// What is to be said of an object that could not be prepared for loading: its maps could not be created, or the kernel
/// does not understand its types.
#[must_use]
pub fn of_object(error: EbpfError) -> anyhow::Error {
    if let EbpfError::BtfError(BtfError::LoadError { io_error, verifier_log }) = &error {
        let types = "the types of the kernel programs (BTF)";
        let (cause, log) = (io_error.to_string(), verifier_log.to_string());
        return Refusal::by_this_kernel(types, cause, log).into();
    }
    let is_forbidden = is_forbidden(&error);
    let error = anyhow::Error::new(error).context("creating the maps");
    if is_forbidden {
        error.context(
            "this process has the capabilities, and the kernel forbids bpf(2) all the same: a container's seccomp profile does \
             that (`--security-opt seccomp=unconfined`, or a profile that allows bpf), and so does lockdown",
        )
    } else {
        error
    }
}

fn is_forbidden(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error() == Some(libc::EPERM);
        }
        next = error.source();
    }
    false
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Whether a line of the log says something of the program, and is no statistics.
fn is_told(line: &str) -> bool {
    let line = line.trim();
    let is_count = line.starts_with("processed ") && line.contains(" insns ");
    !(line.is_empty()
        || is_count
        || line.starts_with("verification time ")
        || line.starts_with("stack depth "))
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
