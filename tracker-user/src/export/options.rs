//! Options of `tracker run` about records that are sent elsewhere.

use std::{
    ffi::OsStr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Arg, ArgGroup, Command, builder::TypedValueParser, error::ErrorKind};

use crate::{
    export::{
        clickhouse::{self, Table},
        file,
        http::{Address, Compression},
        ipfix, kafka, otlp,
        relay::SpoolSettings,
        selection::{Kind, Selection},
    },
    model::filter::{self, Filter, bytes},
};

/// Options of `tracker run` about records that are sent elsewhere.
#[derive(Clone, Debug, Default, Eq, PartialEq, clap::Args)]
#[command(next_help_heading = "Export")]
// A group of `tracker run` has this name already.
#[group(skip)]
#[command(group(ArgGroup::new("exporter").args(EXPORTERS).multiple(true)))]
#[command(group(ArgGroup::new("spooled_exporter").args(&EXPORTERS[1..]).multiple(true)))]
pub struct Options {
    /// Connections to export: `violations` (breaches, and connections with any), `abnormal` (not closed by both ends), `ended`,
    /// `sample:N` (one in N, the same on every host), `all` [default: violations,abnormal,sample:100]
    #[arg(id = "export", long = "export", value_name = "KIND[,KIND]", value_delimiter = ',')]
    #[arg(requires = "exporter")]
    pub kinds: Vec<Kind>,
    /// Export only connections that match this filter, in the words of `ss` and `tcpdump`: `'dst port 443 and not net 10.0.0.0/8'`
    #[arg(id = "export_filter", long = "export-filter", value_name = "FILTER", value_parser = words)]
    #[arg(requires = "exporter")]
    pub filter: Option<Filter>,
    /// Seconds between two records of a connection that goes on [default: 300]
    #[arg(id = "export_update", long = "export-update", value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400), requires = "exporter")]
    pub update: Option<u32>,
    /// Name of this host in records [default: its host name]
    #[arg(id = "export_host", long = "export-host", value_name = "NAME", value_parser = host)]
    #[arg(requires = "exporter")]
    pub host: Option<String>,
    /// Write records to a file, one JSON record per line; `tracker flows --from FILE` reads it
    #[arg(id = "export_file", long = "export-file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Maximum bytes of this file; a full one becomes FILE.1 [default: 100M]
    #[arg(id = "export_file_size", long = "export-file-size", value_name = "BYTES")]
    #[arg(value_parser = size, requires = "export_file")]
    pub file_size: Option<u64>,
    /// Maximum number of files, this one and full ones [default: 10]
    #[arg(id = "export_file_count", long = "export-file-count", value_name = "N")]
    #[arg(value_parser = count, requires = "export_file")]
    pub file_count: Option<NonZeroU32>,
    /// Send records to a ClickHouse server as rows, over HTTP: `https://clickhouse.example:8443`
    #[arg(id = "export_clickhouse", long = "export-clickhouse", value_name = "ADDRESS")]
    #[arg(value_parser = Unshown(|text| Address::parse(text, &clickhouse::SERVICE)))]
    pub clickhouse: Option<Address>,
    /// Table of the server [default: tracker.records]
    #[arg(
        id = "export_clickhouse_table",
        long = "export-clickhouse-table",
        value_name = "DATABASE.TABLE"
    )]
    #[arg(requires = "export_clickhouse")]
    pub clickhouse_table: Option<Table>,
    /// User of the server
    #[arg(id = "export_clickhouse_user", long = "export-clickhouse-user", value_name = "NAME")]
    #[arg(value_parser = user, requires = "export_clickhouse")]
    pub clickhouse_user: Option<String>,
    /// The user's password, in a file that only its owner may read; read again for each request
    #[arg(
        id = "export_clickhouse_password",
        long = "export-clickhouse-password",
        value_name = "FILE"
    )]
    #[arg(requires = "export_clickhouse_user")]
    pub clickhouse_password: Option<PathBuf>,
    /// Certificates of authorities in PEM, for a server with TLS [default: /etc/ssl/certs/ca-certificates.crt]
    #[arg(id = "export_clickhouse_ca", long = "export-clickhouse-ca", value_name = "FILE")]
    #[arg(requires = "export_clickhouse")]
    pub clickhouse_ca: Option<PathBuf>,
    /// Send records to an OpenTelemetry collector as log records, over OTLP/HTTP: `https://collector.example:4318`
    #[arg(id = "export_otlp", long = "export-otlp", value_name = "ADDRESS")]
    #[arg(value_parser = Unshown(|text| Address::parse(text, &otlp::SERVICE)))]
    pub otlp: Option<Address>,
    /// Headers of requests, one `Name: value` per line, in a file that only its owner may read; read again for each request
    #[arg(id = "export_otlp_headers", long = "export-otlp-headers", value_name = "FILE")]
    #[arg(requires = "export_otlp")]
    pub otlp_headers: Option<PathBuf>,
    /// Compression of requests [default: gzip]
    #[arg(id = "export_otlp_compression", long = "export-otlp-compression", value_name = "KIND")]
    #[arg(requires = "export_otlp")]
    pub otlp_compression: Option<Compression>,
    /// Certificates of authorities in PEM, for a collector with TLS [default: /etc/ssl/certs/ca-certificates.crt]
    #[arg(id = "export_otlp_ca", long = "export-otlp-ca", value_name = "FILE")]
    #[arg(requires = "export_otlp")]
    pub otlp_ca: Option<PathBuf>,
    /// Send records to a flow collector as IPFIX: `tcp://collector.example:4739`, or best effort `udp://collector.example:4739`
    #[arg(id = "export_ipfix", long = "export-ipfix", value_name = "ADDRESS")]
    pub ipfix: Option<ipfix::Address>,
    /// Number of the enterprise whose elements 101 to 123 are the agent's own; without, there are none, and no breaches [default: none]
    #[arg(id = "export_ipfix_pen", long = "export-ipfix-pen", value_name = "N")]
    #[arg(value_parser = pen, requires = "export_ipfix")]
    pub ipfix_pen: Option<u32>,
    /// Observation domain ID: different where collectors are to tell agents of one host apart [default: 1]
    #[arg(id = "export_ipfix_domain", long = "export-ipfix-domain", value_name = "N")]
    #[arg(requires = "export_ipfix")]
    pub ipfix_domain: Option<u32>,
    /// Seconds after which templates are sent again over UDP [default: 60]
    #[arg(id = "export_ipfix_templates", long = "export-ipfix-templates", value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400), requires = "export_ipfix")]
    pub ipfix_templates: Option<u32>,
    /// Send records to a topic of Kafka, as JSON, by way of these brokers: `kafka.example:9092`
    #[arg(id = "export_kafka", long = "export-kafka", value_name = "BROKER[,BROKER]")]
    #[arg(value_parser = Unshown(kafka::Broker::parse), value_delimiter = ',')]
    pub kafka: Vec<kafka::Broker>,
    /// Topic of the records, which exists [default: tracker]
    #[arg(id = "export_kafka_topic", long = "export-kafka-topic", value_name = "NAME")]
    #[arg(requires = "export_kafka")]
    pub kafka_topic: Option<kafka::Topic>,
    /// Compression of messages [default: lz4]
    #[arg(id = "export_kafka_compression", long = "export-kafka-compression", value_name = "KIND")]
    #[arg(requires = "export_kafka")]
    pub kafka_compression: Option<kafka::Compression>,
    /// Connect to brokers over TLS
    #[arg(id = "export_kafka_tls", long = "export-kafka-tls", requires = "export_kafka")]
    pub kafka_tls: bool,
    /// Certificates of authorities in PEM, for brokers with TLS [default: /etc/ssl/certs/ca-certificates.crt]
    #[arg(id = "export_kafka_ca", long = "export-kafka-ca", value_name = "FILE")]
    #[arg(requires = "export_kafka_tls")]
    pub kafka_ca: Option<PathBuf>,
    /// User of the brokers (SASL)
    #[arg(id = "export_kafka_user", long = "export-kafka-user", value_name = "NAME")]
    #[arg(value_parser = kafka_user, requires_all = ["export_kafka", "export_kafka_password"])]
    pub kafka_user: Option<String>,
    /// The user's password, in a file that only its owner may read; read again for each request
    #[arg(id = "export_kafka_password", long = "export-kafka-password", value_name = "FILE")]
    #[arg(requires = "export_kafka_user")]
    pub kafka_password: Option<PathBuf>,
    /// How the user is known [default: scram-sha-512]
    #[arg(id = "export_kafka_mechanism", long = "export-kafka-mechanism", value_name = "KIND")]
    #[arg(requires = "export_kafka_user")]
    pub kafka_mechanism: Option<kafka::Mechanism>,
    /// Directory for records that wait for a server [default: /var/lib/tracker/spool]
    #[arg(id = "export_spool", long = "export-spool", value_name = "DIR")]
    #[arg(requires = "spooled_exporter")]
    pub spool: Option<PathBuf>,
    /// Maximum bytes of them; then the oldest are lost [default: 1G]
    #[arg(id = "export_spool_size", long = "export-spool-size", value_name = "BYTES")]
    #[arg(value_parser = spool_size, requires = "spooled_exporter")]
    pub spool_size: Option<u64>,
}

