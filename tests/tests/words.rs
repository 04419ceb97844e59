//! Words that pages, help and comments avoid, because their readers have better ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Arg, Command, CommandFactory};
use tracker_user::cli::Cli;

/// What is not written, and what is written instead.
const WORDS: [(&str, &str); 11] = [
    ("octet", "byte"),
    ("octets", "bytes"),
    ("told", "reported, or another word for what happens"),
    ("meant", "selected, intended"),
    ("lent", "shared, passed"),
    ("lends", "shares, passes"),
    ("let go of", "detached, released"),
    ("has its turn", "runs, is drawn"),
    ("it would meet", "what would stop or limit it"),
    ("from which on", "that triggers"),
    ("as above", "the sentence itself"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README.md, CONTRIBUTING.md, SECURITY.md and all of docs/, by their paths from the project's root.
fn pages() -> Result<Vec<(String, String)>> {
    let mut paths = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned).to_vec();
    for page in fs::read_dir(root().join("docs"))? {
        let name = page?.file_name().into_string().ok().context("a name in UTF-8")?;
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort();
    let read = |path: String| Ok((path.clone(), fs::read_to_string(root().join(path))?));
    paths.into_iter().map(read).collect()
}

/// Whether `phrase` is in `line` as whole words, in any case.
fn has(line: &str, phrase: &str) -> bool {
    let line = line.to_lowercase();
    let is_border = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_alphanumeric());
    line.match_indices(phrase).any(|(start, _)| {
        is_border(line[..start].chars().next_back())
            && is_border(line[start + phrase.len()..].chars().next())
    })
}

/// A line without its names in `code`.
fn prose(line: &str) -> String {
    let parts: Vec<_> = line.split('`').collect();
    // Without a partner, the last one opens a span that ends in another line.
    let is_paired = parts.len() % 2 == 1;
    let is_prose =
        |index: &usize| index.is_multiple_of(2) || (!is_paired && index + 1 == parts.len());
    (0..parts.len()).filter(is_prose).map(|index| parts[index]).collect::<Vec<_>>().join("`")
}

/// What is wrong with a text: lines with words that are not written, and sentences that begin with "Of".
fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        // Commands and what they print are not prose.
        let is_code = line.starts_with("    ") && !trimmed.starts_with(['-', '*']);
        if !is_code {
            let prose = prose(line);
            for (word, better) in WORDS {
                if has(&prose, word) {
                    faults.push(format!("line {}: `{word}` (write: {better})", number + 1));
                }
            }
            let begins =
                before.trim_end().is_empty() || before.trim_end().ends_with(['.', ':', '|']);
            let words = trimmed.trim_start_matches(['-', '*', ' ']);
            if line.contains(". Of ")
                || line.contains("| Of ")
                || (begins && words.starts_with("Of "))
            {
                faults.push(format!("line {}: a sentence begins with `Of`", number + 1));
            }
        }
        before = line;
    }
    faults
}

/// Fails with every fault of these texts, which come with their names.
fn check(texts: &[(String, String)]) -> Result<()> {
    let mut said = Vec::new();
    for (name, text) in texts {
        let faults = faults(text);
        if !faults.is_empty() {
            said.push(format!("{name}:\n{}", faults.join("\n")));
        }
    }
    ensure!(said.is_empty(), "{}", said.join("\n"));
    Ok(())
}

#[test]
fn pages_use_the_fields_words() -> Result<()> {
    let pages = pages()?;
    ensure!(pages.len() >= 12, "few pages: {}", pages.len());
    check(&pages)
}

/// The help of a command and of all below it, each by itself: about, flags, values.
fn helps(command: &Command, above: &str, into: &mut Vec<(String, String)>) {
    let name = format!("{above}{}", command.get_name());
    let about = [command.get_about(), command.get_long_about()].into_iter().flatten();
    let of_argument = |argument: &Arg| {
        let values = argument.get_possible_values();
        let help = [argument.get_help(), argument.get_long_help()].into_iter().flatten();
        let texts = help.map(ToString::to_string);
        texts
            .chain(values.iter().filter_map(|value| Some(value.get_help()?.to_string())))
            .collect::<Vec<_>>()
    };
    let lines = about.map(ToString::to_string).chain(command.get_arguments().flat_map(of_argument));
    into.push((name.clone(), lines.collect::<Vec<_>>().join("\n")));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        helps(below, &format!("{name} "), into);
    }
}

#[test]
fn help_uses_the_fields_words() -> Result<()> {
    let mut all = Vec::new();
    helps(&Cli::command(), "", &mut all);
    ensure!(all.len() >= 14, "few commands: {}", all.len());
    check(&all)
}

/// The Rust files below a directory.
fn sources(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// The comments of a source, a line for each of its lines; the others are empty.
fn comments(source: &str) -> String {
    let comment = |line: &str| {
        let (code, text) = line.split_once("//")?;
        let is_comment = code.is_empty() || code.ends_with(' ');
        is_comment.then(|| text.trim_start_matches(['/', '!']).trim_start().to_owned())
    };
    source.lines().map(|line| comment(line).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn comments_use_the_fields_words() -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root())? {
        let package = entry?.path();
        for directory in ["src", "tests"].map(|directory| package.join(directory)) {
            if package.join("Cargo.toml").is_file() && directory.is_dir() {
                sources(&directory, &mut paths)?;
            }
        }
    }
    ensure!(paths.len() >= 100, "few sources: {}", paths.len());
    let read =
        |path: PathBuf| Ok((path.display().to_string(), comments(&fs::read_to_string(&path)?)));
    check(&paths.into_iter().map(read).collect::<Result<Vec<_>>>()?)
}

#[test]
fn faults_are_found() {
    for wrong in [
        "Its octets are counted.",
        "Every listener is TOLD.",
        "- Of such flows nothing is known.",
        "All is said. Of the rest, nothing.",
        "It was let go of.",
        "The `file`'s octets, and a `span that ends below",
    ] {
        assert_eq!(faults(wrong).len(), 1, "{wrong}: {:?}", faults(wrong));
    }
    assert_eq!(
        comments("let x = 1; // A byte.\n/// A packet.\n\"https://packet\""),
        "A byte.\nA packet.\n"
    );
    for right in [
        "The last octopus is silent.",
        "The first half\nof it. Off we go.",
        "    jq '.octets'   # a command",
        "Names such as `octets()` in `lent.rs` are code.",
    ] {
        assert_eq!(faults(right), Vec::<String>::new(), "{right}");
    }
}
