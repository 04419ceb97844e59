//! What kind of traffic each capture holds, and the violations that are reported of it.

use tracker_common::violation::Rule;

/// What kind of traffic a capture holds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// What real stacks say to each other, lost and late segments included: no violation.
    Ordinary,
    /// One direction only: no violation.
    OneSided,
    /// The beginning is missing, or a part: no violation.
    Incomplete,
    /// In something that is not taken apart: PPPoE, MPLS, a third VLAN tag. No violation.
    Wrapped,
    /// Made for a test, and not as a stack would do it.
    Crafted,
    /// An attack.
    Hostile,
    /// Headers that contradict themselves.
    Malformed,
}

impl Class {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Ordinary,
        Self::OneSided,
        Self::Incomplete,
        Self::Wrapped,
        Self::Crafted,
        Self::Hostile,
        Self::Malformed,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::OneSided => "one-sided",
            Self::Incomplete => "incomplete",
            Self::Wrapped => "wrapped",
            Self::Crafted => "crafted",
            Self::Hostile => "hostile",
            Self::Malformed => "malformed",
        }
    }

    /// Whether a violation may be reported of it.
    #[must_use]
    pub const fn may_violate(self) -> bool {
        matches!(self, Self::Crafted | Self::Hostile | Self::Malformed)
    }
}