impl Options {
    /// Whether anything is exported.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let is_sent = self.clickhouse.is_some() || self.otlp.is_some() || self.ipfix.is_some();
        self.file.is_some() || is_sent || !self.kafka.is_empty()
    }

    /// Which records are.
    #[must_use]
    pub fn selection(&self) -> Selection {
        Selection::new(&self.kinds, self.filter.clone().unwrap_or_default())
    }

    /// Time between two records of a connection that goes on.
    #[must_use]
    pub fn update_interval(&self) -> Duration {
        Duration::from_secs(self.update.map_or(300, u64::from))
    }

    /// The file to write to, where there is one.
    #[must_use]
    pub fn file_settings(&self) -> Option<file::Settings> {
        Some(file::Settings {
            path: self.file.clone()?,
            most_bytes: self.file_size.unwrap_or(100_000_000),
            count: self.file_count.map_or(10, NonZeroU32::get),
        })
    }

    /// The ClickHouse server to send to, where there is one.
    #[must_use]
    pub fn clickhouse_settings(&self) -> Option<clickhouse::Settings> {
        Some(clickhouse::Settings {
            address: self.clickhouse.clone()?,
            table: self.clickhouse_table.clone().unwrap_or_default(),
            user: self.clickhouse_user.clone(),
            password: self.clickhouse_password.clone(),
            authorities: self.clickhouse_ca.clone().unwrap_or_else(|| AUTHORITIES.into()),
        })
    }

    /// The collector to send to, where there is one.
    #[must_use]
    pub fn otlp_settings(&self) -> Option<otlp::Settings> {
        Some(otlp::Settings {
            address: self.otlp.clone()?,
            headers: self.otlp_headers.clone(),
            compression: self.otlp_compression.unwrap_or_default(),
            authorities: self.otlp_ca.clone().unwrap_or_else(|| AUTHORITIES.into()),
        })
    }

    /// The collector to send to, where there is one.
    #[must_use]
    pub fn ipfix_settings(&self) -> Option<ipfix::Settings> {
        Some(ipfix::Settings {
            address: self.ipfix.clone()?,
            domain: self.ipfix_domain.unwrap_or(1),
            pen: self.ipfix_pen,
            templates: Duration::from_secs(self.ipfix_templates.map_or(60, u64::from)),
        })
    }

    /// The topic to send to, where there is one.
    #[must_use]
    pub fn kafka_settings(&self) -> Option<kafka::Settings> {
        let ca = || self.kafka_ca.clone().unwrap_or_else(|| AUTHORITIES.into());
        (!self.kafka.is_empty()).then(|| kafka::Settings {
            brokers: self.kafka.clone(),
            topic: self.kafka_topic.clone().unwrap_or_default(),
            compression: self.kafka_compression.unwrap_or_default(),
            authorities: self.kafka_tls.then(ca),
            user: self.kafka_user.clone().zip(self.kafka_password.clone()),
            mechanism: self.kafka_mechanism.unwrap_or_default(),
        })
    }

    /// The spool of an exporter, of the agent of this name.
    #[must_use]
    pub fn spool_settings(&self, agent: &str, exporter: &str) -> SpoolSettings {
        SpoolSettings {
            directory: self.spool_directory().join(agent).join(exporter),
            most_bytes: self.spool_size.unwrap_or(1_000_000_000),
        }
    }

    /// The directory of all spools.
    #[must_use]
    pub fn spool_directory(&self) -> &Path {
        self.spool.as_deref().unwrap_or(Path::new("/var/lib/tracker/spool"))
    }
}

