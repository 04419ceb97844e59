//! How a command says that it has failed: a line for people, or JSON where it was asked for JSON.

use std::{
    ffi::OsString,
    io::{self, Write},
};

use anyhow::Error;
use clap::CommandFactory;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    cli::{Cli, capture::Broken, events, flows},
    model::{error as tracker, failure::Failure, format::Format},
};

/// What a command that fails writes to stderr, in a line of its own.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Document {
    /// Version of this format: 1.
    v: u32,
    error: View,
}

#[derive(Debug, Serialize, JsonSchema)]
struct View {
    /// `no_agent`, `not_permitted`, `in_use`, `refused_by_verifier`, `bad_input` or, for every other reason, `failed`.
    kind: &'static str,
    /// Explanation for people; its wording may change.
    message: String,
}

/// The form of output that a command line asks for, as far as it can be understood.
#[must_use]
pub fn form(arguments: &[OsString]) -> Format {
    let read = Cli::command().ignore_errors(true).try_get_matches_from(arguments);
    let Ok(matches) = read else { return Format::Text };
    let Some((_, matches)) = matches.subcommand() else { return Format::Text };
    let asked = matches.try_get_one::<Format>("output").ok().flatten().copied();
    let of_flows = || matches.try_get_one::<flows::Form>("output").ok().flatten();
    let of_events = || matches.try_get_one::<events::Form>("output").ok().flatten();
    asked
        .or_else(|| of_flows().map(|form| form.format()))
        .or_else(|| of_events().map(|form| form.format()))
        .unwrap_or(Format::Text)
}

/// Says why a command has failed, and returns its exit code: 2 where its command line is wrong, and 1 otherwise. Help and
/// version are no failures.
#[must_use]
pub fn say(error: &Error, form: Format) -> u8 {
    let usage = error.chain().find_map(|cause| cause.downcast_ref::<clap::Error>());
    if let Some(usage) = usage.filter(|usage| !usage.use_stderr()) {
        let _ = usage.print();
        return 0;
    }
    // Not eprintln!, which panics where stderr is closed.
    let mut stderr = io::stderr();
    let _ = match (form, usage) {
        (Format::Text, Some(usage)) => {
            if let Some(context) = context(error) {
                let _ = writeln!(stderr, "tracker: {context}:");
            }
            usage.print()
        }
        _ => stderr.write_all(line(error, form).as_bytes()),
    };
    if usage.is_some() { 2 } else { 1 }
}

/// The line that says why a command has failed, with its end.
#[must_use]
pub fn line(error: &Error, form: Format) -> String {
    if form == Format::Text {
        return format!("tracker: {error:#}\n");
    }
    let usage = error.chain().find_map(|cause| cause.downcast_ref::<clap::Error>());
    let message = match (usage, context(error)) {
        (Some(usage), Some(context)) => format!("{context}: {}", first_paragraph(usage)),
        (Some(usage), None) => first_paragraph(usage),
        (None, _) => format!("{error:#}"),
    };
    let document = Document { v: 1, error: View { kind: kind(error), message } };
    // Text and a number, which are JSON always.
    let text = serde_json::to_string(&document).unwrap_or_default();
    format!("{text}\n")
}

/// What stands before the error of a command line.
fn context(error: &Error) -> Option<String> {
    let first = error.chain().next()?;
    (!first.is::<clap::Error>()).then(|| error.to_string())
}

fn kind(error: &Error) -> &'static str {
    let known = error.chain().find_map(|cause| {
        let below = cause.downcast_ref().map(tracker::Error::failure);
        let failure = below.or_else(|| cause.downcast_ref::<Failure>());
        let is_input = cause.is::<clap::Error>() || cause.is::<Broken>();
        failure.and_then(Failure::kind).or(is_input.then_some("bad_input"))
    });
    known.unwrap_or("failed")
}

/// What is wrong with a command line, without usage and hints.
fn first_paragraph(error: &clap::Error) -> String {
    let said = error.to_string();
    let first = said.split("\n\n").next().unwrap_or(&said);
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use aya::programs::ProgramError;

    use super::*;
    use crate::kernel::refusal;

    fn form_of(line: &[&str]) -> Format {
        form(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_form_is_found_in_wrong_command_lines_too() {
        assert_eq!(form_of(&["tracker", "flows", "-o", "json"]), Format::Json);
        assert_eq!(
            form_of(&["tracker", "--instance", "x", "flows", "--output=jsonl"]),
            Format::Jsonl
        );
        assert_eq!(form_of(&["tracker", "flows", "-o", "json", "--nonsense"]), Format::Json);
        assert_eq!(form_of(&["tracker", "flows", "-o", "xml"]), Format::Text);
        assert_eq!(form_of(&["tracker", "flows"]), Format::Text);
        assert_eq!(form_of(&["tracker", "detach"]), Format::Text);
        assert_eq!(form_of(&["tracker"]), Format::Text);
        assert_eq!(form_of(&["tracker", "--help"]), Format::Text);
    }

    #[test]
    fn errors_from_below_are_shown_with_their_causes() {
        let below = tracker::Error::from(Failure::NoAgent("none".to_owned())).context("asking");
        let alone = format!("{below:#}");
        let error = Error::from(below);
        assert_eq!((format!("{error}"), format!("{error:#}")), ("asking".to_owned(), alone));
        let error = error.context("flows");
        assert_eq!(line(&error, Format::Text), "tracker: flows: asking: none\n");
        assert_eq!(
            line(&error, Format::Json),
            "{\"v\":1,\"error\":{\"kind\":\"no_agent\",\"message\":\"flows: asking: none\"}}\n"
        );
        // What the command line hands down, it gets back.
        let handed = tracker::Error::foreign(anyhow!("inner").context("outer")).context("SIGHUP");
        assert_eq!(format!("{:#}", Error::from(handed)), "SIGHUP: outer: inner");
    }

    #[test]
    fn kinds() {
        let of = |failure: Failure| kind(&Error::from(failure).context("doing something"));
        assert_eq!(of(Failure::NoAgent(String::new())), "no_agent");
        assert_eq!(of(Failure::NotPermitted(String::new())), "not_permitted");
        assert_eq!(of(Failure::InUse(String::new())), "in_use");
        assert_eq!(of(Failure::BadInput(String::new())), "bad_input");
        let refused = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: aya_obj::VerifierLog::new(String::new()),
        };
        let refused = tracker::Error::from(refusal::of_program("tracker_ingress", &refused));
        assert_eq!(kind(&refused.context("attaching").into()), "refused_by_verifier");
        let usage = Cli::command().try_get_matches_from(["tracker", "--nonsense"]);
        assert_eq!(usage.map_err(|error| kind(&error.into())).err(), Some("bad_input"));
        assert_eq!(kind(&anyhow!("anything")), "failed");
    }
}
