//! The options of `tracker run`, which are also the settings of its configuration file, and what follows from them for the
//! kernel programs and the sweeps.

use std::path::PathBuf;

use tracker_common::{config::LiveConfig, event::Kind, state::State, sweep::Timeouts};

use crate::{
    agent::{
        dropping,
        interfaces::{presence::OnDetach, wanted::Name},
        metrics, protect,
        sweeper::SWEEP_INTERVAL,
        writer::OnError,
    },
    export,
    kernel::{attach::EgressChoice, ingress::IngressOptions, load::Sizes},
    model::{
        error::Result,
        flood_detection::{FloodLimits, Sources},
        format::Format,
        report_selection::ReportSelection,
    },
};

/// Options of `tracker run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Configuration file: these flags by their long names, as in `protect = ["80,443"]`; the command line wins [default:
    /// /etc/tracker/tracker.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interfaces to attach to, by name or pattern (`'veth*'`), also those that appear later; repeatable
    #[arg(
        short,
        long = "interface",
        required = true,
        value_delimiter = ',',
        value_name = "NAME[,NAME]"
    )]
    pub interfaces: Vec<Name>,
    /// Wait for missing interfaces instead of refusing to start
    #[arg(long)]
    pub wait_for_interfaces: bool,
    /// Leave the kernel side attached after SIGTERM or an error, for the next agent of this name
    #[arg(long)]
    pub keep_attached: bool,
    /// Where arriving packets are seen.
    #[command(flatten)]
    pub ingress_options: IngressOptions,
    /// Hook for leaving packets
    #[arg(long, value_enum, default_value_t)]
    pub egress: EgressChoice,
    /// If programs of the agent disappear from an existing interface; it looks every two seconds
    #[arg(long, value_enum, default_value_t)]
    pub on_detach: OnDetach,
    /// Zone of the interfaces' flows: equal addresses in different zones are different connections
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub zone: u16,
    /// Events to write
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "EVENT[,EVENT]",
        default_value = "violation"
    )]
    pub events: Vec<EventName>,
    /// Output format of events: `text` as log lines on stderr, `jsonl` on stdout
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// If stdout or stderr cannot be written: a closed pipe, a full disk. A stalled reader loses reports, and the agent counts them
    #[arg(long, value_enum, default_value_t)]
    pub on_output_error: OnError,
    /// Seconds between sweeps; longer if millions of flows would make that a load
    #[arg(long, default_value_t = SWEEP_INTERVAL.as_secs_f64(), value_parser = seconds, value_name = "SECONDS")]
    pub sweep_interval: f64,
    /// Report every violation, even if the same flow repeats it
    #[arg(long)]
    pub every: bool,
    /// Reports per second about one source, on average; 0 for no limit. All violations are counted
    #[arg(long, default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub report_rate: u32,
    /// Reports about one source in a burst
    #[arg(long, default_value_t = 100, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub report_burst: u32,
    /// New handshakes a second, at one interface and CPU, above which those without a place in the SYN cache overwrite older ones
    /// instead of getting a record; 0 for no limit
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub shed_above: u32,
    /// Log debug messages of the kernel programs, at a cost per packet
    #[arg(long)]
    pub kernel_log: bool,
    /// Metrics.
    #[command(flatten)]
    pub metrics: metrics::options::Options,
    /// Records for engines elsewhere.
    #[command(flatten)]
    pub export: export::options::Options,
    /// SYN cookies.
    #[command(flatten)]
    pub protect: protect::Options,
    /// What is dropped.
    #[command(flatten)]
    pub dropping: dropping::Options,
    /// Rules.
    #[command(flatten)]
    pub reported: ReportSelection,
    /// Limits of floods and scans.
    #[command(flatten)]
    pub limits: FloodLimits,
    /// Sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Timeouts.
    #[command(flatten)]
    pub timeouts: TimeoutOptions,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.01..=3600.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0.01 to 3600".to_owned()),
    }
}