/// Parses values that may have a secret: an error says what is wrong, and does not repeat the value.
#[derive(Clone, Copy)]
struct Unshown<T>(fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Unshown<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "it is no UTF-8".to_owned()).and_then(self.0);
        parsed.map_err(|reason| {
            let argument = argument.map(ToString::to_string).unwrap_or_default();
            let said = format!("invalid value for '{argument}': {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, said).with_cmd(command)
        })
    }
}

fn words(text: &str) -> Result<Filter, String> {
    let filter = filter::words(text)?;
    if filter.is_empty() {
        return Err("an empty filter selects nothing in particular: leave it away".to_owned());
    }
    Ok(filter)
}

fn host(text: &str) -> Result<String, String> {
    let is_good = (1..=255).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
    if is_good { Ok(text.to_owned()) } else { Err("1 to 255 visible ASCII letters".to_owned()) }
}

fn pen(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => {
            Err("a private enterprise number from 1 to 4294967295, as IANA assigns them".to_owned())
        }
        Ok(ipfix::element::REVERSE) => {
            Err("29305 is for reverse elements (RFC 5103); use the number of your own enterprise"
                .to_owned())
        }
        Ok(pen) => Ok(pen),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let size = bytes(text)?;
    if size < LEAST { Err(format!("{LEAST} bytes at least")) } else { Ok(size) }
}

