//! The terminal that stdout is, if it is one, and text that keeps to its width.

use std::{
    io::{self, IsTerminal},
    thread,
};

use anyhow::{Context, Result};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event as Input},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Its width in columns, at least 40; `None` where stdout is a pipe or a file, whose readers want whole lines.
#[must_use]
pub fn width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.max(40))
}

/// Whether lines and bars of Unicode can be shown: the locale has UTF-8, and the terminal more than letters.
#[must_use]
pub fn unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let locale = locale.unwrap_or_default().to_ascii_lowercase().replace('-', "");
    let term = std::env::var("TERM").unwrap_or_default();
    let is_plain = ["dumb", "linux", "ansi", "vt"].iter().any(|plain| term.starts_with(plain));
    locale.contains("utf8") && !is_plain
}

/// Shows something on the whole screen until it has ended, or SIGINT or SIGTERM comes; the screen is then as before.
///
/// # Errors
///
/// What keeps it from being shown.
pub(crate) async fn on_screen(show: impl AsyncFnOnce(DefaultTerminal) -> Result<()>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let terminal = ratatui::try_init().context("preparing the terminal")?;
    let shown = tokio::select! {
        shown = show(terminal) => shown,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    ratatui::restore();
    shown
}

/// Keys and changes of size, which only a thread of their own can wait for.
pub(crate) fn inputs() -> mpsc::Receiver<io::Result<Input>> {
    let (sender, receiver) = mpsc::channel(64);
    thread::spawn(move || {
        loop {
            let input = event::read();
            let is_last = input.is_err();
            if sender.blocking_send(input).is_err() || is_last {
                return;
            }
        }
    });
    receiver
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
