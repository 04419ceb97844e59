//! What the reader of the demonstration sees: headings, explanations, commands and their own lines.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

/// Columns where stdout is no terminal.
const PLAIN_WIDTH: usize = 100;

/// Standard output, as wide as the terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    bold: bool,
    width: usize,
}

impl Screen {
    /// Bold headings on a terminal, unless NO_COLOR is set.
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = if terminal { columns().unwrap_or(PLAIN_WIDTH) } else { PLAIN_WIDTH };
        Self { bold: terminal && colour, width: width.clamp(60, 160) }
    }

    /// The heading of an act, or of the summary.
    pub(crate) fn heading(self, text: &str) {
        let line = if self.bold { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
        print(&format!("\n{line}"));
    }

    /// An explanation.
    pub(crate) fn say(self, text: &str) {
        self.wrap(text, "  ", "  ");
    }

    /// A command that a reader could type.
    pub(crate) fn command(self, text: &str) {
        self.wrap(text, "  $ ", "      ");
    }

    /// What a command printed.
    pub(crate) fn output(self, text: &str) {
        for line in text.lines() {
            self.wrap(line, "    ", "      ");
        }
    }

    /// A line as it is.
    pub(crate) fn line(self, text: &str) {
        print(text.trim_end());
    }

    /// Breaks a line that is too long at its spaces; one that fits keeps all of them.
    fn wrap(self, text: &str, first: &str, next: &str) {
        if first.len() + text.len() <= self.width {
            return print(&format!("{first}{}", text.trim_end()));
        }
        let indented = text.len() - text.trim_start().len();
        let mut line = format!("{first}{}", &text[..indented]);
        let mut empty = true;
        for word in text.split_whitespace() {
            if !empty && line.len() + 1 + word.len() > self.width {
                print(&line);
                next.clone_into(&mut line);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        print(&line);
    }
}

fn print(line: &str) {
    // Whoever read this may have gone; the lab is to be cleared away all the same.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// The terminal's width.
fn columns() -> Option<usize> {
    // SAFETY: all zeroes is a valid `winsize`.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is what this ioctl writes, and lives until the call returns.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}