fn spool_size(text: &str) -> Result<u64, String> {
    let size = bytes(text)?;
    if size < LEAST_SPOOL { Err(format!("{LEAST_SPOOL} bytes at least")) } else { Ok(size) }
}

fn user(text: &str) -> Result<String, String> {
    let is_good = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != ':');
    if is_good { Ok(text.to_owned()) } else { Err("visible ASCII letters without `:`".to_owned()) }
}

fn kafka_user(text: &str) -> Result<String, String> {
    let is_good = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if is_good { Ok(text.to_owned()) } else { Err("visible ASCII letters".to_owned()) }
}

fn count(text: &str) -> Result<NonZeroU32, String> {
    match text.parse::<NonZeroU32>() {
        Ok(count) if count.get() <= MOST_FILES => Ok(count),
        _ => Err(format!("a number from 1 to {MOST_FILES}")),
    }
}

/// Arguments that name where records go, those that have a spool behind the first.
const EXPORTERS: [&str; 5] =
    ["export_file", "export_clickhouse", "export_otlp", "export_ipfix", "export_kafka"];

/// Certificates of the system's authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Bytes of a file at least: rotation takes longer than writing where files are smaller.
const LEAST: u64 = 4096;

/// Bytes of a spool at least: a sixteenth of it should hold some hundred records.
const LEAST_SPOOL: u64 = 10_000_000;

/// Files at most: each rotation renames them all.
const MOST_FILES: u32 = 1000;
