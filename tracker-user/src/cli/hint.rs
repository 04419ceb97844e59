//! What users of other tools type, and what it is called here: tips below the errors of a command line.

use std::ffi::OsString;

use clap::{
    CommandFactory,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{cli::Cli, model::nearest::nearest};

/// Names of commands in other tools, and the command of `tracker`.
const COMMANDS: [(&str, &str); 33] = [
    ("list", "`tracker flows` lists connections"),
    ("ls", "`tracker flows` lists connections"),
    ("show", "`tracker flows` lists connections"),
    ("ss", "`tracker flows` lists connections"),
    ("netstat", "`tracker flows` lists connections"),
    ("conntrack", "`tracker flows` lists connections"),
    ("connections", "`tracker flows` lists connections"),
    ("-L", "`tracker flows` lists connections, as `conntrack -L` does"),
    ("-G", "`tracker flows --src ADDRESS --sport PORT` finds one connection"),
    ("-E", "`tracker events` follows them, as `conntrack -E` does"),
    ("-D", "`tracker delete` deletes flows, as `conntrack -D` does"),
    ("-F", "`tracker flush` deletes all flows, as `conntrack -F` does"),
    ("-S", "`tracker stats` shows counters, as `conntrack -S` does"),
    ("-C", "`tracker stats` shows how many flows there are"),
    ("-I", "flows come from packets only"),
    ("-U", "flows come from packets only"),
    ("-r", "`tracker replay FILE` reads a capture"),
    ("-w", "`tcpdump -w FILE` writes captures, and `tracker replay FILE` reads them"),
    (
        "-i",
        "`tracker trace --interface NAME` draws connections, `tracker run --interface NAME` tracks them",
    ),
    ("watch", "`tracker flows --watch`, `tracker events` or `tracker top`"),
    ("monitor", "`tracker events` follows what happens, `tracker top` shows all of it"),
    ("follow", "`tracker events` follows what happens"),
    ("htop", "`tracker top` shows all of it"),
    ("dump", "`tracker trace` draws live connections, `tracker flows` lists them"),
    ("capture", "`tracker trace` draws live connections, `tracker replay FILE` reads a capture"),
    ("read", "`tracker replay FILE` reads a capture"),
    (
        "start",
        "`tracker run --interface NAME` starts an agent, `systemctl start tracker` the service",
    ),
    ("stop", "an agent ends with SIGINT or SIGTERM, the service with `systemctl stop tracker`"),
    ("status", "`tracker stats` shows counters, `systemctl status tracker` the service"),
    ("count", "`tracker stats` shows how many flows there are"),
    ("kill", "`tracker delete` deletes flows; `ss -K` closes sockets"),
    ("clear", "`tracker flush` deletes all flows"),
    ("rules", "`tracker violations` lists the rules"),
];

/// Flags of other tools on commands that have no such flag.
const FLAGS: [(&str, &str); 40] = [
    ("-a", "every flow is shown, whatever its state"),
    ("--all", "every flow is shown, whatever its state"),
    ("-l", "a listener has no flow; `ss -ltn` lists listeners"),
    ("--listening", "a listener has no flow; `ss -ltn` lists listeners"),
    ("-p", "`tracker flows -p` names processes"),
    ("--processes", "`tracker flows -p` names processes"),
    ("-u", "only TCP is tracked"),
    ("--udp", "only TCP is tracked"),
    ("-w", "`tcpdump -w FILE` writes captures, and `tracker replay FILE` reads them"),
    ("-x", "`-o jsonl` has every field; contents of packets are not kept"),
    ("-X", "contents of packets are not kept; `tcpdump -X` shows them"),
    ("-A", "contents of packets are not kept; `tcpdump -A` shows them"),
    ("-m", "`-o jsonl` has every field"),
    ("-H", "a line without a title: `-o full`"),
    ("--no-header", "a line without a title: `-o full`"),
    ("-K", "`tracker delete` deletes flows; `ss -K` closes sockets"),
    ("-f", "the address family is `-4`, `-6` or `--family ipv6`"),
    ("-F", "filters are arguments; from a file: `tracker flows \"$(cat FILE)\"`"),
    ("-L", "it is always so: `tracker flows` lists connections"),
    ("-E", "`tracker events` follows them, as `conntrack -E` does"),
    ("-D", "`tracker delete` deletes flows, as `conntrack -D` does"),
    ("-d", "the other end is `--dst ADDRESS`, and as `top`'s delay `--every SECONDS`"),
    ("-s", "the end that opened a connection is `--src ADDRESS`"),
    ("-q", "the other end's address is `--dst ADDRESS`"),
    ("-S", "relative numbers are shown always"),
    ("-c", "`--last N` ends after N"),
    ("--count", "`--last N` ends after N"),
    ("-r", "`tracker replay FILE` reads a capture"),
    ("-z", "nothing is reset; `--watch` shows counters as they grow"),
    ("--zero", "nothing is reset; `--watch` shows counters as they grow"),
    ("-g", "an interface's group is no filter; `--interface NAME` is"),
    ("--protonum", "only TCP is tracked"),
    ("--proto", "only TCP is tracked"),
    ("--reply-src", "it is `--dst`, unless addresses are translated"),
    ("--reply-dst", "it is `--src`, unless addresses are translated"),
    ("--mark", "flows have no marks"),
    ("--status", "`--state` is what both ends are in; `-o jsonl` has `conn_state`"),
    ("--timeout", "`--timeout-STATE` of `tracker run` sets how long flows stay"),
    ("--limit", "`--last N` shows the last N"),
    ("--filter", "filters are arguments: `state established and dport 443`"),
];

/// Adds what a flag or a command of another tool is called here to the error that it causes.
pub fn add(error: &mut clap::Error, arguments: &[OsString]) {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let instead = |all: &[(&str, &'static str)], word: &str| {
        all.iter().find(|(name, _)| *name == word).map(|(_, instead)| (*instead).to_owned())
    };
    let verb = verb(arguments);
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            said(ContextKind::InvalidSubcommand).and_then(|word| of_command(&word))
        }
        ErrorKind::UnknownArgument => said(ContextKind::InvalidArg).and_then(|word| {
            let flag = word.split([' ', '=']).next().unwrap_or_default();
            match &verb {
                None => instead(&COMMANDS, flag),
                Some(verb) => elsewhere(flag, verb).or_else(|| instead(&FLAGS, flag)),
            }
        }),
        // As in `conntrack -L -s 10.0.0.1`.
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => of_value(
            &said(ContextKind::InvalidArg).unwrap_or_default(),
            &said(ContextKind::InvalidValue).unwrap_or_default(),
        ),
        _ => None,
    };
    if let Some(tip) = tip {
        // What resembles it as a text is no help beside it.
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
}

/// The command that a command line is about.
fn verb(arguments: &[OsString]) -> Option<String> {
    let read = Cli::command().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    read.subcommand_name().map(str::to_owned)
}

fn of_command(word: &str) -> Option<String> {
    let known = COMMANDS.iter().find(|(name, _)| *name == word);
    if let Some((_, instead)) = known {
        return Some((*instead).to_owned());
    }
    let near = nearest(word, COMMANDS.iter().map(|(name, _)| *name).filter(|name| name.len() > 3));
    let is_file = word.ends_with(".pcap") || word.ends_with(".pcapng") || word.ends_with(".cap");
    let command = Cli::command();
    let ours = nearest(word, command.get_subcommands().map(clap::Command::get_name));
    match (is_file, ours, near) {
        (true, ..) => Some(format!("`tracker replay {word}` reads a capture")),
        (_, None, Some(near)) => of_command(near),
        _ => None,
    }
}

/// The commands that have a flag which `verb` has not.
fn elsewhere(flag: &str, verb: &str) -> Option<String> {
    let long = flag.strip_prefix("--")?;
    let command = Cli::command();
    let has = |command: &&clap::Command| {
        !command.is_hide_set() && command.get_arguments().any(|it| it.get_long() == Some(long))
    };
    let all: Vec<_> = command
        .get_subcommands()
        .filter(has)
        .map(|command| format!("`tracker {}`", command.get_name()))
        .collect();
    let all = (!all.is_empty()).then(|| all.join(", "))?;
    Some(format!("`{flag}` is a flag of {all}, not of `tracker {verb}`"))
}

fn of_value(argument: &str, value: &str) -> Option<String> {
    let is_number = value.parse::<u64>().is_ok();
    let is_address = value.parse::<crate::model::filter::Prefix>().is_ok();
    let flag = argument.split(' ').next().unwrap_or_default();
    match flag {
        "--sort" if is_address => {
            Some(format!("`-s` is the order; the end that opened a connection is `--src {value}`"))
        }
        "--columns" if is_number => {
            Some(format!("`-c` chooses columns; `--last {value}` shows the last {value}"))
        }
        "--output" => Some("`-o` is the form of output".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &[&str]) -> String {
        let line: Vec<_> = ["tracker"].iter().chain(line).map(OsString::from).collect();
        let mut error = Cli::command().try_get_matches_from(&line).expect_err("it is wrong");
        add(&mut error, &line);
        error.to_string()
    }

    #[test]
    fn every_flag_of_another_tool_is_answered_somewhere() {
        for (flag, _) in FLAGS {
            let command = Cli::command();
            let unknown = command.get_subcommands().any(|command| {
                let name = command.get_name();
                let line = ["tracker", name, flag].map(OsString::from);
                let error = Cli::command().try_get_matches_from(line).err();
                error.is_some_and(|error| error.kind() == ErrorKind::UnknownArgument)
            });
            assert!(unknown, "{flag} is known everywhere");
        }
        for (name, instead) in COMMANDS {
            assert!(said(&[name]).contains(instead), "{name}: {}", said(&[name]));
        }
    }

    #[test]
    fn what_is_mistyped_too() {
        assert!(said(&["lsit"]).contains("`tracker flows` lists"));
        assert!(said(&["dump.pcap"]).contains("`tracker replay dump.pcap`"));
        assert!(said(&["flow"]).contains("'flows'"));
        assert!(said(&["stats", "--port", "80"]).contains("`--port` is a flag of `tracker flows`"));
        assert!(said(&["flows", "-s", "10.0.0.1"]).contains("`--src 10.0.0.1`"));
    }
}