/// The kinds of events by their names on the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum EventName {
    /// First packet of a connection
    New,
    /// Both ends are ESTABLISHED
    Established,
    /// First FIN or RST
    Closing,
    /// Both ends are CLOSED, or in TIME_WAIT
    Close,
    /// End of a connection: closed, expired, or replaced by a newer one
    Destroy,
    /// Breach of a rule of the protocol
    Violation,
    /// Start or end of SYN cookies for a listener
    Cookie,
    /// Each segment: high volume
    Segment,
    /// All kinds except segments
    All,
}

impl EventName {
    /// The kinds that the names stand for.
    #[must_use]
    pub fn kinds(names: &[Self]) -> Vec<Kind> {
        Kind::ALL
            .into_iter()
            .filter(|kind| {
                names.iter().any(|name| match name {
                    Self::New => *kind == Kind::New,
                    Self::Established => *kind == Kind::Established,
                    Self::Closing => *kind == Kind::Closing,
                    Self::Close => *kind == Kind::Close,
                    Self::Destroy => *kind == Kind::Destroy,
                    Self::Violation => *kind == Kind::Violation,
                    Self::Cookie => *kind == Kind::Cookie,
                    Self::Segment => *kind == Kind::Segment,
                    Self::All => *kind != Kind::Segment,
                })
            })
            .collect()
    }
}

macro_rules! timeout_options {
    ($($field:ident: $state:ident, $default:literal, $doc:literal;)*) => {
        /// Seconds without a renewing segment after which a flow is removed. The shorter one of its ends' states applies; CLOSED
        /// counts only where the other end is CLOSED or LISTEN.
        #[derive(Clone, Copy, Debug, clap::Args)]
        #[command(next_help_heading = "Timeouts, in seconds")]
        pub struct TimeoutOptions {
            $(
                #[doc = $doc]
                #[arg(long, default_value_t = $default, value_name = "SECONDS")]
                #[arg(value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
                pub $field: u32,
            )*
        }

        impl TimeoutOptions {
            /// As the rules want them.
            #[must_use]
            pub fn timeouts(&self) -> Timeouts {
                let mut timeouts = Timeouts::default();
                $(timeouts.seconds[State::$state as usize] = self.$field;)*
                timeouts
            }
        }
    };
}

timeout_options! {
    timeout_syn_sent: SynSent, 60, "SYN_SENT";
    timeout_syn_received: SynReceived, 60, "SYN_RECEIVED";
    timeout_established: Established, 7440, "ESTABLISHED";
    timeout_fin_wait_1: FinWait1, 60, "FIN_WAIT_1";
    timeout_fin_wait_2: FinWait2, 60, "FIN_WAIT_2";
    timeout_close_wait: CloseWait, 7440, "CLOSE_WAIT";
    timeout_closing: Closing, 60, "CLOSING";
    timeout_last_ack: LastAck, 60, "LAST_ACK";
    timeout_time_wait: TimeWait, 60, "TIME_WAIT, which is 2MSL";
    timeout_closed: Closed, 10, "CLOSED";
}

/// Returns the kernel programs' configuration, without the events and traced segments that somebody wants.
pub(super) fn live_config(options: &Options) -> LiveConfig {
    LiveConfig {
        reported: options.reported.rules(),
        dropped: options.dropping.rules(),
        drop_mode: options.dropping.mode() as u32,
        source_interval_ns: interval_ns(options.report_rate),
        source_burst_ns: interval_ns(options.report_rate) * u64::from(options.report_burst),
        no_back_off: u32::from(options.every),
        shed_above: options.shed_above,
        ..LiveConfig::default()
    }
}

pub(super) fn wants_destroy(options: &Options) -> bool {
    options.export.is_wanted() || EventName::kinds(&options.events).contains(&Kind::Destroy)
}

pub(super) fn sources(options: &Options) -> Sources {
    let interval_ns = interval_ns(options.report_rate);
    Sources::new(interval_ns, interval_ns * u64::from(options.report_burst))
}

/// Nanoseconds between two of `rate` reports a second; 0 for no limit.
fn interval_ns(rate: u32) -> u64 {
    1_000_000_000_u64.checked_div(rate.into()).unwrap_or_default()
}
