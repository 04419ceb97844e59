//! The kernel's refusals of programs and objects, by the errors of their loading.

use std::error::Error as StdError;

use aya::{BtfError, EbpfError, programs::ProgramError};
use nix::sys::utsname::uname;

use crate::model::{error::Error, failure::os_code, refusal::Refusal};

/// The running kernel's refusal of a program, by the error of its loading. Logs the verifier's whole log as a debug message.
#[must_use]
pub fn of_program(program: &str, error: &ProgramError) -> Refusal {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => by_this_kernel(
            program,
            io_error.to_string(),
            io_error.raw_os_error(),
            verifier_log.to_string(),
        ),
        // It passes for its cause, which is then not among its causes.
        ProgramError::IOError(error) => {
            by_this_kernel(program, error.to_string(), error.raw_os_error(), String::new())
        }
        other => by_this_kernel(program, chain(other), os_code(other), String::new()),
    }
}

fn by_this_kernel(program: &str, cause: String, number: Option<i32>, log: String) -> Refusal {
    if !log.is_empty() {
        tracing::debug!("the verifier's whole log of {program}:\n{log}");
    }
    let release = uname().map_or_else(
        |_| "of unknown release".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    Refusal { program: program.to_owned(), release, cause, number, log }
}

/// What is to be said of an object that could not be prepared for loading: its maps could not be created, or the kernel
/// does not understand its types.
#[must_use]
pub fn of_object(error: EbpfError) -> Error {
    if let EbpfError::BtfError(BtfError::LoadError { io_error, verifier_log }) = &error {
        let types = "the types of the kernel programs (BTF)";
        let (cause, log) = (io_error.to_string(), verifier_log.to_string());
        return by_this_kernel(types, cause, io_error.raw_os_error(), log).into();
    }
    let is_forbidden = os_code(&error) == Some(libc::EPERM);
    let error = Error::from(error).context("creating the maps");
    if is_forbidden {
        error.context(
            "this process has the capabilities, and the kernel forbids bpf(2) all the same: a container's seccomp profile does \
             that (`--security-opt seccomp=unconfined`, or a profile that allows bpf), and so does lockdown",
        )
    } else {
        error
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_whole_message() {
        let by_verifier = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: aya_obj::VerifierLog::new("0: R1=ctx()\nwhy not".to_owned()),
        };
        let said = of_program("tracker_ingress", &by_verifier).to_string();
        assert!(
            said.contains("refuses tracker_ingress (Permission denied (os error 13))"),
            "{said}"
        );
        assert!(said.contains("\n    why not\n`-v` prints the verifier's whole log."), "{said}");
        // Nothing is to be reported of what was no verifier's decision.
        let other = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::ENOMEM),
            verifier_log: aya_obj::VerifierLog::new(String::new()),
        };
        let said = of_program("tracker_ingress", &other).to_string();
        assert!(said.ends_with("refuses tracker_ingress (Cannot allocate memory (os error 12))"));
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
