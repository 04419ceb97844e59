//! Flows as a table, by columns of one's choice.

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::model::{owner::Owner, record::Record};

/// What a column shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Column {
    /// Address of the end that opened the connection
    Src,
    /// Its port
    Sport,
    /// Address of the other end
    Dst,
    /// Its port
    Dport,
    /// Both ends' states
    State,
    /// Seconds until it expires
    Left,
    /// Seconds since its first packet
    Age,
    /// Packets of both ends
    Packets,
    /// Bytes of both ends, IP headers included
    Bytes,
    /// Number of violations
    Violations,
    /// Rules that it broke, as far as the kernel remembers, and how often
    BrokenRules,
    /// Round trip of the handshake, in microseconds
    Rtt,
    /// Zeek's history
    History,
    /// Zeek's conn_state
    ConnState,
    /// Directions that were seen
    Seen,
    /// Interface that saw its first packet
    Interface,
    /// The interface's zone
    Zone,
    /// Both ends on the other side, where this host translates, as `--nat`
    Translated,
    /// Processes that have the socket, as `--processes`
    Process,
    /// User that made the socket
    User,
    /// Control group of the first process
    Cgroup,
    /// Container, by the first digits of its identifier
    Container,
    /// Pod of Kubernetes
    Pod,
}

impl Column {
    fn show(self, record: &Record, now_ns: u64) -> String {
        match self {
            Self::Src => record.src.to_string(),
            Self::Sport => record.sport.to_string(),
            Self::Dst => record.dst.to_string(),
            Self::Dport => record.dport.to_string(),
            Self::State => record.states().join("/"),
            Self::Left => record.timeout_s.to_string(),
            Self::Age => (now_ns.saturating_sub(record.created_ns) / 1_000_000_000).to_string(),
            Self::Packets => record.packets().to_string(),
            Self::Bytes => record.bytes().to_string(),
            Self::Violations => record.violations.to_string(),
            Self::BrokenRules => record.broken_text().unwrap_or_else(|| "-".to_owned()),
            Self::Rtt => record.rtt_us.map_or_else(|| "-".to_owned(), |rtt| rtt.to_string()),
            Self::History => record.history.clone(),
            Self::ConnState => record.conn_state.clone(),
            Self::Seen => record.seen.clone(),
            Self::Interface => record.interface.clone(),
            Self::Zone => record.zone.to_string(),
            Self::Translated => {
                record.translated.map_or_else(|| "-".to_owned(), |ends| ends.to_string())
            }
            Self::Process => of_owners(record, Owner::process_text),
            Self::User => of_owners(record, |owner| Some(owner.user_text())),
            Self::Cgroup => of_owners(record, |owner| owner.cgroup.clone()),
            Self::Container => of_owners(record, Owner::container_text),
            Self::Pod => of_owners(record, |owner| owner.pod.as_ref().map(ToString::to_string)),
        }
    }

    /// Whether it shows who has sockets.
    pub(super) const fn asks_for_owners(self) -> bool {
        matches!(self, Self::Process | Self::User | Self::Cgroup | Self::Container | Self::Pod)
    }

    fn title(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| {
            value.get_name().to_ascii_uppercase().replace('-', "_")
        })
    }
}

/// What is said of the owners of a connection's ends: of both, where this host has both sockets.
fn of_owners(record: &Record, say: impl Fn(&Owner) -> Option<String>) -> String {
    let said: Vec<_> = record.owners().filter_map(say).collect();
    if said.is_empty() { "-".to_owned() } else { said.join(">") }
}

/// A table's title, and its lines.
pub(super) fn split(table: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut lines = table.lines().map(str::to_owned);
    let titles = lines.next().into_iter().collect();
    (titles, lines.map(|line| vec![line]).collect())
}

/// A table with a title a column. With a width it keeps to that; without one a flow is a line.
pub(super) fn table(
    records: &[Record],
    columns: &[Column],
    now_ns: u64,
    width: Option<u16>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(columns.iter().map(|column| column.title()));
    for record in records {
        table.add_row(columns.iter().map(|column| column.show(record, now_ns)));
    }
    // Lists of rules go on at their commas, and nothing else is torn apart.
    for (place, column) in columns.iter().enumerate() {
        let Some(shown) = table.column_mut(place) else { continue };
        if *column == Column::BrokenRules {
            shown.set_delimiter(',');
            continue;
        }
        let cells = records.iter().map(|record| column.show(record, now_ns).len());
        let longest = cells.chain([column.title().len()]).max().unwrap_or_default();
        // With the space on both sides.
        let least = u16::try_from(longest + 2).unwrap_or(u16::MAX);
        shown.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
    }
    if let Some(first) = table.column_mut(0) {
        // A line begins with its first word, for awk and for eyes.
        first.set_padding((0, 1));
    }
    table.trim_fmt()
}
