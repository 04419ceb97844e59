//! Manual pages: one for each verb, from the definition of the command line, and one of the settings, from the same.

use std::{
    any::TypeId,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::{
    agent::{reload::is_live, settings::flags},
    cli::{Cli, config::file::PATH},
};

/// The page of the settings.
const SETTINGS: &str = "tracker.toml";

/// Settings as an example, which is a file that an agent would take.
const EXAMPLE: &str = "\
interface = [\"eth0\", \"veth*\"]
events = \"violation,cookie\"
protect = [\"80,443\"]
syn-cookies = \"auto\"
metrics = \"127.0.0.1:9469\"
timeout-established = 86400
";

/// Writes all of them into a directory.
///
/// # Errors
///
/// Where one cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = Cli::command();
    clap_mangen::generate_to(command.clone(), directory)
        .with_context(|| format!("writing manual pages to {}", directory.display()))?;
    command.build();
    for page in pages(&command, "") {
        let path = directory.join(format!("{page}.1"));
        let mut file = OpenOptions::new().append(true).open(&path)?;
        let more = if page == "tracker" { of_all() } else { String::new() };
        let further = format!("{}{more}{}", exit_status(&page), see_also(&page));
        file.write_all(further.as_bytes()).with_context(|| path.display().to_string())?;
    }
    let path = directory.join(format!("{SETTINGS}.5"));
    let run = command.find_subcommand("run").context("there is a verb `run`")?;
    fs::write(&path, settings(run)).with_context(|| path.display().to_string())
}

/// Names of the pages of a command and of all below it that are not hidden.
fn pages(command: &Command, above: &str) -> Vec<String> {
    let name = command.get_name();
    let page = if above.is_empty() { name.to_owned() } else { format!("{above}-{name}") };
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
        .flat_map(|below| pages(below, &page));
    [page.clone()].into_iter().chain(below).collect()
}

fn exit_status(page: &str) -> String {
    let failed = match page {
        "tracker-check" => "An agent would not start here, or the check failed.",
        "tracker-config-check" => "The file has mistakes; stderr lists them.",
        "tracker-explain" => "There is no such name; stderr suggests similar ones.",
        _ => "Failed; stderr has the reason and the fix.",
    };
    let wrong = match page {
        "tracker-run" => "Wrong usage, or a mistake in the configuration file.",
        _ => "Wrong usage.",
    };
    let [failed, wrong] = [failed, wrong].map(escaped);
    format!(".SH EXIT STATUS\n.TP\n0\nDone.\n.TP\n1\n{failed}\n.TP\n2\n{wrong}\n")
}

/// What the page of the command itself has besides.
fn of_all() -> String {
    format!(
        ".SH ENVIRONMENT\n\
         .TP\nTRACKER_LOG\nLog filter for stderr, as in \\fBinfo,tracker_user=debug\\fR; overrides \\fB\\-\\-verbose\\fR.\n\
         .TP\nNO_COLOR\nNo colours, if set and not empty.\n\
         .TP\nNOTIFY_SOCKET, WATCHDOG_USEC\nWhere \\fBtracker run\\fR notifies the service manager, see \
         \\fBsd_notify\\fR(3).\n\
         .SH FILES\n\
         .TP\n{PATH}\nSettings of \\fBtracker run\\fR, see \\fBtracker.toml\\fR(5).\n\
         .TP\n/sys/fs/bpf/tracker\nPinned links and maps. They survive a killed agent; \\fBtracker \
         detach\\fR removes them.\n\
         .TP\n/run/tracker\nSockets, locks, and descriptions of agents.\n"
    )
}

/// The pages that who reads this one may want next.
fn related(page: &str) -> &'static [&'static str] {
    match page {
        "tracker" => &["tracker.toml(5)", "ss(8)", "conntrack(8)", "tcpdump(8)", "bpftool(8)"],
        "tracker-run" => {
            &["tracker-check(1)", "tracker-config(1)", "tracker-detach(1)", "tracker.toml(5)"]
        }
        "tracker-flows" => {
            &["tracker-delete(1)", "tracker-events(1)", "tracker-top(1)", "ss(8)", "conntrack(8)"]
        }
        "tracker-events" => {
            &["tracker-explain(1)", "tracker-flows(1)", "tracker-trace(1)", "conntrack(8)"]
        }
        "tracker-trace" => &["tracker-events(1)", "tracker-replay(1)", "tcpdump(8)"],
        "tracker-top" => &["tracker-flows(1)", "tracker-stats(1)", "tracker-trace(1)"],
        "tracker-stats" => &["tracker-flows(1)", "tracker-top(1)", "tracker-violations(1)"],
        "tracker-violations" => &["tracker-events(1)", "tracker-explain(1)"],
        "tracker-keys" => &[
            "tracker-keys-check(1)",
            "tracker-keys-new(1)",
            "tracker-keys-rotate(1)",
            "tracker-run(1)",
        ],
        "tracker-keys-new" | "tracker-keys-rotate" | "tracker-keys-check" => {
            &["tracker-keys(1)", "tracker-run(1)"]
        }
        "tracker-config" => &[
            "tracker-config-check(1)",
            "tracker-config-show(1)",
            "tracker-run(1)",
            "tracker.toml(5)",
        ],
        "tracker-config-check" => &["tracker-config-show(1)", "tracker-run(1)", "tracker.toml(5)"],
        "tracker-config-show" => &["tracker-config-check(1)", "tracker-run(1)", "tracker.toml(5)"],
        "tracker-check" => &["tracker-config-check(1)", "tracker-run(1)"],
        "tracker-delete" => &["tracker-flows(1)", "tracker-flush(1)", "conntrack(8)"],
        "tracker-flush" => &["tracker-delete(1)", "conntrack(8)"],
        "tracker-detach" => &["tracker-run(1)", "bpftool(8)"],
        "tracker-explain" => &["tracker-events(1)", "tracker-violations(1)"],
        "tracker-replay" => &["tracker-events(1)", "tracker-trace(1)", "tcpdump(8)"],
        SETTINGS => {
            &["tracker-config-check(1)", "tracker-config-show(1)", "tracker-run(1)", "systemctl(1)"]
        }
        _ => &[],
    }
}

