//! Where somebody else says something else, and why.

/// A difference that is as it should be.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    /// The capture.
    pub path: &'static str,
    /// What it is about, as [`super::claims::Subject`] is written.
    pub subject: &'static str,
    /// What of it.
    pub field: &'static str,
    /// What they say.
    pub theirs: &'static str,
    /// What we say.
    pub ours: &'static str,
    /// Why.
    pub why: &'static str,
}

const fn differs(
    path: &'static str,
    subject: &'static str,
    field: &'static str,
    theirs: &'static str,
    ours: &'static str,
    why: &'static str,
) -> Explained {
    Explained { path, subject, field, theirs, ours, why }
}

const CAPTURE: &str = "capture";
const ONLY: &str = "connection";
const PACKETS: &str = "packets";
const ABSENT: &str = "no connection";

const MPLS: &str = "zeek/mixed-vlan-mpls.pcap";
const PPPOE: &str = "zeek/pppoe-over-qinq.pcap";
const SSH: &str = "zeek/ssh/ssh.client-side-half-duplex.pcap";
const SEQ: &str = "arkime/tcpseq_synthetic.pcap";
const REASSEMBLY: &str = "arkime/tcp-reassembly-synthetic.pcap";
const NO_SYN_ACK: &str = "arkime/no-syn-ack.pcap";
const RETRANS: &str = "arkime/wireshark-retrans.pcap";
const EVASION: &str = "suricata-verify/bug-3286-03-windows-evasion/with_evasion_windows.pcap";
const URGENT: &str = "suricata-verify/issue-3341-tcphdr-01/urgent11_cve_2019_12260.pcap";
const FUZZ: &str = "suricata-verify/transform-base64-7296/input.pcap";
const MODBUS: &str = "zeek/modbus/fuzz-72.pcap";
const FIN: &str = "zeek/tcp/fin_retransmission.pcap";
const NULL: &str = "suricata-verify/bug-4571-05/ipv4.pcap";

const IN_MPLS: &str = "MPLS labels do not say what they carry and are not taken off: `not_ip`.";
const IN_PPPOE: &str = "PPPoE is not taken apart: `not_ip`.";
const CUT: &str = "\
    Zeek forgets a SYN that nobody answers after 5 s and takes what follows for another connection; bytes and \
    packets are compared as sums.";
const TAGS: &str = "\
    The highest number that an end has sent is kept: data below it, also where it fills a hole, is \
    `retransmission`.";
const HOLE: &str = "\
    The highest number that an end has sent is kept: an acknowledgment of a hole below it is one of what was \
    sent.";
const BACKWARDS: &str = "\
    The capture begins 40 ms late and goes back; the clock of a replay stands still until then, and the handshake is \
    timed by it.";
const PORT_0: &str = "Port 0 is illegal by itself (`port_zero`), and such a packet makes no flow.";
const LATE_SYN: &str = "\
    Its own SYN was captured last, after the close: recognized as such, so nothing is reported, and it adds nothing.";
const UNSEEN_SYN_ACK: &str = "\
    No SYN,ACK was seen, and so not how long the handshake took; Arkime measures to the first acknowledgment.";
const DATA: &str = "No data is kept that later data could be compared with.";
const FORGED_RST: &str = "\
    An RST that acknowledges the SYN refuses it: RFC 7323 section 5.3 (R1) exempts RST from PAWS. \
    `data_after_rst` reports at packet 8, once, that both ends went on.";
const ILLEGAL: &str = "\
    Such flags are illegal by themselves (`null_flags`, `fin_without_ack`), and such a packet makes no flow.";
const CUT_OFF: &str = "\
    Packets 1 and 20 say that they are longer than their frames (`bad_ip_header`): what they hold is not looked at.";
const SFR: &str = "\
    Packet 36 (SYN, FIN, RST at once) is illegal by itself: it ends nothing, so nothing comes after an end.";
const AFTER_RST: &str = "\
    Reported as `data_after_rst`: of a segment that is wrong in several ways, the first rule that it breaks.";