/// The class of every capture.
pub const CLASSES: &[(&str, Class)] = &[
    ("zeek/http/get.pcap", Class::Ordinary),
    ("zeek/ftp/ipv4.pcap", Class::Ordinary),
    ("zeek/ftp/ipv6.pcap", Class::Ordinary),
    ("zeek/wikipedia.pcap", Class::Incomplete),
    ("zeek/ldap/simpleauth.pcap", Class::Ordinary),
    ("zeek/ldap/ctu-sme-11-win7ad-1-ldap-tcp-50041.pcap", Class::Ordinary),
    ("zeek/tls/https-to-http.pcap", Class::Ordinary),
    ("zeek/http/http-to-ssh.pcap", Class::Ordinary),
    ("zeek/ssh/ssh.client-side-half-duplex.pcap", Class::OneSided),
    ("zeek/auth_change_session_keys.pcap", Class::Ordinary),
    ("zeek/krb/optional-service-name.pcap", Class::Incomplete),
    ("zeek/http/get_nosyn.pcap", Class::Incomplete),
    ("zeek/tcp/missing-syn.pcap", Class::Incomplete),
    ("zeek/tcp/http-on-irc-port-missing-syn.pcapng", Class::Incomplete),
    ("zeek/tcp/syn.pcap", Class::Ordinary),
    ("zeek/tcp/syn-bad.pcap", Class::Malformed),
    ("zeek/tcp/syn-synack.pcap", Class::Ordinary),
    ("zeek/tcp/fin_retransmission.pcap", Class::Crafted),
    ("zeek/tcp/no-handshake.pcap", Class::Incomplete),
    ("zeek/tcp/one-sided-2745.pcap", Class::OneSided),
    ("zeek/tcp/retransmit-timeout.pcapng", Class::Incomplete),
    ("zeek/tcp/miss_end_data.pcap", Class::Ordinary),
    ("zeek/tcp/payload-syn.pcap", Class::Crafted),
    ("zeek/tcp/payload-synack.pcap", Class::Crafted),
    ("zeek/tcp/tcp-fast-open.pcap", Class::Ordinary),
    ("zeek/tcp/window-scale-range.pcap", Class::Crafted),
    ("zeek/tcp/options.pcap", Class::Ordinary),
    ("zeek/tcp/option-27.pcap", Class::Incomplete),
    ("zeek/tcp/qi_internet_SYNACK_curl_jsonip.pcap", Class::Hostile),
    ("zeek/tcp/timeout-with-pings.pcap", Class::Ordinary),
    ("zeek/tcp/truncated-header.pcap", Class::Incomplete),
    ("zeek/tcp-http-with-padding.pcap", Class::Ordinary),
    ("zeek/modbus/fuzz-72.pcap", Class::Malformed),
    ("zeek/rotation.pcap", Class::Crafted),
    ("zeek/ipv4/fragmented-syn.pcap", Class::Malformed),
    ("zeek/ipv4/fragmented-4.pcap", Class::Hostile),
    ("zeek/chksums/ip4-tcp-bad-chksum.pcap", Class::Malformed),
    ("zeek/chksums/ip4-tcp-good-chksum.pcap", Class::Ordinary),
    ("zeek/chksums/ip6-tcp-bad-chksum.pcap", Class::Malformed),
    ("zeek/http-vlan-0.pcap", Class::Ordinary),
    ("zeek/vlan-qinqinq.pcap", Class::Wrapped),
    ("zeek/mixed-vlan-mpls.pcap", Class::Wrapped),
    ("zeek/pppoe-over-qinq.pcap", Class::Wrapped),
    ("zeek/communityid/tcp.pcap", Class::Ordinary),
    ("suricata-verify/firewall/tcp-session-midstream-policy/input.pcap", Class::Incomplete),
    ("suricata-verify/firewall/tcp-session-equivalence/input.pcap", Class::Ordinary),
    ("suricata-verify/firewall/tcp-session-syn-flood-drop-precedence/input.pcap", Class::Hostile),
    ("suricata-verify/bug-6733-syn-packet-flow-output/input.pcap", Class::Ordinary),
    ("suricata-verify/bug-3286-03-windows-evasion/with_evasion_windows.pcap", Class::Hostile),
    ("suricata-verify/bug-3286-01-no-evasion/without_evasion.pcap", Class::Ordinary),
    ("suricata-verify/bug-6244-tcp-rst-with-data/tcp-rst-with-data.pcap", Class::Ordinary),
    ("suricata-verify/tcp-rst-unacked-stream-01-raw/input.pcap", Class::Ordinary),
    ("suricata-verify/tcp-fastopen-06/tfo-s1.pcap", Class::Ordinary),
    ("suricata-verify/tcp-fastopen-08/tcp_fastopen_segmentation-s1.pcap", Class::Ordinary),
    ("suricata-verify/bug-4702-01/input.pcap", Class::Ordinary),
    ("suricata-verify/bug-4702-02/tsecr.pcap", Class::Ordinary),
    (
        "suricata-verify/stream-async/http/stream-async-6063-cli-01/http-request-header-async-cli.pcap",
        Class::OneSided,
    ),
    (
        "suricata-verify/stream-async/http/stream-async-6063-srv-01/http-request-header-async-srv.pcap",
        Class::OneSided,
    ),
    ("suricata-verify/bug-2491-02/simple_http_download.onesided.nosyn.pcap", Class::OneSided),
    ("suricata-verify/alert-no-3whs-established/no-3whs.pcap", Class::Incomplete),
    ("suricata-verify/alert-testmyids-midstream5/input.pcap", Class::Incomplete),
    ("suricata-verify/exception-policy-midstream-06/input-http-ACK.pcap", Class::Incomplete),
    ("suricata-verify/bug-2430/backwards.pcap", Class::Ordinary),
    ("suricata-verify/issue-3341-tcphdr-01/urgent11_cve_2019_12260.pcap", Class::Hostile),
    ("suricata-verify/bug-4571-05/ipv4.pcap", Class::Malformed),
    ("suricata-verify/bug-814/input.pcap", Class::Ordinary),
    ("suricata-verify/bug-7264-tcp-3whs-ack-data-tls-01/input.pcap", Class::Ordinary),
    ("suricata-verify/transform-base64-7296/input.pcap", Class::Malformed),
    ("suricata-verify/bug-5881-01/input.pcap", Class::Ordinary),
    ("arkime/tcpseq_synthetic.pcap", Class::Crafted),
    ("arkime/tcp-reassembly-synthetic.pcap", Class::Crafted),
    ("arkime/no-syn-ack.pcap", Class::Incomplete),
    ("arkime/http-syn-ack.pcap", Class::Incomplete),
    ("arkime/twovlan.pcap", Class::Ordinary),
    ("arkime/v6-http.pcap", Class::Ordinary),
    ("arkime/wireshark-retrans.pcap", Class::Ordinary),
    ("tcpdump/tcp_rst_data.pcap", Class::Incomplete),
    ("tcpdump/tcp_rst_diag_payload.pcap", Class::Incomplete),
    ("tcpdump/tcp_eight_lowest_weight_flags_set.pcap", Class::Malformed),
    ("tcpdump/tfo-5c1fa7f9ae91.pcap", Class::Ordinary),
    ("tcpdump/mptcp-tcprst.pcap", Class::Incomplete),
    ("tcpdump/mptcp-fclose.pcap", Class::Ordinary),
    ("quantuminsert/pcaps/qi_local_SYNACK_curl_jsonip.pcap", Class::Hostile),
    ("quantuminsert/pcaps/qi_local_GET_slashdot_redirect.pcap", Class::Hostile),
    ("suricata-verify/util-action-tests/util-action-04/input.pcap", Class::Crafted),
];

/// A rule of severity `violation`, and the packets of a capture at which it is reported.
#[derive(Clone, Copy, Debug)]
pub struct Reported {
    /// The capture.
    pub path: &'static str,
    /// The rule.
    pub rule: Rule,
    /// Packets, from 1.
    pub packets: &'static [u64],
    /// What is wrong with them.
    pub why: &'static str,
}

