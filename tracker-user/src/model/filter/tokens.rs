//! What a filter in words is made of: words, parentheses and signs, and quotes around names that would be read as something else. An
//! interface may be called `not`, or `a(b`.

use super::words::is_taken;

/// What is a word by itself, or the beginning of one of two letters.
const SIGNS: [char; 8] = ['(', ')', '&', '|', '=', '!', '<', '>'];

/// What stands around such a name, and twice for itself inside.
const QUOTE: char = '"';

/// Words, parentheses and signs. Words keep their quotes, so that `"not"` is none of ours.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut letters = text.chars().peekable();
    let mut word = String::new();
    let mut is_quoted = false;
    while let Some(letter) = letters.next() {
        is_quoted ^= letter == QUOTE;
        let sign = match letter {
            _ if is_quoted => {
                word.push(letter);
                continue;
            }
            '(' | ')' => letter.to_string(),
            _ if SIGNS.contains(&letter) => {
                let doubled =
                    |next: &char| *next == '=' || (*next == letter && "&|".contains(letter));
                let more = letters.next_if(doubled);
                [Some(letter), more].into_iter().flatten().collect()
            }
            _ if letter.is_whitespace() => String::new(),
            _ => {
                word.push(letter);
                continue;
            }
        };
        let done = std::mem::take(&mut word);
        words.extend([done, sign].into_iter().filter(|word| !word.is_empty()));
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Whether a word is a parenthesis or a sign.
pub(super) fn is_sign(word: &str) -> bool {
    word.starts_with(SIGNS)
}

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
