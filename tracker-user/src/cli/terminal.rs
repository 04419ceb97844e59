//! The terminal that stdout is, if it is one, and text that keeps to its width.

use std::io::{self, IsTerminal};

/// Its width in columns, at least 40; `None` where stdout is a pipe or a file, whose readers want whole lines.
#[must_use]
pub fn width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.max(40))
}

/// How to wrap text at `width` columns: names and code are not torn apart.
#[must_use]
pub fn wrapped(width: usize) -> textwrap::Options<'static> {
    textwrap::Options::new(width)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
}

/// Whether stdout is a terminal, and nobody asked for no colours by `NO_COLOR`.
#[must_use]
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