const fn at(
    path: &'static str,
    rule: Rule,
    packets: &'static [u64],
    why: &'static str,
) -> Reported {
    Reported { path, rule, packets, why }
}

/// Every violation that is reported of any capture.
pub const VIOLATIONS: &[Reported] = &[
    at("zeek/tcp/fin_retransmission.pcap", Rule::FinWithoutAck, &[2], "FIN alone"),
    at(
        "zeek/tcp/fin_retransmission.pcap",
        Rule::HandshakeAckBadSeq,
        &[4],
        "FIN at the SYN's number",
    ),
    at("zeek/tcp/payload-syn.pcap", Rule::SynWithData, &[1], "data, and no Fast Open option"),
    at("zeek/tcp/payload-synack.pcap", Rule::SynAckWithData, &[2], "data, and no Fast Open option"),
    at("zeek/modbus/fuzz-72.pcap", Rule::NullFlags, &[11], "PSH alone"),
    at(
        "zeek/modbus/fuzz-72.pcap",
        Rule::AckUnseenData,
        &[7, 10, 21, 26, 29, 32],
        "segments are missing, and numbers are random",
    ),
    at("zeek/rotation.pcap", Rule::PortZero, &[2], "destination port 0"),
    at(
        "zeek/rotation.pcap",
        Rule::HalfOpenTimeout,
        &[1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19],
        "SYNs that nobody answers",
    ),
    at("zeek/ipv4/fragmented-4.pcap", Rule::NullFlags, &[2], "no flags"),
    at("zeek/ipv4/fragmented-4.pcap", Rule::FinWithoutAck, &[6], "FIN alone"),
    at(
        "suricata-verify/bug-3286-03-windows-evasion/with_evasion_windows.pcap",
        Rule::DataAfterRst,
        &[8, 9],
        "the server, whose RST refused the SYN, answers a request",
    ),
    at(
        "suricata-verify/issue-3341-tcphdr-01/urgent11_cve_2019_12260.pcap",
        Rule::SynFin,
        &[6],
        "SYN, FIN and URG",
    ),
    at(
        "suricata-verify/issue-3341-tcphdr-01/urgent11_cve_2019_12260.pcap",
        Rule::DataAfterRst,
        &[10],
        "the scanner has reset the connection",
    ),
    at("suricata-verify/bug-4571-05/ipv4.pcap", Rule::NullFlags, &[1], "data without flags"),
    at(
        "suricata-verify/transform-base64-7296/input.pcap",
        Rule::HalfOpenTimeout,
        &[13],
        "the answer comes after more than a minute",
    ),
    at(
        "suricata-verify/transform-base64-7296/input.pcap",
        Rule::SynAckBadAck,
        &[2],
        "131,072 below what was sent",
    ),
    at(
        "suricata-verify/transform-base64-7296/input.pcap",
        Rule::BadHeaderLen,
        &[11, 59],
        "a header of 60 bytes in a shorter packet",
    ),
    at("suricata-verify/transform-base64-7296/input.pcap", Rule::PortZero, &[23], "port 0"),
    at(
        "suricata-verify/transform-base64-7296/input.pcap",
        Rule::AckUnseenData,
        &[7, 24],
        "packets 5 and 23 would have sent it",
    ),
    at("suricata-verify/transform-base64-7296/input.pcap", Rule::SynFin, &[36], "SYN, FIN and RST"),
    at("suricata-verify/transform-base64-7296/input.pcap", Rule::SynRst, &[36], "SYN, FIN and RST"),
    at("suricata-verify/transform-base64-7296/input.pcap", Rule::FinRst, &[36], "SYN, FIN and RST"),
    at("arkime/tcpseq_synthetic.pcap", Rule::PortZero, &[1, 2], "both ports 0"),
    at(
        "arkime/tcp-reassembly-synthetic.pcap",
        Rule::AckUnseenData,
        &[105],
        "one more than the SYN,ACK took",
    ),
    at("tcpdump/tcp_eight_lowest_weight_flags_set.pcap", Rule::SynFin, &[1], "all flags"),
    at("tcpdump/tcp_eight_lowest_weight_flags_set.pcap", Rule::SynRst, &[1], "all flags"),
    at("tcpdump/tcp_eight_lowest_weight_flags_set.pcap", Rule::FinRst, &[1], "all flags"),
    at(
        "suricata-verify/util-action-tests/util-action-04/input.pcap",
        Rule::SynWithData,
        &[1, 2],
        "data, and no Fast Open option",
    ),
    at(
        "suricata-verify/util-action-tests/util-action-04/input.pcap",
        Rule::HandshakeAckBadAck,
        &[3],
        "acknowledges 0 instead of 1 to 21",
    ),
];
