//! A command that has asked for SIGINT and SIGTERM ends on them, also where it is held up: by a terminal under Ctrl-S, by whoever
//! does not read its output, by an agent that does not answer.

use std::{process, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// From now on the process ends within a second of such a signal, and successfully: whoever sends it has had enough.
///
/// # Errors
///
/// Where signals cannot be listened to.
pub fn exit_on_signal() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new()
        .name("exit-signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sleep(PATIENCE).await;
            });
            process::exit(0);
        })
        .context("starting a thread that waits for signals")?;
    Ok(())
}

/// What a command has to end by itself.
const PATIENCE: Duration = Duration::from_secs(1);
