//! Quotes around names that would be read as something else: an interface may be called `not`, or `a(b`.

use super::words::{SIGNS, is_taken};

/// What stands around such a name, and twice for itself inside.
pub(super) const QUOTE: char = '"';

/// Whether a word has a quote without a second one.
pub(super) fn is_open(word: &str) -> bool {
    word.matches(QUOTE).count() % 2 == 1
}

/// The names of a list, without their quotes.
pub(super) fn list(value: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut name, mut is_quoted, mut is_name) = (String::new(), false, false);
    let mut letters = value.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == QUOTE {
            if is_quoted && letters.next_if_eq(&QUOTE).is_some() {
                name.push(QUOTE);
            } else {
                is_quoted = !is_quoted;
            }
            is_name = true;
        } else if letter == ',' && !is_quoted {
            names.extend(is_name.then(|| std::mem::take(&mut name)));
            is_name = false;
        } else {
            name.push(letter);
            is_name = true;
        }
    }
    names.extend(is_name.then_some(name));
    names
}

/// A list that [`list`] reads; quotes are around what needs them alone.
pub(super) fn join(names: &[String]) -> String {
    let quoted = |name: &String| {
        let is_odd = |letter: char| {
            letter.is_whitespace() || letter == QUOTE || letter == ',' || SIGNS.contains(&letter)
        };
        if name.is_empty() || name.contains(is_odd) || is_taken(name) {
            format!("{QUOTE}{}{QUOTE}", name.replace(QUOTE, "\"\""))
        } else {
            name.clone()
        }
    };
    names.iter().map(quoted).collect::<Vec<_>>().join(",")
}
