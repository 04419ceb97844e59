//! Where records go: what each exporter needs of the options and of this host.

use std::path::Path;

use zeroize::Zeroizing;

use crate::{
    agent::secret_file,
    export::{
        clickhouse::Server,
        file, ipfix,
        kafka::{self, Producer},
        options::Options,
        otlp::Collector,
        queue::Queue,
        record::Origin,
        relay::{self, Receiver},
    },
    kernel::trusted_paths::{self, Sharing},
    model::error::{Context, Result},
};

/// Where records go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exporter {
    File,
    ClickHouse,
    Otlp,
    Ipfix,
    Kafka,
}

/// All of them, in the order of their numbers.
pub(super) const EXPORTERS: [Exporter; 5] =
    [Exporter::File, Exporter::ClickHouse, Exporter::Otlp, Exporter::Ipfix, Exporter::Kafka];

impl Exporter {
    /// As metrics and directories have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::ClickHouse => "clickhouse",
            Self::Otlp => "otlp",
            Self::Ipfix => "ipfix",
            Self::Kafka => "kafka",
        }
    }

    /// Whether it is on.
    pub(super) fn is_wanted(self, options: &Options) -> bool {
        match self {
            Self::File => options.file.is_some(),
            Self::ClickHouse => options.clickhouse.is_some(),
            Self::Otlp => options.otlp.is_some(),
            Self::Ipfix => options.ipfix.is_some(),
            Self::Kafka => !options.kafka.is_empty(),
        }
    }

    /// The receiver over a network, where there is one.
    fn receiver(self, options: &Options, origin: &Origin) -> Option<Box<dyn Receiver>> {
        match self {
            Self::File => None,
            Self::ClickHouse => {
                let settings = options.clickhouse_settings()?;
                let path = settings.password.clone();
                Some(Box::new(Server::new(settings, Box::new(move || password(path.as_deref())))))
            }
            Self::Otlp => {
                let settings = options.otlp_settings()?;
                let path = settings.headers.clone();
                let headers = Box::new(move || headers(path.as_deref()));
                Some(Box::new(Collector::new(settings, headers, origin)))
            }
            Self::Ipfix => Some(Box::new(ipfix::Collector::new(options.ipfix_settings()?, origin))),
            Self::Kafka => {
                let settings = options.kafka_settings()?;
                let path = settings.user.as_ref().map(|(_, path)| path.clone());
                Some(Box::new(Producer::new(settings, Box::new(move || password(path.as_deref())))))
            }
        }
    }

    /// The option whose secret passes a network in the clear, what that is, and what has TLS.
    fn exposed(self, options: &Options) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::File | Self::Ipfix => None,
            Self::ClickHouse => options
                .clickhouse_settings()
                .filter(|it| it.password.is_some() && it.address.is_open())
                .map(|_| ("--export-clickhouse", "the password passes", "https://")),
            Self::Otlp => options
                .otlp_settings()
                .filter(|it| it.headers.is_some() && it.address.is_open())
                .map(|_| ("--export-otlp", "the headers pass", "https://")),
            Self::Kafka => options
                .kafka_settings()
                .filter(kafka::Settings::is_open)
                .map(|_| ("--export-kafka", "the password passes", "--export-kafka-tls")),
        }
    }

    fn has_same_spool(self, one: &Options, other: &Options) -> bool {
        let of = |options: &Options| options.spool_settings("", self.name());
        of(one) == of(other)
    }

    /// Whether both options mean the same to it.
    pub(super) fn is_same(self, one: &Options, other: &Options) -> bool {
        match self {
            Self::File => one.file_settings() == other.file_settings(),
            Self::ClickHouse => {
                one.clickhouse_settings() == other.clickhouse_settings()
                    && self.has_same_spool(one, other)
            }
            Self::Otlp => {
                one.otlp_settings() == other.otlp_settings() && self.has_same_spool(one, other)
            }
            Self::Ipfix => {
                one.ipfix_settings() == other.ipfix_settings() && self.has_same_spool(one, other)
            }
            Self::Kafka => {
                one.kafka_settings() == other.kafka_settings() && self.has_same_spool(one, other)
            }
        }
    }

    /// Checks that it can send records as the options have it, on this host.
    pub(super) fn check(self, options: &Options) -> Result<()> {
        match self {
            Self::File => {
                let Some(path) = &options.file else { return Ok(()) };
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                trusted_paths::check(directory.unwrap_or(Path::new(".")), Sharing::Sticky)
                    .with_context(|| format!("--export-file {}", path.display()))?;
                file::check(path)
            }
            Self::ClickHouse | Self::Otlp | Self::Ipfix | Self::Kafka => {
                let Some(receiver) = self.receiver(options, &Origin::default()) else {
                    return Ok(());
                };
                trusted_paths::check(options.spool_directory(), Sharing::No)
                    .context("--export-spool")?;
                receiver.check().context(receiver.name())
            }
        }
    }

    /// Sends the records of a queue until no more come.
    pub(super) fn run(self, options: &Options, queue: &Queue, origin: &Origin) {
        if let Some((option, what, remedy)) = self.exposed(options) {
            tracing::warn!("{option}: {what} the network in the clear; {remedy} has TLS");
        }
        if self == Self::Ipfix && options.ipfix.as_ref().is_some_and(ipfix::Address::is_best_effort)
        {
            tracing::info!(
                "--export-ipfix: UDP is best effort: nobody notices what the network or the collector drops; tcp:// sends again"
            );
        }
        if let Some(receiver) = self.receiver(options, origin) {
            let spool = options.spool_settings(&origin.agent, self.name());
            relay::run(&*receiver, &spool, queue, origin);
        } else if let Some(settings) = options.file_settings() {
            file::run(settings, queue, origin);
        }
    }
}

/// The password of a server's user, as its file has it now; without the line's end.
fn password(path: Option<&Path>) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(path) = path else { return Ok(None) };
    let renewal = "change the password, because this one may be known";
    let mut text = secret_file::read(path, MOST_PASSWORD, renewal)
        .with_context(|| format!("the password in {}", path.display()))?;
    let length = text.trim_ascii_end().len();
    text.truncate(length);
    Ok(Some(text))
}

/// The headers of requests, as their file has them now.
fn headers(path: Option<&Path>) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(path) = path else { return Ok(None) };
    let renewal = "change the secrets in it, because they may be known";
    secret_file::read(path, MOST_HEADERS, renewal)
        .with_context(|| format!("the headers in {}", path.display()))
        .map(Some)
}

/// Bytes of a password's file at most.
const MOST_PASSWORD: u64 = 1024;

/// Bytes of a file with headers at most.
const MOST_HEADERS: u64 = 16_384;
