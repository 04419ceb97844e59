//! Questions to the kernel in another process's network namespace.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::model::error::{Context, Error, Result};

/// Calls `ask` in the network namespace of the process with this number; in this one's own without a number.
///
/// # Errors
///
/// What `ask` says; without `CAP_SYS_PTRACE`, unless the process is the user's own; and without `CAP_SYS_ADMIN`, where that is another
/// namespace.
pub fn within<T: Send + 'static>(process: Option<&str>, ask: fn() -> Result<T>) -> Result<T> {
    let namespace = |of: &str| PathBuf::from(format!("/proc/{of}/ns/net"));
    let Some(theirs) = process.map(namespace) else { return ask() };
    let looking = || {
        let theirs = theirs.display();
        format!(
            "looking at the agent's network namespace, {theirs}, which takes root or CAP_SYS_PTRACE"
        )
    };
    let there = File::open(&theirs).with_context(looking)?;
    if fs::metadata(&theirs).with_context(looking)?.ino()
        == fs::metadata(namespace("thread-self"))?.ino()
    {
        return ask();
    }
    // A thread of its own moves there, and ends there.
    let asking = thread::spawn(move || {
        setns(there, CloneFlags::CLONE_NEWNET)
            .context("entering the agent's network namespace, which needs CAP_SYS_ADMIN")?;
        ask()
    });
    asking.join().map_err(|_| Error::text("a thread in the agent's network namespace has ended"))?
}
