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
    /// Its number.
    number: Option<i32>,
    /// The verifier's whole log. Empty where the kernel refused before verification.
    log: String,
}

impl Refusal {
    /// The running kernel's refusal of a program, by the error of its loading. Logs the verifier's whole log as a debug
    /// message.
    #[must_use]
    pub fn new(program: &str, error: &ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => Self::by_this_kernel(
                program,
                io_error.to_string(),
                io_error.raw_os_error(),
                verifier_log.to_string(),
            ),
            // It passes for its cause, which is then not among its causes.
            ProgramError::IOError(error) => Self::by_this_kernel(
                program,
                error.to_string(),
                error.raw_os_error(),
                String::new(),
            ),
            other => Self::by_this_kernel(program, chain(other), number(other), String::new()),
        }
    }

    fn by_this_kernel(program: &str, cause: String, number: Option<i32>, log: String) -> Self {
        if !log.is_empty() {
            tracing::debug!("the verifier's whole log of {program}:\n{log}");
        }
        let release = uname().map_or_else(
            |_| "of unknown release".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Self { program: program.to_owned(), release, cause, number, log }
    }

    /// The number of the system call's error, where one has failed.
    #[must_use]
    pub fn number(&self) -> Option<i32> {
        self.number
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
            "`-v` prints the verifier's whole log. Report this to the developers of tracker, with the output of `tracker -v \
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
        return Refusal::by_this_kernel(types, cause, io_error.raw_os_error(), log).into();
    }
    let is_forbidden = number(&error) == Some(libc::EPERM);
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

/// The number of the first error of a system call among this error and its causes.
fn number(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
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
    // An instruction that was begun: its number, and nothing behind the colon.
    let is_number = line.strip_suffix(':').is_some_and(|number| number.parse::<u32>().is_ok());
    !(line.is_empty()
        || is_count
        || is_number
        || line.starts_with("verification time ")
        || line.starts_with("stack depth "))
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs of kernels of Debian, which refused an older version of the programs.
    const BY_6_1: &str = include_str!("refusal/linux-6.1.log");
    const BY_6_12: &str = include_str!("refusal/linux-6.12.log");

    fn said(log: &str) -> String {
        let refusal = Refusal {
            program: "tracker_egress".to_owned(),
            release: "6.12.118+deb13-cloud-amd64".to_owned(),
            cause: "Invalid argument (os error 22)".to_owned(),
            number: Some(libc::EINVAL),
            log: log.to_owned(),
        };
        refusal.reason()
    }

    #[test]
    fn before_verification() {
        assert_eq!(
            said(BY_6_1),
            "Linux 6.12.118+deb13-cloud-amd64 refuses tracker_egress (Invalid argument (os error 22)); its verifier ends with\n    \
             back-edge from insn 1061 to 1062"
        );
    }

    #[test]
    fn during_verification() {
        let said = said(BY_6_12);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 1 + LINES, "{said}");
        assert_eq!(
            lines[LINES],
            "    math between pkt pointer and register with unbounded min value is not allowed"
        );
        // The source that it is about.
        assert!(lines[2].starts_with("    ; ") && lines[2].ends_with("@ frame.rs:182"), "{said}");
        assert!(!said.contains("stack depth") && !said.contains("processed"), "{said}");
    }

    #[test]
    fn without_a_log() {
        let said = said("");
        assert!(
            said.ends_with("refuses tracker_egress (Invalid argument (os error 22))"),
            "{said}"
        );
        // Statistics say nothing of the reason.
        assert_eq!(said, self::said("\nverification time 3 usec\nstack depth 0\n"));
    }

    #[test]
    fn the_whole_message() {
        let by_verifier = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: aya_obj::VerifierLog::new(BY_6_12.to_owned()),
        };
        let said = Refusal::new("tracker_ingress", &by_verifier).to_string();
        assert!(
            said.contains("refuses tracker_ingress (Permission denied (os error 13))"),
            "{said}"
        );
        assert!(said.contains("\n`-v` prints the verifier's whole log. Report this"), "{said}");
        // Nothing is to be reported of what was no verifier's decision.
        let other = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::ENOMEM),
            verifier_log: aya_obj::VerifierLog::new(String::new()),
        };
        let said = Refusal::new("tracker_ingress", &other).to_string();
        assert!(said.ends_with("refuses tracker_ingress (Cannot allocate memory (os error 12))"));
    }

    #[test]
    fn long_lines_are_cut() {
        let long = "é".repeat(WIDTH + 1);
        assert_eq!(shortened(&long), format!("{}…", "é".repeat(WIDTH)));
        assert_eq!(shortened(&long[..WIDTH * 2]), "é".repeat(WIDTH));
    }

    #[test]
    fn a_container_that_forbids_it() {
        let refused = |number| {
            let io_error = io::Error::from_raw_os_error(number);
            let error = aya::maps::MapError::CreateError { name: "EVENTS".to_owned(), io_error };
            format!("{:#}", of_object(EbpfError::MapError(error)))
        };
        let said = refused(libc::EPERM);
        assert!(said.contains("seccomp") && said.contains("creating the maps"), "{said}");
        assert!(refused(libc::ENOMEM).starts_with("creating the maps"));
    }
}