fn see_also(page: &str) -> String {
    let first = (page != "tracker").then_some("tracker(1)");
    let names = first.into_iter().chain(related(page).iter().copied());
    let lines = names.filter_map(|name| {
        let (name, section) = name.split_once('(')?;
        Some(format!(".BR {} ({section}", escaped(name)))
    });
    format!(".SH SEE ALSO\n{}\n", lines.collect::<Vec<_>>().join(",\n"))
}

/// The page of the settings.
fn settings(run: &Command) -> String {
    let mut page = format!(
        ".TH {SETTINGS} 5 \"\" \"tracker {version}\"\n\
         .SH NAME\n{name} \\- settings of tracker run\n\
         .SH SYNOPSIS\n{PATH}\n\
         .SH DESCRIPTION\n\
         A TOML file with settings of \\fBtracker run\\fR. Its keys are the long names of the flags. \\fB\\-\\-config\\fR \
         selects another file. The command line wins. An unknown key is an error.\n\
         .PP\n\
         \\fBtracker config check\\fR lists every mistake in a file. \\fBtracker config show\\fR prints every setting with its \
         source.\n\
         .PP\n\
         On SIGHUP (\\fBsystemctl reload tracker\\fR) the agent rereads the file. Settings marked \\(dqread anew\\(dq change at \
         once; for the others the agent logs that it needs a restart. A file with a mistake changes nothing.\n\
         .PP\n\
         A setting that takes a list also takes a single value, and a text with commas if the flag does.\n",
        version = env!("CARGO_PKG_VERSION"),
        name = escaped(SETTINGS),
    );
    let mut headings: Vec<Option<&str>> = Vec::new();
    for (_, argument) in flags(run) {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    headings.sort_by_key(Option::is_some);
    for heading in headings {
        let title = heading.unwrap_or("Settings").to_uppercase();
        page.push_str(&format!(".SH {}\n", escaped(&title)));
        for (name, argument) in flags(run) {
            if argument.get_help_heading() == heading {
                page.push_str(&setting(&name, argument));
            }
        }
    }
    let example: Vec<_> = EXAMPLE.lines().map(escaped).collect();
    page.push_str(&format!(".SH EXAMPLE\n.nf\n{}\n.fi\n", example.join("\n")));
    page.push_str(&see_also(SETTINGS));
    page
}

fn setting(name: &str, argument: &Arg) -> String {
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let kind = kind(argument);
    let default = match argument.get_action() {
        ArgAction::SetTrue => "default false".to_owned(),
        _ if argument.is_required_set() => "must be given, here or on the command line".to_owned(),
        _ if defaults.is_empty() => "not set by default".to_owned(),
        _ if kind.starts_with("text") => format!("default \"{}\"", defaults.join(",")),
        _ => format!("default {}", defaults.join(",")),
    };
    let when = if is_live(name) { "read anew on SIGHUP" } else { "needs a restart" };
    let help = argument.get_long_help().or(argument.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let help: Vec<_> = help
        .split("\n\n")
        .map(|paragraph| format!("{}.\n", escaped(paragraph.trim_end_matches('.'))))
        .collect();
    let mut text = format!(
        ".TP\n\\fB{}\\fR ({}; {}; {when})\n{}",
        escaped(name),
        escaped(&kind),
        escaped(&default),
        help.join(".IP\n")
    );
    let is_flag = matches!(argument.get_action(), ArgAction::SetTrue);
    for value in
        argument.get_possible_values().iter().filter(|value| !is_flag && !value.is_hide_set())
    {
        text.push_str(&format!(".RS\n.TP\n\"{}\"\n", escaped(value.get_name())));
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("{}.\n.RE\n", escaped(&help)));
    }
    text
}

/// What a setting's value is.
fn kind(argument: &Arg) -> String {
    let id = argument.get_value_parser().type_id();
    let is_number =
        id == TypeId::of::<u16>() || id == TypeId::of::<u32>() || id == TypeId::of::<f64>();
    match argument.get_action() {
        ArgAction::SetTrue => "true or false",
        ArgAction::Append => "text, or a list of texts",
        _ if is_number => "number",
        _ => "text",
    }
    .to_owned()
}

/// Text that means itself to troff.
fn escaped(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('"', "\\(dq")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::file::{names_interfaces, problems};

    fn command() -> Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    #[test]
    fn the_example_is_one() {
        assert_eq!(problems(EXAMPLE), Vec::<String>::new());
        assert!(names_interfaces(EXAMPLE));
    }

    #[test]
    fn every_setting_is_on_the_page_once() {
        let command = command();
        let run = command.find_subcommand("run").expect("a verb");
        let page = settings(run);
        for (name, _) in flags(run) {
            let title = format!("\n\\fB{}\\fR (", escaped(&name));
            assert_eq!(page.matches(&title).count(), 1, "{name}");
        }
        for line in [
            "\\fBinterface\\fR (text, or a list of texts; must be given, here or on the command line; needs a restart)",
            "\\fBzone\\fR (number; default 0; needs a restart)",
            "\\fBsweep\\-interval\\fR (number; default 1; read anew on SIGHUP)",
            "\\fBevery\\fR (true or false; default false; read anew on SIGHUP)",
            "\\fBevents\\fR (text, or a list of texts; default \\(dqviolation\\(dq; read anew on SIGHUP)",
            "\\fBmetrics\\fR (text; not set by default; needs a restart)",
            "\\fBtimeout\\-closed\\fR (number; default 10; read anew on SIGHUP)",
        ] {
            assert!(page.lines().any(|other| other == line), "{line}:\n{page}");
        }
    }

    #[test]
    fn pages_lead_to_pages_that_there_are() {
        let all = pages(&command(), "");
        assert!(all.len() > 14, "{all:?}");
        for page in all.iter().map(String::as_str).chain([SETTINGS]) {
            assert!(!related(page).is_empty(), "{page}");
            for next in related(page) {
                let (name, section) =
                    next.trim_end_matches(')').split_once('(').expect("a section");
                let is_there = match section {
                    "1" => all.iter().any(|other| other == name) || name == "systemctl",
                    "5" => name == SETTINGS,
                    _ => section == "8",
                };
                assert!(is_there && name != page, "{page}: {next}");
            }
        }
    }

    #[test]
    fn what_means_something_to_troff_is_escaped() {
        assert_eq!(
            escaped(".B it's\n  `--a\\b` \"c\""),
            "\\&.B it\\(aqs `\\-\\-a\\eb` \\(dqc\\(dq"
        );
    }
}
