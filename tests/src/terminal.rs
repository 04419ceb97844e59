//! A command on a pseudo-terminal, read as a person reads it: by what is on the screen.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::agent::{Agent, PATIENCE, tracker};

/// A running command and its screen. Dropping it kills the command.
pub struct Terminal {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    written: Vec<u8>,
}

impl Terminal {
    /// Runs `tracker ARGUMENTS` about this agent on a terminal of so many rows and columns.
    ///
    /// # Errors
    ///
    /// Where there is no `tracker`, no `setsid` (util-linux) or no pseudo-terminal.
    pub fn start(
        agent: &Agent,
        (rows, columns): (u16, u16),
        no_colour: bool,
        arguments: &[&str],
    ) -> Result<Self> {
        let environment = [
            ("TERM", "xterm-256color"),
            ("LC_ALL", "C.UTF-8"),
            ("NO_COLOR", if no_colour { "1" } else { "" }),
        ];
        Self::start_in(agent, (rows, columns), &environment, arguments)
    }

    /// The same with these variables of its environment.
    ///
    /// # Errors
    ///
    /// As [`Terminal::start`].
    pub fn start_in(
        agent: &Agent,
        (rows, columns): (u16, u16),
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None)?;
        let end = |slave: &OwnedFd| slave.try_clone().map(Stdio::from);
        let mut command = Command::new("setsid");
        // The terminal of whoever runs this is none of its business.
        command.args(["--ctty", "--wait"]).arg(tracker()?);
        command.args(["--instance", agent.name()]).args(arguments);
        command.envs(environment.iter().copied());
        command.stdin(end(&pty.slave)?).stdout(end(&pty.slave)?).stderr(end(&pty.slave)?);
        let child = command.spawn().context("starting setsid, of util-linux")?;
        // Both hold the slave open, which the reader below must not wait for.
        drop((command, pty.slave));
        let keyboard = File::from(pty.master);
        let (sender, output) = mpsc::channel();
        let mut reader = keyboard.try_clone()?;
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Reading fails once nobody has the terminal open.
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(rows, columns, 0);
        Ok(Self { child, keyboard, output, screen, written: Vec::new() })
    }

    /// Types these keys.
    ///
    /// # Errors
    ///
    /// Where the command has closed the terminal.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// Waits until the text on the screen satisfies `is_right`, and returns it. `what` names it in the error.
    ///
    /// # Errors
    ///
    /// Where that never happens, or the command ends; the message holds the screen.
    pub fn until(&mut self, what: &str, is_right: impl Fn(&str) -> bool) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = self.screen.screen().contents();
            if is_right(&text) {
                return Ok(text);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.show(&bytes),
                Err(RecvTimeoutError::Timeout) => bail!("{what}: this never came:\n{text}"),
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: it ended:\n{text}"),
            }
        }
    }

    /// Waits until the command has ended successfully and restored the terminal.
    ///
    /// # Errors
    ///
    /// Where it fails, or leaves the alternate screen or a hidden cursor behind.
    pub fn end(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        while let Ok(bytes) = self.output.recv_timeout(PATIENCE) {
            self.show(&bytes);
        }
        ensure!(!self.screen().alternate_screen(), "the terminal is not as it was");
        ensure!(!self.screen().hide_cursor(), "the cursor is not there");
        Ok(())
    }

    /// The screen, with colours.
    #[must_use]
    pub fn screen(&self) -> &vt100::Screen {
        self.screen.screen()
    }

    /// Every byte that the command has written.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        &self.written
    }

    /// The process of `setsid`, whose child is the command.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn show(&mut self, bytes: &[u8]) {
        self.screen.process(bytes);
        self.written.extend(bytes);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
