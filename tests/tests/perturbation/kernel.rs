//! The same through the kernel programs: all variants in one capture, each with addresses of its own.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracker_common::violation::Rule;
use tracker_tests::{
    agent::run_tracker,
    pcap::{Form, Order, Packet, pcap},
};

use crate::connection::{Frame, times};

/// When the capture begins, nanoseconds since 1970.
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;

/// Rules that are not about one connection's packets: they depend on all that is going on, and on when the capture ends.
const OF_OTHERS: [Rule; 3] = [Rule::SynFlood, Rule::PortScan, Rule::HalfOpenTimeout];

/// What came of one variant: its connections in some order, and the rules that were reported.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Summary {
    pub(crate) ends: Vec<String>,
    pub(crate) reports: BTreeMap<String, usize>,
}

impl Summary {
    pub(crate) fn new(ends: impl Iterator<Item = String>, reports: &[Rule]) -> Self {
        let mut summary = Self { ends: ends.collect(), reports: BTreeMap::new() };
        summary.ends.sort_unstable();
        for rule in reports.iter().filter(|rule| !OF_OTHERS.contains(rule)) {
            *summary.reports.entry(rule.name().to_owned()).or_default() += 1;
        }
        summary
    }
}

/// A capture of many pairs of ends.
#[derive(Default)]
pub(crate) struct File {
    packets: Vec<Packet>,
    count: u32,
}

impl File {
    /// Adds packets, each with the time that it comes at, between two ends that no other packets of the file have.
    pub(crate) fn add<'a>(&mut self, packets: impl IntoIterator<Item = (&'a Frame, i64)>) {
        for (frame, now_ns) in times(packets) {
            let bytes = readdressed(frame, self.count);
            self.packets.push(Packet {
                time_ns: BEGIN_NS + now_ns,
                bytes,
                wire_len: frame.wire_len,
            });
        }
        self.count += 1;
    }

    /// What `tracker replay` says of each pair of ends, in the order in which they were added.
    pub(crate) fn replay(mut self) -> Result<Vec<Summary>> {
        self.packets.sort_by_key(|packet| packet.time_ns);
        let name = format!("tracker-perturbation-{}.pcap", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(name);
        fs::write(&path, pcap(Order::Little, Form::Nanoseconds, 1, &self.packets))?;
        let text = path.to_str().context("a path of UTF-8")?;
        let arguments = ["replay", "-o", "json", "--every", "--report", "violation", text];
        let said = run_tracker(&arguments, None);
        fs::remove_file(&path)?;
        let (stdout, stderr, status) = said?;
        ensure!(status.success(), "{stderr}");
        let document: Value = serde_json::from_str(&stdout)?;
        for none in ["reports_lost", "evicted", "table_full"] {
            ensure!(document[none] == 0, "{none}: {}", document[none]);
        }
        let mut all = vec![Summary::default(); self.count as usize];
        for flow in document["flows"].as_array().context("flows")? {
            let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
            let [opener, other] = ["orig", "reply"].map(|end| text(&flow[end]["state"]));
            let end = format!("{opener}/{other} {}", text(&flow["conn_state"]));
            all[number(&flow["src"])?].ends.push(end);
        }
        for event in document["events"].as_array().context("events")? {
            let name = event["violation"]["name"].as_str().context("a violation")?;
            if OF_OTHERS.iter().any(|rule| rule.name() == name) {
                continue;
            }
            let place = number(&event["segment"]["src"])?;
            *all[place].reports.entry(name.to_owned()).or_default() += 1;
        }
        for summary in &mut all {
            summary.ends.sort_unstable();
        }
        Ok(all)
    }
}

/// The frame between other addresses: `number` stands in both.
fn readdressed(frame: &Frame, number: u32) -> Vec<u8> {
    let mut bytes = frame.bytes.clone();
    let is_ipv4 = frame.packet.key.is_ipv4();
    let [_, a, b, c] = number.to_be_bytes();
    for (is_destination, end) in
        [frame.packet.from, frame.packet.from.other()].into_iter().enumerate()
    {
        let which = 10 + end.code();
        let (at, address) = if is_ipv4 {
            (12 + 4 * is_destination, vec![which, a, b, c])
        } else {
            (8 + 16 * is_destination, vec![0x20, 1, 0x0d, 0xb8, which, a, b, c])
        };
        let at = frame.ip_at + at;
        bytes[at..at + address.len()].copy_from_slice(&address);
    }
    bytes
}

/// The number in an address that [`readdressed`] has made.
fn number(address: &Value) -> Result<usize> {
    let address: IpAddr = address.as_str().context("an address")?.parse()?;
    let [a, b, c] = match address {
        IpAddr::V4(address) => {
            let [_, a, b, c] = address.octets();
            [a, b, c]
        }
        IpAddr::V6(address) => {
            let bytes = address.octets();
            [bytes[5], bytes[6], bytes[7]]
        }
    };
    Ok(usize::try_from(u32::from_be_bytes([0, a, b, c]))?)
}
