//! `tracker keys`: the file of keys that hosts share to make and accept each other's SYN cookies (`tracker run --cookie-keys`).

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};

use crate::{
    agent::protect::{
        SHORTEST_ROTATION,
        key_file::{KeyFile, SharedKey},
    },
    model::{
        error::{self, Error},
        failure::Failure,
    },
};

/// What to do with a file of keys.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a file with two keys: one that is used now, and the next one
    New {
        /// File to make; it must not be there yet
        file: PathBuf,
        /// When the next key is used.
        #[command(flatten)]
        after: After,
    },
    /// Add a key that is used after all others, and take out those that are over; the same file then goes to every host
    Rotate {
        /// File to change
        file: PathBuf,
        /// When the new key is used.
        #[command(flatten)]
        after: After,
    },
    /// Check a file, and list its keys by their fingerprints, which are the same on all hosts with the same keys
    Check {
        /// File to check
        file: PathBuf,
    },
}

/// When a key is used.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct After {
    /// Seconds from the last key's beginning, or from now if that is later, to the new one's: enough to hand the file out
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(SHORTEST_ROTATION)..=31_536_000))]
    pub after: u32,
}

impl After {
    fn key(self, last: Timestamp, now: Timestamp) -> error::Result<SharedKey> {
        SharedKey::new(last.max(now) + SignedDuration::from_secs(self.after.into()))
    }
}

/// Does it.
///
/// # Errors
///
/// What is wrong with the file, or cannot be written.
pub fn run(verb: &Verb) -> Result<()> {
    let now = Timestamp::from_second(Timestamp::now().as_second())?;
    match verb {
        Verb::New { file, after } => {
            let mut keys = KeyFile::with(SharedKey::new(now)?);
            keys.add(after.key(now, now)?)?;
            keys.create(file).map_err(|error| bad_input(&error))?;
            show(&keys, now)
        }
        Verb::Rotate { file, after } => {
            let mut keys = KeyFile::read(file)?;
            keys.forget_old(now);
            let last = keys.keys().last().map_or(now, |key| key.since);
            keys.add(after.key(last, now)?)?;
            keys.replace(file).map_err(|error| bad_input(&error))?;
            show(&keys, now)
        }
        Verb::Check { file } => check(file, now),
    }
}

fn bad_input(error: &Error) -> Failure {
    Failure::BadInput(format!("{error:#}"))
}

fn check(path: &Path, now: Timestamp) -> Result<()> {
    let keys = KeyFile::read(path)?;
    show(&keys, now)?;
    let current = keys.current(now).map_err(|error| bad_input(&error))?;
    if current + 1 == keys.keys().len() {
        eprintln!(
            "tracker: the last key is used for good: `tracker keys rotate {}` adds the next one",
            path.display()
        );
    }
    Ok(())
}

/// A line a key.
fn show(keys: &KeyFile, now: Timestamp) -> Result<()> {
    let current = keys.current(now).ok();
    let mut out = io::stdout().lock();
    for (at, key) in keys.keys().iter().enumerate() {
        let use_now = match current {
            Some(current) if at < current => "over",
            Some(current) if at == current => "used",
            _ => "ahead",
        };
        writeln!(out, "since={} fingerprint={:08x} {use_now}", key.since, key.fingerprint())?;
    }
    Ok(())
}
