//! SIGTERM and SIGINT end the agent at any moment, also while the kernel verifies one of its programs.
//!
//! bpf(2) returns once a program is verified, which takes seconds on a busy machine, and the agent's thread waits in it. Any signal to
//! that thread interrupts the verifier (EAGAIN). aya then loads the program a second time, with the verifier's log, which takes ten
//! times as long. So a thread of its own receives the signals, and the agent's thread none of them: SIGHUP disturbs nothing. Once
//! the agent is to end, its thread is interrupted again and again, until it has noticed.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    pthread::{pthread_kill, pthread_self},
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    time::interval,
};

use crate::{
    agent::privileges,
    model::error::{Context, Error, Result},
};

/// Interrupts a system call, and does nothing else: without a handler the kernel ignores it.
const INTERRUPTION: Signal = Signal::SIGURG;

/// Between two interruptions.
const PERIOD: Duration = Duration::from_millis(20);

/// Whether the agent is to end. Dropping it stops the interruptions.
#[derive(Debug)]
pub struct Ending {
    asked: watch::Receiver<Option<Signal>>,
    /// Dropped to end the thread.
    noticed: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ending {
    /// From now on SIGTERM and SIGINT do not end the process, but are noted; the calling thread is the one that is interrupted. It, and
    /// threads that it starts, receive neither them nor SIGHUP.
    ///
    /// # Errors
    ///
    /// Where a signal cannot be listened to, or no thread started.
    pub fn watch() -> Result<Self> {
        extern "C" fn nothing(_: libc::c_int) {}
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { sigaction(INTERRUPTION, &action) }.context(LISTENING)?;
        let agent = pthread_self();
        let (sender, asked) = watch::channel(None);
        let (noticed, mut is_noticed) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let work = async move {
            // Started before the agent gives up what it does not need, it would keep all of it.
            privileges::drop_all()?;
            let mut terminate = signal(SignalKind::terminate()).context(LISTENING)?;
            let mut interrupt = signal(SignalKind::interrupt()).context(LISTENING)?;
            let _ = ready.send(());
            let asked = tokio::select! {
                _ = terminate.recv() => Signal::SIGTERM,
                _ = interrupt.recv() => Signal::SIGINT,
                _ = &mut is_noticed => return Ok::<_, Error>(()),
            };
            let _ = sender.send(Some(asked));
            let mut period = interval(PERIOD);
            loop {
                tokio::select! {
                    _ = &mut is_noticed => return Ok(()),
                    // The agent's thread waits for this one before it ends.
                    _ = period.tick() => pthread_kill(agent, INTERRUPTION)?,
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let outcome = runtime.context(LISTENING).and_then(|runtime| runtime.block_on(work));
            if let Err(error) = outcome {
                tracing::error!("{error:#}");
            }
        })?;
        let ending = Self { asked, noticed: Some(noticed), thread: Some(thread) };
        is_ready.recv().map_err(|_| Error::text(LISTENING))?;
        let others: SigSet =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        others.thread_block().context(LISTENING)?;
        Ok(ending)
    }

    /// The signal by which the agent was asked to end, if it was.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        *self.asked.borrow()
    }

    /// Waits until the agent is asked to end, and returns the signal. Nothing is lost where waiting is given up.
    pub async fn asked(&self) -> Signal {
        let mut asked = self.asked.clone();
        match asked.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // The thread has failed, which it has logged.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.noticed.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const LISTENING: &str = "listening to signals";
