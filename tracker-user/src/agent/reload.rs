//! SIGHUP: the configuration file is read anew, and what can change while the agent runs does.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    agent::{
        options::Options,
        service,
        settings::{Current, Setting},
    },
    model::error::Result,
};

/// Settings that a running agent takes over, by the flags' long names, besides the timeouts.
const LIVE: [&str; 44] = [
    "drop",
    "drop-dry-run",
    "drop-exempt",
    "events",
    "every",
    "export",
    "export-clickhouse",
    "export-clickhouse-ca",
    "export-clickhouse-password",
    "export-clickhouse-table",
    "export-clickhouse-user",
    "export-file",
    "export-file-count",
    "export-file-size",
    "export-filter",
    "export-kafka",
    "export-kafka-ca",
    "export-kafka-compression",
    "export-kafka-mechanism",
    "export-kafka-password",
    "export-kafka-tls",
    "export-kafka-topic",
    "export-kafka-user",
    "export-otlp",
    "export-otlp-ca",
    "export-otlp-compression",
    "export-otlp-headers",
    "export-ipfix",
    "export-ipfix-domain",
    "export-ipfix-pen",
    "export-ipfix-templates",
    "export-spool",
    "export-spool-size",
    "export-update",
    "on-detach",
    "on-output-error",
    "output",
    "port-scan-limit",
    "report",
    "report-burst",
    "report-rate",
    "shed-above",
    "sweep-interval",
    "syn-flood-limit",
];

/// Those for which an agent must be restarted: they are about what is in the kernel, or how it is begun and ended.
#[cfg(test)]
const AT_START: [&str; 23] = [
    "cookie-keys",
    "drop-on",
    "egress",
    "export-host",
    "interface",
    "keep-attached",
    "kernel-log",
    "max-flows",
    "max-half-open",
    "metrics",
    "metrics-tls-cert",
    "metrics-tls-key",
    "metrics-token",
    "protect",
    "ring-bytes",
    "syn-cookies",
    "syn-cookies-at",
    "syn-cookies-hold",
    "syn-cookies-rotate",
    "wait-for-interfaces",
    "ingress",
    "xdp",
    "zone",
];

/// Whether a running agent takes this setting over.
#[must_use]
pub fn is_live(name: &str) -> bool {
    name.starts_with("timeout-") || LIVE.contains(&name)
}

/// Returns the settings that the configuration file means at the moment of the call.
pub type Reread = Box<dyn Fn() -> Result<Current>>;

/// Waits for SIGHUP.
pub struct Reload {
    signal: Signal,
    reread: Reread,
    /// Those that the agent has.
    settings: Vec<Setting>,
}

impl Reload {
    /// For an agent that was started with these settings, which `reread` reads again. From now on SIGHUP does not end the
    /// process.
    ///
    /// # Errors
    ///
    /// Where the signal cannot be listened to.
    pub fn new(reread: Reread, settings: Vec<Setting>) -> Result<Self> {
        Ok(Self { signal: signal(SignalKind::hangup())?, reread, settings })
    }

    /// Waits until the agent is to have other settings, and returns them; of those only what [`is_live`] is to be taken
    /// over. What has changed is to be said afterwards. A file that is wrong changes nothing. Nothing is lost where waiting
    /// is given up.
    pub async fn asked_for(&mut self) -> (Options, Changed) {
        loop {
            if self.signal.recv().await.is_none() {
                // There are no more of them.
                std::future::pending::<()>().await;
            }
            service::reloading();
            match (self.reread)() {
                Ok(current) => {
                    let changed = self.take_over(current.settings);
                    return (current.options, changed);
                }
                Err(error) => {
                    tracing::error!(
                        "SIGHUP: nothing was changed, because of the configuration: {error:#}"
                    );
                    service::ready();
                }
            }
        }
    }

    fn take_over(&mut self, new: Vec<Setting>) -> Changed {
        let mut changed = Changed::default();
        for (old, new) in self.settings.iter_mut().zip(new) {
            if old.value == new.value {
                continue;
            }
            let value =
                new.value.as_ref().map_or_else(|| "not set".to_owned(), ToString::to_string);
            changed.0.push((new.name.clone(), value));
            if is_live(&new.name) {
                *old = new;
            }
        }
        changed
    }
}

/// What has changed in the configuration: each setting by its name, with its new value.
#[derive(Debug, Default)]
pub struct Changed(Vec<(String, String)>);

impl Changed {
    /// Says so, once the agent goes by it.
    pub fn say(self) {
        if self.0.is_empty() {
            tracing::info!("SIGHUP: no setting has changed");
        }
        for (setting, value) in self.0 {
            if is_live(&setting) {
                tracing::info!(setting, %value, "SIGHUP: changed");
            } else {
                tracing::warn!(
                    setting,
                    %value,
                    "SIGHUP: cannot change while the agent runs; restart it"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::agent::settings::flags;

    #[test]
    fn every_flag_is_one_or_the_other() {
        let run = Options::augment_args(Command::new("run"));
        let names: Vec<_> = flags(&run).map(|(name, _)| name).collect();
        for name in &names {
            let name = name.as_str();
            assert_ne!(is_live(name), AT_START.contains(&name), "--{name}");
        }
        for name in LIVE {
            assert!(names.iter().any(|known| known == name), "--{name}");
        }
    }
}
