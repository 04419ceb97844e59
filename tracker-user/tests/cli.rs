//! The command line by itself: usage, help, and what is refused before anything is touched.

use std::{
    collections::BTreeSet,
    process::{Command, Output},
};

use clap::CommandFactory;
use tracker_user::cli::Cli;

fn tracker(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tracker")).args(arguments).output().expect("tracker starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for (arguments, expected) in [
        (&["flows", "--state", "open"][..], "`open` is no state"),
        (&["flows", "--src", "example.com"], "names are not looked up"),
        (&["flows", "--src", "10.0.0.0/40"], "from 0 to 32"),
        (&["flows", "--sport", "70000"], "70000"),
        (&["events", "--violation", "nonsense"], "is no rule"),
        (&["run"], "--interface"),
        (&["run", "--interface", "lo", "--timeout-closed", "0"], "0 is not in"),
        (&["run", "--interface", "lo", "--ring-bytes", "5000"], "power of two"),
        (&["run", "--interface", "lo", "--sweep-interval", "nan"], "number of seconds"),
        (&["run", "--interface", "lo", "--protect", "http"], "`http` is no port"),
        (&["run", "--interface", "lo", "--protect", "80@example.com"], "names are not looked up"),
        (&["run", "--interface", "lo", "--syn-cookies", "always"], "--protect"),
        (
            &["run", "--interface", "lo", "--protect", "80", "--syn-cookies-rotate", "299"],
            "299 is not in 300",
        ),
        (
            &["run", "--interface", "lo", "--protect", "80", "--syn-cookies", "no"],
            "off, auto, always",
        ),
        (&["--instance", "../etc", "flows"], "letters, digits"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let output = tracker(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_wrong_configuration_file_is_exit_code_2() {
    let path = std::env::temp_dir().join(format!("tracker-cli-{}.toml", std::process::id()));
    let file = path.to_str().expect("a path of UTF-8");
    let missing = tracker(&["run", "--config", file]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(said(&missing).contains(&format!("reading {file}")), "{}", said(&missing));
    for (text, expected) in [
        ("interfaces = \"lo\"", "did you mean `interface`?"),
        ("interface = \"lo\"\ntimeout-closed = 0", "0 is not in"),
        ("interface = ", "TOML parse error"),
    ] {
        std::fs::write(&path, text).expect("a file");
        let output = tracker(&["run", "--config", file]);
        assert_eq!(output.status.code(), Some(2), "{text}: {}", said(&output));
        assert!(said(&output).contains(expected), "{text}: {}", said(&output));
        assert!(said(&output).contains(file), "{text}: {}", said(&output));
    }
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn help_and_version_are_exit_code_0() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["flows", "--help"],
        &["events", "-h"],
    ] {
        let output = tracker(arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn a_stream_is_not_one_document() {
    let output = tracker(&["--instance", "nobody", "events", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("use `-o jsonl`"), "{}", said(&output));
}

/// What clap checks itself, and only in a debug build.
#[test]
fn no_two_groups_of_a_command_have_one_name() {
    fn check(command: &clap::Command) {
        let mut names = BTreeSet::new();
        for group in command.get_groups() {
            let name = group.get_id();
            assert!(names.insert(name), "{} has two groups {name}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}
