//! Notifications to a service manager (sd_notify(3)); none where there is no service manager.

use std::{cell::Cell, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};

/// The agent is attached, and its other commands find it; also after [`reloading`].
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The agent reads its configuration anew, and says [`ready`] afterwards.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("the monotonic clock: {error}"),
    }
}

/// The agent ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling the service manager: {error}");
    }
}

/// Tells the service manager that the agent makes progress, for as long as it does: its loop turns, and sweeps are done in
/// time.
#[derive(Debug)]
pub struct Watchdog {
    /// A third of what the service manager waits for; `None` where it does not.
    every: Option<Duration>,
    next: Cell<Instant>,
    swept: Cell<Instant>,
    sweep_interval: Cell<Duration>,
}

impl Watchdog {
    /// Where one is asked for by the environment; sweeps are to be so many seconds apart.
    #[must_use]
    pub fn new(sweep_interval: f64) -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|period| period / 3),
            next: Cell::new(Instant::now()),
            swept: Cell::new(Instant::now()),
            sweep_interval: Cell::new(Duration::from_secs_f64(sweep_interval)),
        }
    }

    /// Says how many seconds are between two sweeps.
    pub fn swept_every(&self, seconds: f64) {
        self.sweep_interval.set(Duration::from_secs_f64(seconds));
        self.swept();
    }

    /// A sweep has ended.
    pub fn swept(&self) {
        self.swept.set(Instant::now());
    }

    /// Waits until it is time, and tells. Nothing is lost where waiting is given up.
    pub async fn due(&self) {
        let Some(every) = self.every else { return std::future::pending().await };
        sleep_until(self.next.get()).await;
        self.next.set(Instant::now() + every);
        // A sweep of millions of flows takes its time.
        if self.swept.get().elapsed() < self.sweep_interval.get() + every * 9 {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