const NO_FLOW: &str = "\
    An RST that belongs to no flow is counted as that (`rst_no_session`) and not looked at further.";
const SAME_ISN: &str = "\
    With the same initial sequence number it is a copy of what opened the connection: `retransmission`.";
const MISSED: &str = "\
    The client went on as after a SYN,ACK, which the capture lacks: an acknowledgment by the server, then, is as it \
    should be.";

const ONE_REPORT: &str =
    "One report for a gap: what repeats it, or goes on from it, is no second one.";

/// All of them. A difference that is not here is a failure, and so is one that is here and does not occur.
pub const EXPLAINED: &[Explained] = &[
    differs(MPLS, CAPTURE, "connections", "3", "2", IN_MPLS),
    differs(MPLS, "10.1.2.1:11001 > 10.34.0.1:23", "seen", "yes", ABSENT, IN_MPLS),
    differs(PPPOE, CAPTURE, "connections", "1", "0", IN_PPPOE),
    differs(PPPOE, "1.1.1.1:20394 > 2.2.2.2:443", "seen", "yes", ABSENT, IN_PPPOE),
    differs(PPPOE, PACKETS, "retransmit", "13 15 16 25 28 29 31 32 39 46 47 52", "-", IN_PPPOE),
    differs(PPPOE, PACKETS, "simultaneous_close", "82", "-", IN_PPPOE),
    differs(
        "zeek/vlan-qinqinq.pcap",
        CAPTURE,
        "connections",
        "1",
        "0",
        "Two tags are taken off, as IEEE 802.1ad has them; a third is `too_many_vlan_tags`.",
    ),
    differs(SSH, CAPTURE, "connections", "25", "20", CUT),
    differs(SSH, "192.168.1.32:41164 > 128.2.10.238:22", "connections", "2", "1", CUT),
    differs(SSH, "192.168.1.79:51880 > 131.159.21.1:22", "connections", "2", "1", CUT),
    differs(SSH, "192.168.2.1:56594 > 192.168.2.158:22", "connections", "2", "1", CUT),
    differs(SSH, "192.168.2.1:56875 > 192.168.2.158:22", "connections", "2", "1", CUT),
    differs(SSH, "192.168.2.1:57189 > 192.168.2.158:22", "connections", "2", "1", CUT),
    differs(
        "zeek/tcp/miss_end_data.pcap",
        "192.168.122.230:60648 > 77.238.160.184:80",
        "history",
        "ShADafgF",
        "ShADafF",
        HOLE,
    ),
    differs(SEQ, "10.0.0.1:40001 > 10.0.0.2:8000", "initRTT", "1", "0", BACKWARDS),
    differs(SEQ, "10.0.0.3:40002 > 10.0.0.4:8001", "initRTT", "1", "0", BACKWARDS),
    differs(SEQ, "10.0.0.5:40003 > 10.0.0.6:8002", "initRTT", "1", "0", BACKWARDS),
    differs(SEQ, "10.0.0.9:40005 > 10.0.0.10:8004", "initRTT", "1", "0", BACKWARDS),
    differs(SEQ, "10.0.0.3:40002 > 10.0.0.4:8001", "tags", "out-of-order-src", "", TAGS),
    differs(SEQ, "10.0.0.9:40005 > 10.0.0.10:8004", "tags", "out-of-order-src", "", TAGS),
    differs(SEQ, "30.0.0.0:0 > 0.0.3.0:0", "seen", "yes", ABSENT, PORT_0),
    differs(SEQ, PACKETS, "ack_orig_no_synack", "2", "-", PORT_0),
    differs(SEQ, PACKETS, "syn_with_data", "1", "-", PORT_0),
    differs("zeek/rotation.pcap", CAPTURE, "connections", "20", "19", PORT_0),
    differs(
        REASSEMBLY,
        CAPTURE,
        "connections",
        "12",
        "11",
        "Said of 12; Arkime's own list has 11, which are compared one by one.",
    ),
    differs(
        REASSEMBLY,
        "10.180.156.1:40004 > 10.180.156.2:80",
        "tags",
        "out-of-order-dst",
        "",
        TAGS,
    ),
    differs(
        REASSEMBLY,
        "10.180.156.1:40005 > 10.180.156.2:80",
        "tags",
        "acked-unseen-segment-src",
        "",
        HOLE,
    ),
    differs(
        REASSEMBLY,
        "10.180.156.1:40009 > 10.180.156.2:80",
        "synValidated",
        "true",
        "false",
        LATE_SYN,
    ),
    differs(REASSEMBLY, "10.180.156.1:40009 > 10.180.156.2:80", "srcISNCnt", "1", "-", LATE_SYN),
    differs(REASSEMBLY, PACKETS, "ack_unseen", "105 106", "105", ONE_REPORT),
    differs(REASSEMBLY, PACKETS, "syn_after_close", "90 101", "90", LATE_SYN),
    differs(
        NO_SYN_ACK,
        "10.10.10.10:40041 > 10.176.176.11:3306",
        "initRTT",
        "0",
        "-",
        UNSEEN_SYN_ACK,
    ),
    differs(NO_SYN_ACK, "10.12.12.12:61181 > 10.13.13.13:80", "initRTT", "1", "-", UNSEEN_SYN_ACK),
    differs(NO_SYN_ACK, PACKETS, "ack_wrong_dir_syn_sent", "3 9 10", "-", MISSED),
    differs(RETRANS, PACKETS, "syn_in_established", "10", "-", SAME_ISN),
    differs(RETRANS, PACKETS, "synack_in_established", "11 12", "-", SAME_ISN),
    differs(
        "zeek/tcp/syn-bad.pcap",
        ONLY,
        "seen",
        "yes",
        ABSENT,
        "Where checksums are verified, a packet that fails is counted (`bad_checksum`) and makes no flow.",
    ),
    differs(
        FIN,
        ONLY,
        "orig_pkts",
        "3",
        "2",
        "Packet 2, a FIN without ACK, is illegal by itself and credited to no flow.",
    ),
    differs(
        "zeek/tcp/qi_internet_SYNACK_curl_jsonip.pcap",
        CAPTURE,
        "different data",
        "reported",
        "-",
        DATA,
    ),
    differs(
        "quantuminsert/pcaps/qi_local_SYNACK_curl_jsonip.pcap",
        CAPTURE,
        "different data",
        "reported",
        "-",
        DATA,
    ),
    differs(
        "quantuminsert/pcaps/qi_local_GET_slashdot_redirect.pcap",
        CAPTURE,
        "different data",
        "reported",
        "-",
        DATA,
    ),
    differs(
        "zeek/tcp/truncated-header.pcap",
        CAPTURE,
        "fate tracked",
        "22",
        "24",
        "Zeek's baseline has 23 lines, the first with the ends as they stood before it turned them round. In a 24th packet \
         the options are cut off, not the header.",
    ),
    differs(
        "zeek/ipv4/fragmented-syn.pcap",
        CAPTURE,
        "connections",
        "1",
        "0",
        "Fragments are not put together, and the first one ends inside the TCP header: `split_tcp_header`.",
    ),
    differs(EVASION, CAPTURE, "sid 2210044", "2 3", "-", FORGED_RST),
    differs(EVASION, ONLY, "flow.state", "established", "closed", FORGED_RST),
    differs(EVASION, PACKETS, "ack_wrong_dir_syn_sent", "3", "-", FORGED_RST),
    differs(EVASION, PACKETS, "data_after_fin", "8", "-", FORGED_RST),
    differs(
        "suricata-verify/bug-3286-01-no-evasion/without_evasion.pcap",
        ONLY,
        "flow.state",
        "closed",
        "established",
        "The capture ends with the connection open: there is no FIN and no RST in it.",
    ),
    differs(NULL, CAPTURE, "connections", "1", "0", ILLEGAL),
    differs(NULL, PACKETS, "midstream", "1", "-", ILLEGAL),
    differs("zeek/ipv4/fragmented-4.pcap", PACKETS, "midstream", "6", "-", ILLEGAL),
    differs(
        "suricata-verify/util-action-tests/util-action-04/input.pcap",
        PACKETS,
        "ack_orig_no_synack",
        "3",
        "-",
        "The other end has sent its SYN in packet 2, and it is not what is acknowledged: `handshake_ack_bad_ack`.",
    ),
    differs(
        MODBUS,
        PACKETS,
        "ack_unseen",
        "4 5 7 10 23 29",
        "7 10 29",
        "In a flow picked up in its middle, acknowledgments are judged once an end has acknowledged exactly what \
         was seen of the other; until then packets are missing, not wrong.",
    ),
    differs(MODBUS, PACKETS, "data_after_fin", "5 8 12 19 21 25 26 27 32 34", "-", CUT_OFF),
    differs(MODBUS, PACKETS, "fin_without_ack", "1", "-", CUT_OFF),
    differs(
        MODBUS,
        PACKETS,
        "midstream",
        "1 2 3 4 5 6 7 8 9 10 11 12",
        "2 3 4 5 6 7 8 9 10 12",
        "Packet 1 is longer than its frame (`bad_ip_header`), packet 11 has none of SYN, ACK, FIN and RST \
         (`null_flags`): neither belongs to the flow.",
    ),
    differs(
        MODBUS,
        PACKETS,
        "retransmit",
        "2 19 21 22 23 24 25 26 27 28 29 31",
        "19 21 23 25 26 27",
        CUT_OFF,
    ),
    differs(URGENT, PACKETS, "ack_unseen", "10", "-", AFTER_RST),
    differs(URGENT, PACKETS, "hs_ack_bad_both", "10", "-", AFTER_RST),
    differs(URGENT, PACKETS, "fin_without_ack", "6", "-", "With SYN it is `syn_fin`."),
    differs(
        FUZZ,
        PACKETS,
        "ack_unseen",
        "7 8 9 10 12 24 25 30 31 55 56 57",
        "7 24",
        "One report for a gap: what repeats it, or goes on from it, is no second one. At 55 to 57 the flow was picked up in \
         its middle.",
    ),
    differs(FUZZ, PACKETS, "data_after_rst_same_side", "39 41 45 47", "-", SFR),
    differs(FUZZ, PACKETS, "rst_exact", "36", "-", SFR),
    differs(
        FUZZ,
        PACKETS,
        "data_before_established_resp",
        "31",
        "-",
        "The third segment is not in the capture: that the server goes on shows that it got one.",
    ),
    differs(
        FUZZ,
        PACKETS,
        "hs_ack_bad_seq",
        "32",
        "-",
        "Its number lies ahead, in the window: the third segment before it is missing in the capture, and both ends \
         agree on it.",
    ),
    differs(
        FUZZ,
        PACKETS,
        "midstream",
        "11 23 34 59",
        "34",
        "Packets 11 and 59 have headers longer than they are (`bad_header_len`), packet 23 has port 0 \
         (`port_zero`): they make no flow.",
    ),
    differs(
        FUZZ,
        PACKETS,
        "retransmit",
        "53 56 57 58",
        "-",
        "They repeat what was sent two and a half years before, by the capture's clock, in a connection that was \
         forgotten since.",
    ),
    differs(
        "suricata-verify/tcp-fastopen-08/tcp_fastopen_segmentation-s1.pcap",
        PACKETS,
        "rst_inexact_or_out",
        "11",
        "-",
        "An end that has closed answers at the number of its FIN; its peer, in LAST_ACK, takes that, as Linux does.",
    ),
    differs(
        "tcpdump/tcp_eight_lowest_weight_flags_set.pcap",
        PACKETS,
        "rst_other",
        "1",
        "-",
        "Illegal by itself: `syn_fin`, `syn_rst`, `fin_rst`.",
    ),
    differs("tcpdump/tcp_rst_data.pcap", PACKETS, "rst_with_data", "1", "-", NO_FLOW),
    differs("tcpdump/tcp_rst_diag_payload.pcap", PACKETS, "rst_with_data", "1", "-", NO_FLOW),
];
