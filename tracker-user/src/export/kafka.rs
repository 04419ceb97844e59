//! The exporter `kafka`: messages of a topic, whose key is the Community ID.
//!
//! [`cluster`] sends rows to the leaders of partitions, over [`connection`]s; [`message`] has requests and answers, and [`batch`] the
//! form of messages. All replicas that are in sync have a message before it counts as sent.

mod address;
mod batch;
mod cluster;
mod connection;
mod message;
mod partitioner;
mod row;
mod scram;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use zeroize::Zeroizing;

pub use self::{
    address::{Broker, Topic},
    batch::Compression,
};
use self::{
    cluster::Cluster,
    connection::{Access, User},
};
use crate::{
    export::{
        http,
        record::ExportRecord,
        relay::{Receipt, Receiver, Refusal, Stop},
    },
    model::error::{Error, Result},
};

/// Where messages go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Those that are asked for the others; one or more.
    pub brokers: Vec<Broker>,
    /// The topic.
    pub topic: Topic,
    /// What is done with messages.
    pub compression: Compression,
    /// Certificates of authorities in PEM, which brokers' are checked by; without, there is no TLS.
    pub authorities: Option<PathBuf>,
    /// The user, where there is one, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// How the user is known.
    pub mechanism: Mechanism,
}

/// How a user is known: mechanisms of SASL.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Mechanism {
    /// Send the password (RFC 4616)
    Plain,
    /// Prove that the password is known (RFC 7677)
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// The same with a longer hash
    #[default]
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

impl Mechanism {
    /// As brokers have it.
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Settings {
    /// Whether the password passes a network in the clear.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let sends_password = self.user.is_some() && self.mechanism == Mechanism::Plain;
        sends_password && self.authorities.is_none() && !self.brokers.iter().all(Broker::is_local)
    }
}

/// Returns the user's password as it is now; `None` where none is needed.
pub type Password = Box<dyn Fn() -> Result<Option<Zeroizing<Vec<u8>>>> + Send + Sync>;

/// The brokers of a topic.
pub struct Producer {
    settings: Settings,
    password: Password,
    cluster: Mutex<Cluster>,
}

impl Producer {
    /// The producer of these settings.
    #[must_use]
    pub fn new(settings: Settings, password: Password) -> Self {
        Self { settings, password, cluster: Mutex::default() }
    }

    fn access(&self) -> Result<Access> {
        let Settings { authorities, user, mechanism, .. } = &self.settings;
        let connector = |path: &PathBuf| http::connector(path, "--export-kafka-ca");
        let tls = authorities.as_ref().map(connector).transpose()?;
        let password = (self.password)()?.unwrap_or_default();
        let user = user.as_ref().map(|(name, _)| User {
            mechanism: *mechanism,
            name: name.clone(),
            password,
        });
        Ok(Access { tls, user })
    }
}

impl Receiver for Producer {
    fn name(&self) -> &'static str {
        "--export-kafka"
    }

    fn check(&self) -> Result<()> {
        self.access().map(drop)
    }

    fn encode(&self, record: &ExportRecord) -> Option<Vec<u8>> {
        row::of(record)
    }

    fn split<'a>(&self, records: &'a [u8]) -> Vec<&'a [u8]> {
        let (rows, rest) = row::rows(records);
        let rest = (!rest.is_empty()).then_some(rest);
        rows.into_iter().map(|row| row.bytes).chain(rest).collect()
    }

    fn send(&self, records: &[u8], stop: &Stop) -> Result<Receipt, Refusal> {
        let (rows, rest) = row::rows(records);
        if !rest.is_empty() {
            // The spool has checksums, so it was written like this.
            return Err(Refusal::Content(Error::text("a record in the spool is none")));
        }
        let access = self.access()?;
        let mut cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        stop.run(async { Ok(cluster.send(&self.settings, &access, &rows).await) })??;
        Ok(Receipt::default())
    }
}
