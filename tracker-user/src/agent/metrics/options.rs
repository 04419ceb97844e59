//! Options of `tracker run` about metrics: where they are served, and to whom.

use std::path::PathBuf;

use super::address::{self, MetricsAddress};

/// Options of `tracker run` about metrics.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Metrics")]
// A group of `tracker run` has this name already.
#[group(skip)]
pub struct Options {
    /// Serve /metrics for Prometheus, /healthz and /readyz at an address, a port, both, or a unix socket
    /// (`unix:/run/tracker/metrics.sock`) [default without a value: 127.0.0.1:9469]
    #[arg(id = "metrics", long = "metrics", value_name = "ADDRESS:PORT|unix:PATH", num_args = 0..=1)]
    #[arg(default_missing_value = address::DEFAULT)]
    pub at: Option<MetricsAddress>,
    /// Certificate in PEM, to serve them with TLS; those of intermediate authorities follow it. SIGHUP has it read again
    #[arg(id = "metrics_tls_cert", long = "metrics-tls-cert", value_name = "FILE")]
    #[arg(requires_all = ["metrics", "metrics_tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of this certificate in PEM, in a file that only its owner may read. SIGHUP has it read again
    #[arg(id = "metrics_tls_key", long = "metrics-tls-key", value_name = "FILE")]
    #[arg(requires_all = ["metrics", "metrics_tls_cert"])]
    pub tls_key: Option<PathBuf>,
    /// Bearer token that /metrics needs, in a file that only its owner may read; /healthz and /readyz need none. SIGHUP has
    /// it read again
    #[arg(id = "metrics_token", long = "metrics-token", value_name = "FILE", requires = "metrics")]
    pub token: Option<PathBuf>,
}
