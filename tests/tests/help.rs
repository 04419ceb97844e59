//! Every help text, as the command prints it.

use anyhow::{Result, ensure};
use clap::{Command, CommandFactory};
use tracker_tests::agent::run_tracker;
use tracker_user::cli::Cli;

/// A command, and all below it that are not hidden, by the words that name them.
fn all<'a>(command: &'a Command, words: &[&'a str]) -> Vec<(Vec<&'a str>, &'a Command)> {
    let below = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .flat_map(|command| all(command, &[words, &[command.get_name()]].concat()));
    [(words.to_vec(), command)].into_iter().chain(below).collect()
}

#[test]
fn every_command_explains_itself() -> Result<()> {
    let mut root = Cli::command();
    root.build();
    let commands = all(&root, &[]);
    ensure!(commands.len() >= 14, "few commands: {}", commands.len());
    for (words, command) in commands {
        for help in ["-h", "--help"] {
            let asked = [&words[..], &[help]].concat();
            let (stdout, stderr, status) = run_tracker(&asked, None)?;
            ensure!(status.success() && stderr.is_empty(), "{asked:?}: {status} {stderr}");
            ensure!(stdout.contains("Usage: tracker"), "{asked:?}: {stdout}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let name = match (argument.get_long(), argument.get_value_names()) {
                    (Some(long), _) => format!("--{long}"),
                    (None, Some([name, ..])) => name.to_string(),
                    (None, _) => argument.get_id().to_string().to_ascii_uppercase(),
                };
                ensure!(stdout.contains(&name), "{asked:?} says nothing of {name}");
                ensure!(argument.get_help().is_some(), "{asked:?}: {name} without a word");
            }
        }
        // What is not understood is refused with a way on.
        let (stdout, stderr, status) =
            run_tracker(&[&words[..], &["--no-such-option"]].concat(), None)?;
        ensure!(status.code() == Some(2) && stdout.is_empty(), "{words:?}: {status} {stdout}");
        ensure!(stderr.contains("--no-such-option"), "{words:?}: {stderr}");
    }
    Ok(())
}

#[test]
fn help_is_asked_for_in_other_ways_too() -> Result<()> {
    let (help, _, status) = run_tracker(&["help", "flows"], None)?;
    ensure!(status.success() && help.contains("Usage: tracker flows"), "{help}");
    let (version, _, status) = run_tracker(&["--version"], None)?;
    ensure!(status.success(), "{status}");
    assert_eq!(version.trim(), format!("tracker {}", env!("CARGO_PKG_VERSION")));
    // Nothing at all is wrong usage, and is answered with help.
    let (_, stderr, status) = run_tracker(&[], None)?;
    ensure!(status.code() == Some(2) && stderr.contains("Usage: tracker"), "{stderr}");
    Ok(())
}
