//! The rules explained to people: what was seen, what causes it, what to look at next, and what other tools call it.
//!
//! One source for `tracker violations`, `tracker explain` and `docs/violations.md`. Compiled for the host only.

use crate::violation::Rule;

/// The part of a connection's life that a rule is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// One segment's header, whatever came before.
    Header,
    /// Opening.
    Handshake,
    /// Data.
    Established,
    /// Closing, and what comes after.
    Closing,
}

impl Phase {
    /// Every phase, in the order of a connection's life.
    pub const ALL: [Self; 4] = [Self::Header, Self::Handshake, Self::Established, Self::Closing];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Handshake => "handshake",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

/// Who uses a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tool {
    /// Suricata's stream and decoder events; the id is the sid of the rule that ships with it.
    Suricata,
    /// Zeek's `weird.log`.
    ZeekWeird,
    /// Zeek's `conn_state`.
    ZeekState,
    /// A letter of Zeek's `history`.
    ZeekHistory,
    /// Snort 3; the id is generator and signature.
    Snort,
    /// What nf_conntrack logs with `nf_conntrack_log_invalid`, without the numbers that vary.
    Conntrack,
    /// The kernel's reason for a dropped packet, without `SKB_DROP_REASON_`.
    DropReason,
    /// The kernel's counter, as `nstat` shows it without the prefix `TcpExt` or `Tcp`.
    Counter,
    /// Wireshark's filter field.
    Wireshark,
    /// Arkime's tag.
    Arkime,
    /// nDPI's risk.
    Ndpi,
    /// ntopng's alert.
    Ntopng,
    /// Another name of the same thing.
    Alias,
}

impl Tool {
    /// Every tool, in the order in which they are shown.
    pub const ALL: [Self; 13] = [
        Self::Suricata,
        Self::ZeekWeird,
        Self::ZeekState,
        Self::ZeekHistory,
        Self::Snort,
        Self::Conntrack,
        Self::DropReason,
        Self::Counter,
        Self::Wireshark,
        Self::Arkime,
        Self::Ndpi,
        Self::Ntopng,
        Self::Alias,
    ];

    /// Its name for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Suricata => "Suricata",
            Self::ZeekWeird => "Zeek weird",
            Self::ZeekState => "Zeek conn_state",
            Self::ZeekHistory => "Zeek history",
            Self::Snort => "Snort",
            Self::Conntrack => "nf_conntrack log",
            Self::DropReason => "kernel drop reason",
            Self::Counter => "kernel counter",
            Self::Wireshark => "Wireshark",
            Self::Arkime => "Arkime",
            Self::Ndpi => "nDPI",
            Self::Ntopng => "ntopng",
            Self::Alias => "also called",
        }
    }

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suricata => "suricata",
            Self::ZeekWeird => "zeek_weird",
            Self::ZeekState => "zeek_conn_state",
            Self::ZeekHistory => "zeek_history",
            Self::Snort => "snort",
            Self::Conntrack => "nf_conntrack",
            Self::DropReason => "kernel_drop_reason",
            Self::Counter => "kernel_counter",
            Self::Wireshark => "wireshark",
            Self::Arkime => "arkime",
            Self::Ndpi => "ndpi",
            Self::Ntopng => "ntopng",
            Self::Alias => "alias",
        }
    }
}

/// What somebody else calls it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name(
    /// Who.
    pub Tool,
    /// The name.
    pub &'static str,
    /// Suricata's sid, or Snort's generator and signature as `116:420`; empty where there is none.
    pub &'static str,
);

/// A rule explained.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The part of a connection's life that it is about.
    pub phase: Phase,
    /// What was seen, and why it breaks the protocol, or why it is worth counting.
    pub meaning: &'static str,
    /// What commonly causes it, harmless and hostile.
    pub causes: &'static str,
    /// What to look at next.
    pub next: &'static str,
    /// What becomes of the flow's state.
    pub state: &'static str,
    /// Ids of the behaviours that it shows; tests carry them in their names.
    pub behaviours: &'static [&'static str],
    /// What others call it. Their conditions are close, seldom the same.
    pub names: &'static [Name],
}

/// A name that users of other tools look for and that no rule answers to.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// The name.
    pub name: &'static str,
    /// Why there is no such rule, and what comes nearest.
    pub why: &'static str,
    /// What others call it.
    pub names: &'static [Name],
}

use Phase::{Closing, Established, Handshake, Header};
use Tool::{
    Alias, Arkime, Conntrack, Counter, DropReason, Ndpi, Ntopng, Snort, Suricata, Wireshark,
    ZeekHistory, ZeekState, ZeekWeird,
};

const ILLEGAL: &str = "None. The segment is counted as `illegal` among the packets, adds no facts and begins no flow; \
    where it names a flow that is known, the violation is counted on that flow.";
const FORGED: &str = "None: its receiver drops such a segment, so it adds no facts and a forged one changes no state.";
const NO_MATTER: &str = "The segment is judged as if the rule were not there.";

/// What is said of `rule`.
#[must_use]
#[allow(clippy::too_many_lines)] // one arm a rule
pub const fn entry(rule: Rule) -> Entry {
    match rule {
        Rule::NullFlags => Entry {
            phase: Header,
            meaning: "A segment with none of SYN, ACK, FIN and RST; PSH and URG do not count. Once a connection is \
                open every segment carries ACK (RFC 9293 section 3.1), and a closed port answers anything but an RST \
                with an RST (section 3.10.7.1), which is what a scanner wants to learn.",
            causes: "A NULL scan (`nmap -sN`). Harmless ones come from broken middleboxes and packet generators.",
            next: "See which ports the source tries (`tracker events --src ADDRESS`), and whether port_scan fires \
                for it.",
            state: ILLEGAL,
            behaviours: &["F4", "F5"],
            names: &[
                Name(Snort, "DECODE_TCP_NO_SYN_ACK_RST", "116:423"),
                Name(Snort, "STREAM_TCP_DATA_WITHOUT_FLAGS", "129:11"),
                Name(Conntrack, "invalid tcp flag combination", ""),
                Name(Ndpi, "TCP NULL scan", ""),
            ],
        },
        Rule::Xmas => Entry {
            phase: Header,
            meaning: "FIN, PSH and URG without SYN, ACK and RST. A FIN belongs to an open connection, where every \
                segment carries ACK (RFC 9293 section 3.10.7.4): without it the segment is dropped there, and \
                elsewhere it only provokes an RST.",
            causes: "An Xmas scan (`nmap -sX`); no TCP sends this by itself.",
            next: "See which ports the source tries, and which of them answered: a closed port does, with an RST.",
            state: ILLEGAL,
            behaviours: &["F4"],
            names: &[
                Name(Snort, "DECODE_TCP_NMAP_XMAS", "116:401"),
                Name(Conntrack, "invalid tcp flag combination", ""),
                Name(Ndpi, "TCP XMAS scan", ""),
            ],
        },
        Rule::SynFin => Entry {
            phase: Header,
            meaning: "SYN and FIN in one segment: open and close at once. RFC 9293 gives the pair no meaning; only \
                T/TCP (RFC 1644, historic since RFC 6247) ever did.",
            causes: "Scanners and fingerprinting tools that try to pass filters which look for a lone SYN. Damaged \
                headers now and then.",
            next: "See whether the target answered with a SYN,ACK: then its filter let an opening segment through.",
            state: ILLEGAL,
            behaviours: &["F1"],
            names: &[
                Name(Suricata, "fin_syn", "2210060"),
                Name(ZeekWeird, "inappropriate_FIN", ""),
                Name(ZeekHistory, "q", ""),
                Name(Snort, "DECODE_TCP_SYN_FIN", "116:420"),
                Name(Snort, "DECODE_TCP_XMAS", "116:400"),
                Name(Conntrack, "invalid tcp flag combination", ""),
            ],
        },
        Rule::SynRst => Entry {
            phase: Header,
            meaning: "SYN and RST in one segment: open and abort at once. RFC 9293 section 3.10.7 looks at RST \
                first, so the segment can open nothing.",
            causes: "Fingerprinting tools, packet generators, attempts to confuse a firewall's state.",
            next: "See what else the source sends; from a real host, suspect a middlebox that rewrites flags.",
            state: ILLEGAL,
            behaviours: &["F2"],
            names: &[
                Name(ZeekWeird, "TCP_christmas", ""),
                Name(ZeekHistory, "q", ""),
                Name(Snort, "DECODE_TCP_SYN_RST", "116:421"),
                Name(Snort, "DECODE_TCP_XMAS", "116:400"),
                Name(Conntrack, "invalid tcp flag combination", ""),
            ],
        },
        Rule::FinRst => Entry {
            phase: Header,
            meaning: "FIN and RST in one segment: an orderly end and an abort at once. RFC 9293 section 3.10.7 looks \
                at RST first, and a sender that aborts has nothing left to finish.",
            causes: "A few old stacks and load balancers that end connections in a hurry; fuzzers and fingerprinting \
                tools.",
            next: "If it ends connections of one device only, update that device. An end that took it as an RST is \
                closed while the tracker still shows the connection as open.",
            state: ILLEGAL,
            behaviours: &["F1"],
            names: &[
                Name(ZeekHistory, "i", ""),
                Name(Snort, "DECODE_TCP_XMAS", "116:400"),
                Name(Conntrack, "invalid tcp flag combination", ""),
            ],
        },
        Rule::FinWithoutAck => Entry {
            phase: Header,
            meaning: "A FIN without ACK. On an open connection every segment carries ACK, and one without it is \
                dropped (RFC 9293 section 3.10.7.4).",
            causes: "A FIN scan (`nmap -sF`), which makes closed ports answer with an RST and open ones stay silent.",
            next: "See which ports the source tries, and whether port_scan fires for it.",
            state: ILLEGAL,
            behaviours: &["F3"],
            names: &[
                Name(Snort, "DECODE_TCP_MUST_ACK", "116:422"),
                Name(Conntrack, "invalid tcp flag combination", ""),
                Name(Ndpi, "TCP FIN scan", ""),
            ],
        },
        Rule::PortZero => Entry {
            phase: Header,
            meaning: "Source or destination port 0. The port is reserved and belongs to no service (RFC 6335 section \
                6).",
            causes: "Scanners and fingerprinting tools, floods with random headers, fragments that were put together \
                wrongly.",
            next: "Drop port 0 at the border; if it comes from a host of yours, look for what sends raw packets \
                there.",
            state: ILLEGAL,
            behaviours: &["F8"],
            names: &[Name(Snort, "DECODE_TCP_PORT_ZERO", "116:446")],
        },
        Rule::Land => Entry {
            phase: Header,
            meaning: "Source and destination are the same address and the same port: the host would answer itself. \
                RFC 9293 knows no such packet from a wire.",
            causes: "The LAND attack, which hung many stacks in 1997. Harmless: on loopback, a program that connects \
                to a port which happens to be its own ephemeral one, and so connects to itself.",
            next: "On a real interface, see where it came in: your own address cannot arrive from outside, so filter \
                it at the border (BCP 38).",
            state: ILLEGAL,
            behaviours: &["F8"],
            names: &[Name(Snort, "DECODE_BAD_TRAFFIC_SAME_SRCDST", "116:151")],
        },
        Rule::SynMulticast => Entry {
            phase: Header,
            meaning: "A SYN to a multicast or broadcast address. TCP has exactly two ends, and such a SYN must be \
                discarded in silence (RFC 9293 section 3.9.2.3).",
            causes: "A misconfigured client or a wrong netmask; scans and amplification attempts.",
            next: "Check the sender's configuration, and the netmask if the address is a subnet's broadcast address.",
            state: ILLEGAL,
            behaviours: &["F8"],
            names: &[Name(Snort, "DECODE_SYN_TO_MULTICAST", "116:403")],
        },
        Rule::BadHeaderLen => Entry {
            phase: Header,
            meaning: "A data offset below 5 words, which is less than a TCP header, or one that points past the end \
                of the packet (RFC 9293 section 3.1). Where the header ends, and so what is data, cannot be known.",
            causes: "Truncated or damaged packets, wrong tunnel lengths, fuzzers. Broken checksum or segmentation \
                offload in a driver looks like this too.",
            next: "If it comes with one interface or one tunnel, look at its MTU and offload settings (`ethtool \
                -k`).",
            state: "None. The packet cannot be parsed: it is counted as malformed and belongs to no flow.",
            behaviours: &["P4"],
            names: &[
                Name(Suricata, "decoder.tcp.pkt_too_small", "2200033"),
                Name(Suricata, "decoder.tcp.hlen_too_small", "2200034"),
                Name(ZeekWeird, "bad_TCP_header_len", ""),
                Name(ZeekWeird, "truncated_header", ""),
                Name(Snort, "DECODE_TCP_DGRAM_LT_TCPHDR", "116:45"),
                Name(Snort, "DECODE_TCP_INVALID_OFFSET", "116:46"),
                Name(Snort, "DECODE_TCP_LARGE_OFFSET", "116:47"),
                Name(Conntrack, "truncated packet", ""),
                Name(Wireshark, "tcp.bogus_header_length", ""),
            ],
        },
        Rule::BadOption => Entry {
            phase: Header,
            meaning: "A SYN with an option whose length its kind does not allow, or that runs past the header. An \
                option of length below 2 or beyond the header must not be followed (RFC 9293 section 3.1).",
            causes: "Old or home-made stacks, middleboxes that cut options out badly, fuzzers and fingerprinting \
                tools.",
            next: "Compare the SYN before and after the middlebox you suspect. Lost options cost speed: no scaling, \
                no SACK.",
            state: "The SYN counts; the options that came before the bad one are believed, the rest is not read.",
            behaviours: &["P4"],
            names: &[
                Name(Suricata, "decoder.tcp.invalid_optlen", "2200035"),
                Name(Suricata, "decoder.tcp.opt_invalid_len", "2200036"),
                Name(ZeekWeird, "tcp_option_mss_invalid_len", ""),
                Name(ZeekWeird, "tcp_option_window_scale_invalid_len", ""),
                Name(ZeekWeird, "tcp_option_sack_invalid_len", ""),
                Name(ZeekWeird, "tcp_option_timestamps_invalid_len", ""),
                Name(Snort, "DECODE_TCPOPT_BADLEN", "116:54"),
                Name(Snort, "DECODE_TCPOPT_TRUNCATED", "116:55"),
                Name(Wireshark, "tcp.suboption_malformed", ""),
            ],
        },
        Rule::AckFieldWithoutAck => Entry {
            phase: Header,
            meaning: "An acknowledgment number that is not 0 in a segment without the ACK flag. The field has no \
                meaning then (RFC 9293 section 3.1); a sender that fills it has usually forgotten the flag, or leaks \
                what was in its buffer.",
            causes: "Load balancers, firewalls and small stacks that do not clear the field; hand-made packets; a \
                covert channel in rare cases.",
            next: "If it is one product's SYNs, it is harmless. From a host that should run an ordinary stack, find \
                what builds packets there.",
            state: NO_MATTER,
            behaviours: &["F5"],
            names: &[
                Name(Suricata, "pkt_broken_ack", "2210051"),
                Name(Wireshark, "tcp.ack.nonzero", ""),
            ],
        },
        Rule::SynUrg => Entry {
            phase: Header,
            meaning: "A SYN with URG. RFC 9293 does not forbid it, and there is no data that could be urgent.",
            causes: "Fingerprinting tools (nmap's probes among them) and odd stacks.",
            next: "Interesting only beside other reports from the same source.",
            state: NO_MATTER,
            behaviours: &["F7"],
            names: &[Name(ZeekWeird, "baroque_SYN", "")],
        },
        Rule::WscaleRange => Entry {
            phase: Header,
            meaning: "A SYN with a window scale above 14. RFC 7323 section 2.3 allows 14 at most; a larger one must \
                be taken for 14.",
            causes: "A broken stack, or a hand-made SYN.",
            next: "If the connection stalls, compare what the sender believes its window to be with what the peer \
                sees.",
            state: "The scale is taken for 14, as the kernel does.",
            behaviours: &["H14"],
            names: &[
                Name(ZeekWeird, "TCP_scale_range", ""),
                Name(Snort, "DECODE_TCPOPT_WSCALE_INVALID", "116:59"),
                Name(Wireshark, "tcp.options.wscale.shift.invalid", ""),
            ],
        },
        Rule::RstWithData => Entry {
            phase: Header,
            meaning: "An RST that carries data. RFC 9293 section 3.5.3 lets an RST explain itself in text; the data \
                is no part of the stream.",
            causes: "Stacks and middleboxes that put a reason there; filters that inject resets and leave data \
                behind.",
            next: "Read the data in a capture: it often says who reset the connection and why.",
            state: "The RST counts as one without data.",
            behaviours: &["T14"],
            names: &[Name(Suricata, "rst_with_data", ""), Name(ZeekWeird, "RST_with_data", "")],
        },
        Rule::PshWithoutData => Entry {
            phase: Header,
            meaning: "PSH on a segment without data. It asks the receiver to pass data on (RFC 9293 section \
                3.9.1.2), and there is none.",
            causes: "Common: some stacks set it on every FIN or acknowledgment.",
            next: "Nothing by itself.",
            state: NO_MATTER,
            behaviours: &["F7"],
            names: &[],
        },
        Rule::UrgWithoutPointer => Entry {
            phase: Header,
            meaning: "URG with an urgent pointer of 0, which names no urgent data (RFC 9293 section 3.8.5; RFC 6093 \
                advises against using it at all).",
            causes: "Fingerprinting tools, hand-made packets, middleboxes that clear the pointer and not the flag.",
            next: "Interesting only beside other reports from the same source.",
            state: NO_MATTER,
            behaviours: &["F7"],
            names: &[],
        },
        Rule::CookieBad => Entry {
            phase: Handshake,
            meaning: "An acknowledgment for a listener that SYN cookies protect belongs to no connection and returns no \
                valid cookie (RFC 4987 section 3.6): it is forged, older than a cookie lives, or the second use of one.",
            causes: "An ACK flood; an attempt to guess a cookie or to replay one; a client that was away for longer \
                than a cookie lives.",
            next: "See `tracker stats` for the reasons: forged, expired, replayed.",
            state: "The segment is dropped. No flow is created, and the listener never sees it.",
            behaviours: &["C3"],
            names: &[Name(Counter, "SyncookiesFailed", "")],
        },
        Rule::BadChecksum => Entry {
            phase: Header,
            meaning: "The TCP checksum does not fit the segment (RFC 9293 section 3.1): the receiver drops it. \
                Judged only by `tracker replay --verify-checksums`; live, a segment that leaves this host gets its \
                checksum from the card, after it was seen.",
            causes: "In a capture taken on the sending host: checksum offload, nothing is wrong. Else a bad cable, \
                bad memory, a NAT that forgot to correct the checksum, or an insertion attack: a segment that a \
                monitor believes and the receiver drops.",
            next: "Capture at the receiver. If it is wrong there too, look for the device on the way that rewrites \
                addresses.",
            state: "The segment is counted and left out: it adds no facts.",
            behaviours: &["P4"],
            names: &[
                Name(Suricata, "tcpv4-csum", "2200074"),
                Name(Suricata, "tcpv6-csum", "2200077"),
                Name(ZeekWeird, "bad_TCP_checksum", ""),
                Name(ZeekHistory, "c", ""),
                Name(Conntrack, "bad checksum", ""),
                Name(DropReason, "TCP_CSUM", ""),
                Name(Counter, "InCsumErrors", ""),
                Name(Wireshark, "tcp.checksum_bad.expert", ""),
            ],
        },
        Rule::SynWithData => Entry {
            phase: Handshake,
            meaning: "A SYN that carries data without a Fast Open option. RFC 9293 section 3.5 would let a receiver \
                keep the data until the handshake is complete, but the common ones throw it away, and ordinary \
                clients send none: Fast Open (RFC 7413) is the way that was agreed on.",
            causes: "Scanners, floods that want to cost bandwidth as well, evasion: data that a monitor reads and \
                the receiver throws away, or the other way round. Clients whose Fast Open option a middlebox has cut \
                out.",
            next: "See whether the SYN,ACK acknowledged the data (`ack` beyond `isn` plus one), and whether it came \
                from one client or many.",
            state: "The connection is tracked; a SYN,ACK may acknowledge the SYN alone or its data too.",
            behaviours: &["H5"],
            names: &[
                Name(ZeekWeird, "SYN_with_data", ""),
                Name(Snort, "STREAM_TCP_DATA_ON_SYN", "129:2"),
            ],
        },
        Rule::FastOpenData => Entry {
            phase: Handshake,
            meaning: "A SYN with data and a Fast Open option (RFC 7413): legal, and a round trip faster.",
            causes: "Clients and resolvers with Fast Open turned on.",
            next: "If connections from there are slow, see whether the SYN,ACK acknowledges the data: if not, the \
                cookie was refused and the data is sent again.",
            state: "The connection is tracked; its SYN,ACK may acknowledge the data.",
            behaviours: &["H5"],
            names: &[
                Name(Suricata, "3whs_synack_tfo_data_ignored", "2210064"),
                Name(DropReason, "TCP_FASTOPEN", ""),
                Name(Counter, "TCPFastOpenActive", ""),
                Name(Counter, "TCPFastOpenPassive", ""),
                Name(Wireshark, "tcp.analysis.tfo_syn", ""),
            ],
        },
        Rule::SynAckWithData => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK with data where neither end sent a Fast Open option. The client has not yet shown \
                that it wants the connection, or that it exists, so ordinary servers wait for that (RFC 9293 section \
                3.5); RFC 7413 makes the exception.",
            causes: "Injection: whoever sees the SYN answers first, with content. Odd stacks.",
            next: "Compare TTL and options with those of the server's other segments: an injected one differs.",
            state: "The connection is tracked, the data counted.",
            behaviours: &["H5"],
            names: &[Name(Suricata, "3whs_ack_data_inject", "2210057")],
        },
        Rule::SynIsnChange => Entry {
            phase: Handshake,
            meaning: "A SYN with another initial sequence number after the SYN,ACK to the first. The handshake goes \
                on with the number that was answered (RFC 9293 section 3.10.7.4 answers another SYN with a \
                challenge, RFC 5961 section 4). Before the SYN,ACK a new number is legal and silent.",
            causes: "A client that gave up and tries again from the same port; NAT or load balancers that reuse a \
                port too early; somebody who guesses connections to disturb them.",
            next: "See which of the numbers the third segment belongs to. If one source does it over and over, look \
                at its pool of ports.",
            state: "The first SYN stays; the other one is remembered whole, and the third segment decides which counts.",
            behaviours: &["H8", "H16"],
            names: &[
                Name(Suricata, "3whs_syn_resend_diff_seq_on_syn_recv", "2210008"),
                Name(ZeekWeird, "SYN_seq_jump", ""),
                Name(Conntrack, "packet (index 0) in dir 0 ignored, state SYN_RECV", ""),
                Name(Counter, "TCPSYNChallenge", ""),
            ],
        },
        Rule::SynFloodTuple => Entry {
            phase: Handshake,
            meaning: "Ten or more initial sequence numbers offered on one pair of addresses and ports. A SYN that is \
                sent again is the same segment (RFC 9293 section 3.8.1), so one client has no use for ten.",
            causes: "A flood that was written to hit one connection's entry; a script that sends hand-made SYNs from \
                a fixed port.",
            next: "See whether the source answers SYN,ACKs at all. If it does not, it is spoofed: limit at the \
                border, or turn on SYN cookies on the host.",
            state: "The handshake that completes picks the real SYN, so a real client among them is still tracked; the \
                first and the last four are remembered, and any other is taken once both ends name it.",
            behaviours: &["H16"],
            names: &[Name(Suricata, "3whs_syn_flood", "2210063")],
        },
        Rule::SynWrongDir => Entry {
            phase: Handshake,
            meaning: "A SYN from the responder after its SYN,ACK. It has opened already, and a second opening in the \
                other direction belongs to no handshake (RFC 9293 section 3.5).",
            causes: "Port reuse in both directions at once, a load balancer that opens towards the client, forged \
                segments.",
            next: "See whether the two ends talk to each other on fixed ports, as some cluster protocols do: then \
                both may open at the same time.",
            state: "None: the handshake goes on as before. The SYN is remembered, in case the SYN,ACK was forged.",
            behaviours: &["H19"],
            names: &[
                Name(Suricata, "3whs_syn_toclient_on_syn_recv", "2210009"),
                Name(Snort, "STREAM_TCP_4WAY_HANDSHAKE", "129:13"),
            ],
        },
        Rule::SimultaneousOpen => Entry {
            phase: Handshake,
            meaning: "A SYN that answers a SYN. Both ends opened at the same time (RFC 9293 section 3.5, figure 7), \
                or the responder split its SYN,ACK in two.",
            causes: "Peer-to-peer programs that punch through NAT, cluster protocols with fixed ports. A split \
                handshake can be used to turn the direction of a connection in a monitor's eyes.",
            next: "If one end is a public server, ask why it sends SYNs: servers have no need to.",
            state: "Tracked as RFC 9293 says: SYN_SENT, SYN_RECEIVED and ESTABLISHED at both ends.",
            behaviours: &["H9", "H18"],
            names: &[
                Name(Suricata, "4whs_synack_with_wrong_ack", "2210011"),
                Name(Suricata, "4whs_synack_with_wrong_syn", "2210012"),
                Name(Suricata, "4whs_wrong_seq", "2210013"),
                Name(Suricata, "4whs_invalid_ack", "2210014"),
                Name(ZeekWeird, "simultaneous_open", ""),
                Name(Snort, "STREAM_TCP_4WAY_HANDSHAKE", "129:13"),
                Name(Alias, "split_handshake", ""),
            ],
        },
        Rule::RepeatedSynNoAck => Entry {
            phase: Handshake,
            meaning: "A bare SYN, with the number it had, from an end that has already sent its SYN,ACK. A repeated \
                SYN,ACK keeps its ACK flag (RFC 9293 section 3.10.7.4).",
            causes: "A simultaneous open or a split handshake in which a SYN is repeated; odd stacks.",
            next: "Interesting only beside simultaneous_open.",
            state: "None: it is a duplicate.",
            behaviours: &["H8", "H18"],
            names: &[Name(ZeekWeird, "repeated_SYN_reply_wo_ack", "")],
        },
        Rule::SynAckUnsolicited => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK to an end that sent no SYN and answered with an RST, as RFC 9293 section 3.5.2 asks \
                of it. Reported when the RST shows that the SYN was not merely out of sight.",
            causes: "Backscatter: somebody floods a server with SYNs that carry your address. A SYN,ACK scan. After \
                a reboot or a failover, answers to SYNs of the machine that was there before.",
            next: "Many servers answering one address of yours: it is spoofed in a flood elsewhere. One source and \
                many of your ports: a scan.",
            state: "The RST closes it, and the flow ages out after the CLOSED timeout.",
            behaviours: &["H10", "H17"],
            names: &[
                Name(Suricata, "3whs_synack_in_wrong_direction", "2210003"),
                Name(ZeekWeird, "unsolicited_SYN_response", ""),
                Name(Conntrack, "invalid new", ""),
            ],
        },
        Rule::SynAckBadAck => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK whose acknowledgment is not the client's initial sequence number plus one (or that \
                plus the data of its SYN). The client must answer it with an RST (RFC 9293 section 3.10.7.3).",
            causes: "An answer to an older SYN from the same port; a middlebox that changes sequence numbers in one \
                direction only; somebody who answers without having seen the SYN; a server that invites an RST to \
                test its client.",
            next: "Compare `actual` with the connection before: if it is that one's number plus one, an old \
                duplicate is on its way. If one firewall is on every such path, turn its sequence randomisation off.",
            state: "None, unless the client completes the handshake with it: then both ends agree, and its SYN was \
                missed.",
            behaviours: &["H6"],
            names: &[
                Name(Suricata, "3whs_synack_with_wrong_ack", "2210007"),
                Name(Suricata, "4whs_synack_with_wrong_ack", "2210011"),
                Name(ZeekWeird, "bad_SYN_ack", ""),
                Name(Conntrack, "ACK is over upper bound (ACKed data not seen yet)", ""),
                Name(DropReason, "TCP_INVALID_ACK_SEQUENCE", ""),
            ],
        },
        Rule::SynAckWrongDir => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK from the end that opened the connection, which has nothing to acknowledge yet (RFC \
                9293 section 3.5).",
            causes: "Forged segments that try to turn the connection round in a monitor's eyes; broken NAT; seldom a \
                simultaneous open whose other SYN was missed.",
            next: "See whether both directions of the path cross this interface. nf_conntrack passes such a segment \
                without a word.",
            state: FORGED,
            behaviours: &["H19"],
            names: &[
                Name(Suricata, "3whs_synack_in_wrong_direction", "2210003"),
                Name(Suricata, "3whs_synack_toserver_on_syn_recv", "2210006"),
                Name(ZeekWeird, "connection_originator_SYN_ack", ""),
            ],
        },
        Rule::SynAckIsnChange => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK that comes again with another initial sequence number. A repeated SYN,ACK is the \
                same segment (RFC 9293 section 3.8.1); another number means that somebody else, or another state, \
                answers.",
            causes: "Two machines behind one address (a load balancer without affinity, anycast that moved), a \
                server with SYN cookies whose minute has passed, an injected answer that races with the real one.",
            next: "Compare TTL and options of the two. If they differ, two machines answered.",
            state: "Both are remembered with all that they offer, and the third segment picks the one that holds.",
            behaviours: &["H8", "H17"],
            names: &[
                Name(Suricata, "3whs_synack_resend_with_different_ack", "2210004"),
                Name(Suricata, "3whs_synack_resend_with_diff_seq", "2210005"),
                Name(Suricata, "3whs_synack_flood", "2210055"),
                Name(ZeekWeird, "repeated_SYN_with_ack", ""),
                Name(ZeekWeird, "SYN_seq_jump", ""),
                Name(Conntrack, "packet (index 1) in dir 1 ignored, state SYN_RECV", ""),
            ],
        },
        Rule::OldIncarnationSynAck => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK to the SYN of the connection that was on these addresses and ports before. Old \
                duplicates are what initial sequence numbers protect from (RFC 9293 section 3.4.1); the client \
                answers with an RST.",
            causes: "A port that is reused quickly over a path that delays or duplicates; a server that repeats its \
                SYN,ACK to a client that has moved on.",
            next: "Widen the client's range of ports (`net.ipv4.ip_local_port_range`) if it goes through them within \
                a minute.",
            state: FORGED,
            behaviours: &["H6", "H8"],
            names: &[
                Name(Suricata, "3whs_synack_with_wrong_ack", "2210007"),
                Name(ZeekWeird, "bad_SYN_ack", ""),
                Name(Conntrack, "ACK is over upper bound (ACKed data not seen yet)", ""),
            ],
        },
        Rule::HandshakeAckBadAck => Entry {
            phase: Handshake,
            meaning: "The segment that should complete the handshake has the right sequence number and acknowledges \
                something else than the responder's SYN. The responder answers with an RST and stays in SYN_RECEIVED \
                (RFC 9293 section 3.10.7.4).",
            causes: "Somebody who guesses: a spoofed client never saw the responder's number. Evasion, where a \
                monitor is made to believe in a connection that the server does not have. A proxy between them that \
                was restarted.",
            next: "See whether the source ever completes a handshake. Many of these to one port are an attempt to \
                guess sequence numbers or cookies.",
            state: FORGED,
            behaviours: &["H7"],
            names: &[
                Name(Suricata, "3whs_right_seq_wrong_ack_evasion", "2210002"),
                Name(Conntrack, "ACK is over upper bound (ACKed data not seen yet)", ""),
            ],
        },
        Rule::HandshakeAckBadSeq => Entry {
            phase: Handshake,
            meaning: "The segment that should complete the handshake acknowledges the right number and lies outside \
                the window that the responder offered (RFC 9293 section 3.10.7.4). One that is ahead but inside is \
                legal: earlier ones were lost.",
            causes: "A middlebox that changes sequence numbers in one direction only, a client that sends more than \
                it was allowed, forged segments.",
            next: "Compare `expected` and `actual`: a constant difference in all connections is a device that \
                rewrites numbers.",
            state: FORGED,
            behaviours: &["H7", "H4"],
            names: &[
                Name(Suricata, "3whs_async_wrong_seq", "2210001"),
                Name(Conntrack, "SEQ is over upper bound (over the window of the receiver)", ""),
            ],
        },
        Rule::HandshakeBadSeqAck => Entry {
            phase: Handshake,
            meaning: "The segment that should complete the handshake is wrong in both numbers: it belongs to another \
                connection, or to none (RFC 9293 section 3.10.7.4).",
            causes: "Leftovers of an older connection on the same ports; blind guesses; two machines behind one \
                address.",
            next: "See whether the flow's `history` shows a connection just before it; if not, suspect guesses.",
            state: FORGED,
            behaviours: &["H7"],
            names: &[
                Name(Suricata, "3whs_wrong_seq_wrong_ack", "2210010"),
                Name(Conntrack, "SEQ is over upper bound (over the window of the receiver)", ""),
            ],
        },
        Rule::AckWrongDir => Entry {
            phase: Handshake,
            meaning: "An ACK without SYN from the end that was sent a SYN, and it does not acknowledge that SYN. It \
                is a challenge ACK (RFC 5961 section 4) of an end that still has an older connection there; the \
                client answers with an RST and tries again (RFC 9293 section 3.5.1).",
            causes: "A client that restarted, or reused its port while the server still had the old connection; a \
                firewall or NAT that forgot a connection and let a new one take its port.",
            next: "See whether an RST and a new SYN follow: then it healed itself. If not, something on the way \
                drops the RST.",
            state: "None: the handshake waits for a SYN,ACK or an RST.",
            behaviours: &["H6", "S5"],
            names: &[
                Name(Suricata, "3whs_ack_in_wrong_dir", "2210000"),
                Name(Conntrack, "packet (index 3) in dir 1 ignored, state SYN_SENT", ""),
                Name(Counter, "TCPChallengeACK", ""),
            ],
        },
        Rule::DataBeforeEstablished => Entry {
            phase: Handshake,
            meaning: "Data or a FIN from an end that cannot have known the peer's SYN yet. Until it does it can \
                acknowledge nothing, and its segments are dropped (RFC 9293 section 3.10.7).",
            causes: "Scripts and attack tools that send blindly after their SYN; evasion; a path of which this \
                interface sees the answers too late or not at all.",
            next: "If every connection shows it, the other direction takes another path: look at `seen` in `tracker \
                flows`.",
            state: "What the segment seemed to add is undone by the SYN,ACK that it did not know.",
            behaviours: &["H13"],
            names: &[
                Name(Suricata, "3whs_ack_data_inject", "2210057"),
                Name(ZeekWeird, "data_before_established", ""),
                Name(Snort, "STREAM_TCP_NO_3WHS", "129:20"),
                Name(Conntrack, "packet (index 3) in dir 0 invalid, state SYN_SENT", ""),
            ],
        },
        Rule::Midstream => Entry {
            phase: Handshake,
            meaning: "The first packet of a flow was no SYN: the connection was there before the agent, or was \
                forgotten.",
            causes: "The agent started, a route changed, or the connection was silent for longer than its timeout. \
                Hostile: ACK scans and ACK floods.",
            next: "A few after each start are normal. Steady ones mean timeouts that are too short, or one-sided \
                paths; from one source to many ports, a scan.",
            state: "Picked up as it is and marked `midstream`. Windows and acknowledgments are not judged until both \
                sides are known.",
            behaviours: &["S6"],
            names: &[
                Name(ZeekHistory, "^", ""),
                Name(Conntrack, "invalid new", ""),
                Name(Snort, "STREAM_TCP_NO_3WHS", "129:20"),
            ],
        },
        Rule::Refused => Entry {
            phase: Handshake,
            meaning: "A connection that was asked for and refused: a SYN, and the only answer an RST that \
                acknowledges it (RFC 9293 section 3.10.7.1).",
            causes: "Nobody listens on the port: a service that is down, a wrong port, a reject rule of a firewall. \
                Many from one source are a scan.",
            next: "From one client to one port, start the service or correct the port. From one source to many \
                ports, see port_scan.",
            state: "CLOSED at both ends; the flow is removed after the CLOSED timeout.",
            behaviours: &["H11"],
            names: &[
                Name(ZeekState, "REJ", ""),
                Name(Counter, "AttemptFails", ""),
                Name(Ndpi, "Connection refused", ""),
                Name(Ntopng, "tcp_connection_refused", ""),
            ],
        },
        Rule::RstBadAckSynSent => Entry {
            phase: Handshake,
            meaning: "An RST in answer to a SYN that does not acknowledge it. In SYN_SENT an RST counts only if its \
                acknowledgment is the SYN's number plus one (RFC 9293 section 3.10.7.3), so whoever sent it did not \
                see the SYN.",
            causes: "A blind attempt to keep a client from connecting; a stack that leaves the acknowledgment out of \
                its RST; an RST of the older connection on the same ports.",
            next: "See whether the connection was opened nevertheless. nf_conntrack believes such an RST and forgets \
                the connection, which then fails behind it.",
            state: "None: the client goes on waiting. Only an RST that acknowledges the SYN ends it.",
            behaviours: &["H11"],
            names: &[
                Name(Suricata, "rst_invalid_ack", "2210046"),
                Name(Suricata, "suspected_rst_inject", "2210058"),
                Name(ZeekWeird, "SYN_after_reset", ""),
                Name(Snort, "STREAM_TCP_BAD_RST", "129:15"),
                Name(DropReason, "TCP_INVALID_ACK_SEQUENCE", ""),
            ],
        },
        Rule::StaleSyn => Entry {
            phase: Handshake,
            meaning: "An RST from the end that sent the SYN, in answer to the SYN,ACK. It no longer wants the \
                connection, or never did: RFC 9293 section 3.5 shows it as the way out of an old duplicate SYN.",
            causes: "An old duplicate SYN; a client that gave up while the answer was under way; a SYN scan (`nmap \
                -sS`), which resets each port that answers.",
            next: "One source that resets many ports has scanned them: these ports are known to be open.",
            state: "CLOSED at both ends.",
            behaviours: &["H10"],
            names: &[Name(Counter, "EmbryonicRsts", "")],
        },
        Rule::HalfOpenTimeout => Entry {
            phase: Handshake,
            meaning: "A handshake that was not completed in its time (RFC 9293 section 3.10.8 leaves it to the user \
                timeout). Two subtypes: no_synack, the SYN was never answered; no_ack, the SYN,ACK was never \
                acknowledged.",
            causes: "no_synack: a filter that drops, a host that is down, a scan of addresses without hosts. no_ack: \
                spoofed sources of a SYN flood, clients that vanish, a path that loses one direction.",
            next: "Look at the subtype first. no_ack from many sources to one port is a flood: see syn_flood. \
                no_synack to one host: it, or its firewall, is silent.",
            state: "The flow is removed, with a DESTROY event. It was in the table that evicts, so it never cost an \
                open connection its place.",
            behaviours: &["H12"],
            names: &[
                Name(ZeekState, "S0", ""),
                Name(ZeekState, "SH", ""),
                Name(ZeekState, "SHR", ""),
                Name(ZeekState, "RSTOS0", ""),
                Name(Ntopng, "tcp_connection_no_answer", ""),
            ],
        },
        Rule::SynFlood => Entry {
            phase: Handshake,
            meaning: "More half-open connections to one address and port than the limit. Each costs the listener an \
                entry in its queue until it gives up (RFC 4987). Found by the agent's sweep, from the tables; the \
                limit can be set.",
            causes: "A SYN flood, mostly with spoofed sources. Harmless: a rush of clients over a path that loses \
                SYN,ACKs, or a listener that is down behind a filter that drops.",
            next: "See whether the sources ever answer: `tracker flows --state syn-received --dport PORT`. On the \
                host, `nstat TcpExtSyncookiesSent TcpExtListenDrops`; leave `net.ipv4.tcp_syncookies` at 1.",
            state: "None. Half-open flows are evicted oldest first, open connections never.",
            behaviours: &["H12", "H16"],
            names: &[
                Name(Counter, "SyncookiesSent", ""),
                Name(Counter, "TCPReqQFullDrop", ""),
                Name(Counter, "TCPReqQFullDoCookies", ""),
                Name(Counter, "ListenDrops", ""),
            ],
        },
        Rule::PortScan => Entry {
            phase: Handshake,
            meaning: "One source tried more addresses and ports in vain than the limit: unanswered or refused. RFC \
                9293 allows each attempt; their number is what tells. Found by the agent's sweep, from the tables; \
                the limit can be set.",
            causes: "A port scan. Harmless: monitoring and inventory tools, a client whose service discovery is \
                stale, a proxy that many clients share while a service is down.",
            next: "List what it tried and what answered: `tracker flows --src ADDRESS`. Answers with `conn_state` SF \
                or RSTO are ports it has found open.",
            state: "None: each of its connections is tracked as any other.",
            behaviours: &["H11", "H12"],
            names: &[
                Name(Snort, "PSNG_TCP_PORTSCAN", "122:1"),
                Name(Snort, "PSNG_TCP_PORTSWEEP", "122:3"),
                Name(Snort, "PSNG_TCP_FILTERED_PORTSCAN", "122:5"),
                Name(Snort, "PSNG_TCP_PORTSWEEP_FILTERED", "122:7"),
                Name(Ntopng, "tcp_syn_scan", ""),
            ],
        },
        Rule::Asymmetric => Entry {
            phase: Handshake,
            meaning: "A flow of which only one direction was ever seen. Nothing is wrong with it; half of it is out \
                of sight.",
            causes: "Asymmetric routing, a mirror port that copies one direction, a second interface that is not \
                attached.",
            next: "Attach the other interface (`--interface` again), or mirror both directions. `seen` in `tracker \
                flows` says which one is there.",
            state: "The states of the unseen end are what can be inferred. Nothing is reported that one-sidedness \
                alone explains, and the flow is never confirmed.",
            behaviours: &["S9"],
            names: &[
                Name(ZeekWeird, "possible_split_routing", ""),
                Name(Ndpi, "Unidirectional Traffic", ""),
                Name(Arkime, "no-syn-ack", ""),
            ],
        },
        Rule::SynInEstablished => Entry {
            phase: Handshake,
            meaning: "A SYN with another initial sequence number on an open connection. It must change nothing; the \
                receiver answers with a challenge ACK, and only an RST in answer to that ends the connection (RFC \
                5961 section 4, RFC 9293 section 3.10.7.4).",
            causes: "A client that crashed and comes back on the same port; NAT that gave the port to somebody else; \
                a blind attempt to reset the connection.",
            next: "If an RST and a new handshake follow, the client had restarted. If the old connection simply goes \
                on, the SYN was forged or late.",
            state: "The connection stays. The SYN is kept among the half-open flows: if the responder answers it, a \
                new connection begins.",
            behaviours: &["S5"],
            names: &[
                Name(Suricata, "est_syn_resend", "2210026"),
                Name(Suricata, "est_syn_resend_diff_seq", "2210027"),
                Name(Suricata, "est_syn_toclient", "2210028"),
                Name(ZeekWeird, "SYN_inside_connection", ""),
                Name(ZeekWeird, "SYN_after_partial", ""),
                Name(ZeekWeird, "SYN_seq_jump", ""),
                Name(Snort, "STREAM_TCP_SYN_ON_EST", "129:1"),
                Name(Conntrack, "packet (index 0) in dir 0 ignored, state ESTABLISHED", ""),
                Name(DropReason, "TCP_INVALID_SYN", ""),
                Name(Counter, "TCPSYNChallenge", ""),
            ],
        },
        Rule::SynAckInEstablished => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK with another initial sequence number on an open connection, which does not \
                acknowledge the SYN that opened it, or comes from the end that sent it. The handshake is over, and a \
                repeated SYN,ACK would carry the same number (RFC 9293 section 3.10.7.4).",
            causes: "A forged segment; a server that restarted behind a SYN proxy. One that acknowledges the SYN is \
                `synack_anew`.",
            next: "Compare TTL and options with those of the SYN,ACK that was accepted.",
            state: FORGED,
            behaviours: &["H17", "S5"],
            names: &[
                Name(Suricata, "est_synack_resend", "2210022"),
                Name(Suricata, "est_synack_resend_with_different_ack", "2210023"),
                Name(Suricata, "est_synack_resend_with_diff_seq", "2210024"),
                Name(Suricata, "est_synack_toserver", "2210025"),
                Name(ZeekWeird, "repeated_SYN_with_ack", ""),
                Name(Conntrack, "packet (index 1) in dir 1 ignored, state ESTABLISHED", ""),
                Name(DropReason, "TCP_INVALID_SYN", ""),
                Name(Counter, "TCPSYNChallenge", ""),
            ],
        },
        Rule::SynAckAnew => Entry {
            phase: Handshake,
            meaning: "A SYN,ACK with another initial sequence number on an open connection, which acknowledges the \
                SYN that opened it. A host that has lost the connection and listens again answers a late copy of \
                that SYN so (RFC 9293 section 3.5.1); an RST follows then.",
            causes: "A server whose RST was lost, or that restarted, and a SYN that was duplicated on the path. Two \
                machines behind one address, both of which answered the SYN; an injected answer that lost the race.",
            next: "If an RST from the same end follows, it was a copy of the SYN. Else compare TTL and options with \
                those of the SYN,ACK that was accepted.",
            state: FORGED,
            behaviours: &["H8", "S5"],
            names: &[
                Name(Suricata, "est_synack_resend", "2210022"),
                Name(Suricata, "est_synack_resend_with_diff_seq", "2210024"),
                Name(ZeekWeird, "repeated_SYN_with_ack", ""),
                Name(Conntrack, "packet (index 1) in dir 1 ignored, state ESTABLISHED", ""),
                Name(DropReason, "TCP_INVALID_SYN", ""),
                Name(Counter, "TCPSYNChallenge", ""),
            ],
        },
        Rule::Retransmission => Entry {
            phase: Established,
            meaning: "A segment with no sequence number that its sender had not used before, and not acknowledged \
                yet: sent again, or overtaken (RFC 9293 section 3.8.1).",
            causes: "Loss or reordering on the path. Some is normal.",
            next: "Compare with the packets of the flow: above a percent or so, look for loss; if only one direction \
                has it, look there.",
            state: "None: its data is known already.",
            behaviours: &["S4"],
            names: &[
                Name(Suricata, "pkt_retransmission", "2210053"),
                Name(Suricata, "reassembly_segment_before_base_seq", "2210047"),
                Name(ZeekHistory, "t", ""),
                Name(Conntrack, "SEQ is under lower bound (already ACKed data retransmitted)", ""),
                Name(Counter, "RetransSegs", ""),
                Name(Wireshark, "tcp.analysis.retransmission", ""),
                Name(Wireshark, "tcp.analysis.fast_retransmission", ""),
            ],
        },
        Rule::SpuriousRetransmission => Entry {
            phase: Established,
            meaning: "A segment whose data the receiver had already acknowledged: it was sent again for nothing (RFC \
                5682 tries to detect it).",
            causes: "Lost or late acknowledgments, a round trip that grew quickly. Keepalives look the same and are \
                counted here too.",
            next: "If it is frequent, look at the path of the acknowledgments, not of the data.",
            state: "None: it is an old segment, and its acknowledgment is not looked at.",
            behaviours: &["S4"],
            names: &[
                Name(Suricata, "pkt_spurious_retransmission", ""),
                Name(Suricata, "est_pkt_before_last_ack", "2210021"),
                Name(Suricata, "closewait_pkt_before_last_ack", "2210052"),
                Name(ZeekHistory, "t", ""),
                Name(DropReason, "TCP_OLD_DATA", ""),
                Name(Counter, "TCPDSACKOldSent", ""),
                Name(Wireshark, "tcp.analysis.spurious_retransmission", ""),
                Name(Wireshark, "tcp.analysis.keep_alive", ""),
            ],
        },
        Rule::AckOld => Entry {
            phase: Established,
            meaning: "An acknowledgment below one that the same end has already sent. It says nothing new and is \
                ignored (RFC 9293 section 3.10.7.4; RFC 5961 section 5 limits how old it may be).",
            causes: "Reordering on the path. Far below and often, somebody injects data blindly.",
            next: "Nothing, unless it comes with ack_unseen_data or rst_out_of_window.",
            state: "None: facts only grow.",
            behaviours: &["S4"],
            names: &[
                Name(ZeekWeird, "TCP_ack_underflow_or_misorder", ""),
                Name(Conntrack, "ignored ACK under lower bound (possible overly delayed)", ""),
                Name(DropReason, "TCP_OLD_ACK", ""),
                Name(DropReason, "TCP_TOO_OLD_ACK", ""),
            ],
        },
        Rule::ZeroWindow => Entry {
            phase: Established,
            meaning: "A window of zero: its sender takes no more data for now (RFC 9293 section 3.8.6.1).",
            causes: "An application that reads too slowly, or not at all. A peer that keeps it at zero for long ties \
                up the sender's memory, which some attacks want.",
            next: "Look at the process behind the end that offers nothing: `ss -tmp` there shows a full receive \
                queue.",
            state: "None: the highest window ever offered still bounds what may be sent.",
            behaviours: &["S4"],
            names: &[
                Name(ZeekHistory, "w", ""),
                Name(DropReason, "TCP_ZEROWINDOW", ""),
                Name(Counter, "TCPToZeroWindowAdv", ""),
                Name(Counter, "TCPZeroWindowDrop", ""),
                Name(Wireshark, "tcp.analysis.zero_window", ""),
                Name(Ntopng, "zero_tcp_window", ""),
            ],
        },
        Rule::WindowRecision => Entry {
            phase: Established,
            meaning: "A window whose right edge lies before one that was offered earlier. It is discouraged, and a \
                sender must be able to live with it (RFC 9293 section 3.8.6).",
            causes: "Receivers that run short of memory, scale rounding, middleboxes that change windows.",
            next: "If throughput suffers, look at the receiver's memory and at devices that shape by window.",
            state: "None: the highest edge ever offered counts, so this makes no false report.",
            behaviours: &["S3"],
            names: &[
                Name(ZeekWeird, "window_recision", ""),
                Name(Snort, "STREAM_TCP_WINDOW_SLAM", "129:19"),
            ],
        },
        Rule::BadWindowUpdate => Entry {
            phase: Established,
            meaning: "A window that shrinks in a segment which also acknowledges data that was never sent. Neither \
                number can be believed (RFC 9293 section 3.10.7.4).",
            causes: "A forged segment intended to stall the sender, or to hide data from a monitor.",
            next: "Compare TTL and IP id with the same end's other segments.",
            state: FORGED,
            behaviours: &["S2", "S3"],
            names: &[Name(Suricata, "pkt_bad_window_update", "2210056")],
        },
        Rule::SeqOutOfWindow => Entry {
            phase: Established,
            meaning: "Data that begins beyond what the receiver ever offered to take. The receiver drops it and \
                answers with an acknowledgment (RFC 9293 section 3.10.7.4). Not judged on a flow that was picked up \
                in its middle until both sides are known.",
            causes: "Injection that guesses the sequence number; a peer that ignores the window; a middlebox that \
                changes sequence numbers or windows in one direction; packets that this interface missed.",
            next: "Look at `expected` and `actual`: close by means a window that we missed, far away means a guess. \
                Drops on the interface (`ip -s link`) explain the first.",
            state: "None, unless the receiver acknowledges the data later: then both ends agree, and the window was \
                larger than we knew. What belongs to the same gap is not counted again.",
            behaviours: &["S3"],
            names: &[
                Name(Suricata, "est_packet_out_of_window", "2210020"),
                Name(Conntrack, "SEQ is over upper bound (over the window of the receiver)", ""),
                Name(Conntrack, "bytes more than expected", ""),
                Name(DropReason, "TCP_OVERWINDOW", ""),
                Name(DropReason, "TCP_INVALID_SEQUENCE", ""),
                Name(DropReason, "TCP_INVALID_END_SEQUENCE", ""),
                Name(Counter, "BeyondWindow", ""),
            ],
        },
        Rule::AckUnseenData => Entry {
            phase: Established,
            meaning: "An acknowledgment of data that the peer never sent. It must be dropped and answered (RFC 9293 \
                section 3.10.7.4, RFC 5961 section 5). Not judged on a flow that was picked up in its middle until \
                both sides are known.",
            causes: "Packets that this interface missed: another path, a queue without a program, drops in a \
                capture. Optimistic acknowledgments that make a server send faster; blind injection.",
            next: "If many flows show it at once, packets are missed here: check `seen` and the interface's drops. \
                One client only: watch what it downloads and how fast.",
            state: "None, unless the peer then goes on from there: it has sent that data, and we missed it. What \
                belongs to the same gap is not counted again.",
            behaviours: &["S2"],
            names: &[
                Name(Suricata, "est_invalid_ack", "2210029"),
                Name(Suricata, "pkt_invalid_ack", "2210045"),
                Name(ZeekWeird, "above_hole_data_without_any_acks", ""),
                Name(ZeekHistory, "g", ""),
                Name(Conntrack, "ACK is over upper bound (ACKed data not seen yet)", ""),
                Name(DropReason, "TCP_ACK_UNSENT_DATA", ""),
                Name(Wireshark, "tcp.analysis.ack_lost_segment", ""),
                Name(Arkime, "acked-unseen-segment-src", ""),
                Name(Arkime, "acked-unseen-segment-dst", ""),
            ],
        },
        Rule::PawsReject => Entry {
            phase: Established,
            meaning: "New data with a timestamp older than the newest that was accepted. The receiver drops it \
                (PAWS, RFC 7323 section 5). Minor, because data that was lost before this segment makes a legal one \
                look the same.",
            causes: "Old duplicates that arrive late; a host that changed its clock of timestamps; several machines \
                behind one NAT address or load balancer; injection that does not know the timestamp.",
            next: "If it stalls connections through one NAT or balancer, its machines have timestamps of their own: \
                make it rewrite them, or turn timestamps off there.",
            state: FORGED,
            behaviours: &["S7"],
            names: &[
                Name(Suricata, "pkt_invalid_timestamp", "2210044"),
                Name(Snort, "STREAM_TCP_BAD_TIMESTAMP", "129:4"),
                Name(DropReason, "TCP_RFC7323_PAWS", ""),
                Name(Counter, "PAWSEstab", ""),
            ],
        },
        Rule::RstOutOfWindow => Entry {
            phase: Established,
            meaning: "An RST outside the receiver's window: a blind reset. It must be ignored in silence (RFC 9293 \
                section 3.5.3, RFC 5961 section 3).",
            causes: "Somebody who knows addresses and ports but not the sequence number; a middlebox that resets \
                connections it has lost track of; leftovers of an older connection.",
            next: "If the connection lives on, it was not its peer's. Resets of many connections at once from one \
                device: look at its idle timeout.",
            state: "None: the connection stays as it is. nf_conntrack and many others end it.",
            behaviours: &["T13", "T14"],
            names: &[
                Name(Suricata, "rst_invalid_ack", "2210046"),
                Name(Suricata, "est_packet_out_of_window", "2210020"),
                Name(Snort, "STREAM_TCP_BAD_RST", "129:15"),
                Name(Conntrack, "invalid rst", ""),
                Name(DropReason, "TCP_INVALID_SEQUENCE", ""),
                Name(DropReason, "TCP_OLD_SEQUENCE", ""),
            ],
        },
        Rule::RstInexact => Entry {
            phase: Established,
            meaning: "An RST inside the receiver's window but not at its next sequence number. The receiver must \
                answer with a challenge ACK and go on (RFC 5961 section 3.2). Minor, because data that was lost \
                before a true reset makes it look the same.",
            causes: "A reset after loss: its sender was ahead of what arrived. A reset that was guessed well. \
                Censoring middleboxes that send several, at different offsets.",
            next: "See what follows: an exact RST after the challenge ACK means that the peer did mean it; silence \
                or more data, that it did not.",
            state: "None: the connection stays until an exact RST, or its timeout.",
            behaviours: &["T12"],
            names: &[Name(Counter, "TCPChallengeACK", "")],
        },
        Rule::DataAfterRst => Entry {
            phase: Established,
            meaning: "A connection that an RST had closed goes on. An end that has reset a connection has none left to \
                send on (RFC 9293 section 3.10.7): so the RST was not its own, or it was ignored. A late segment looks \
                the same, so it takes proof: one end acknowledges what was sent after the RST, or the end that goes \
                on after its RST is on this host.",
            causes: "Injected resets: censorship, some intrusion prevention systems, access gateways.",
            next: "Compare TTL, IP id and window of the RST with those of the data that came after: an injected one \
                differs.",
            state: "The connection is closed as the RST said; what comes after is counted on it.",
            behaviours: &["T11"],
            names: &[
                Name(Suricata, "suspected_rst_inject", "2210058"),
                Name(ZeekWeird, "data_after_reset", ""),
                Name(ZeekWeird, "SYN_after_reset", ""),
                Name(ZeekWeird, "FIN_after_reset", ""),
                Name(Snort, "STREAM_TCP_DATA_AFTER_RESET", "129:8"),
                Name(Snort, "STREAM_TCP_DATA_AFTER_RST_RCVD", "129:18"),
            ],
        },
        Rule::FinNoSession => Entry {
            phase: Closing,
            meaning: "A flow whose first packet was a FIN: the connection is not known, or no longer.",
            causes: "Connections from before the agent started, or that were silent for longer than their timeout. \
                Hostile: FIN,ACK (Maimon) scans.",
            next: "A few after each start are normal; from one source to many ports, a scan.",
            state: "Picked up in its middle and marked `midstream`.",
            behaviours: &["S6"],
            names: &[
                Name(Suricata, "fin_but_no_session", "2210037"),
                Name(ZeekWeird, "spontaneous_FIN", ""),
                Name(Conntrack, "invalid new", ""),
            ],
        },
        Rule::RstNoSession => Entry {
            phase: Closing,
            meaning: "An RST on addresses and ports of which no connection is known, or no longer.",
            causes: "Answers to segments that were not seen here; the end of connections that were forgotten; \
                backscatter, when your address is spoofed in a flood elsewhere.",
            next: "From many servers to one address of yours it is backscatter. Else nothing.",
            state: "None: an RST begins no flow.",
            behaviours: &["T14", "S6"],
            names: &[
                Name(Suricata, "rst_but_no_session", "2210041"),
                Name(ZeekWeird, "spontaneous_RST", ""),
                Name(Conntrack, "invalid new", ""),
            ],
        },
        Rule::FinOutOfWindow => Entry {
            phase: Closing,
            meaning: "A FIN beyond what the receiver ever offered to take. The receiver drops it and answers with an \
                acknowledgment (RFC 9293 section 3.10.7.4).",
            causes: "A forged FIN that should end the connection; packets that this interface missed; a middlebox \
                that changes sequence numbers in one direction.",
            next: "Look whether the connection lives on: then the FIN was forged, or late.",
            state: "None, unless the receiver acknowledges exactly this FIN: then it was sent, and we missed what came \
                before it.",
            behaviours: &["S3", "T15"],
            names: &[
                Name(Suricata, "fin_out_of_window", "2210038"),
                Name(Suricata, "closewait_fin_out_of_window", "2210016"),
                Name(Suricata, "fin1_fin_wrong_seq", "2210032"),
                Name(Suricata, "fin2_fin_wrong_seq", "2210035"),
                Name(ZeekWeird, "FIN_advanced_last_seq", ""),
                Name(Snort, "STREAM_TCP_BAD_FIN", "129:16"),
                Name(Conntrack, "SEQ is over upper bound (over the window of the receiver)", ""),
                Name(DropReason, "TCP_INVALID_END_SEQUENCE", ""),
            ],
        },
        Rule::FinBadAck => Entry {
            phase: Closing,
            meaning: "A FIN that acknowledges data which was never sent. The receiver drops a segment whose \
                acknowledgment is of the future (RFC 9293 section 3.10.7.4).",
            causes: "Packets that this interface missed; a forged FIN of somebody who does not see the other \
                direction.",
            next: "See whether ack_unseen_data shows on other flows at the same time: then packets are missed here.",
            state: "None, unless its receiver acknowledges exactly this FIN: then it was sent, and we missed what it \
                acknowledges.",
            behaviours: &["S2", "T1"],
            names: &[
                Name(Suricata, "fin_invalid_ack", "2210030"),
                Name(Snort, "STREAM_TCP_BAD_ACK", "129:17"),
                Name(Conntrack, "ACK is over upper bound (ACKed data not seen yet)", ""),
            ],
        },
        Rule::CloseBadAck => Entry {
            phase: Closing,
            meaning: "An acknowledgment of data that was never sent, on a connection that is being closed. It is \
                dropped and answered (RFC 9293 section 3.10.7.4).",
            causes: "Stacks that acknowledge one too many after a FIN; packets that this interface missed; forged \
                segments.",
            next: "Look at the difference of `expected` and `actual`: 1 is a stack that counts a FIN wrongly.",
            state: "None, unless the peer goes on from there; or where it is one number, the next one, from an end that \
                has closed: it acknowledges the peer's FIN, which we missed.",
            behaviours: &["S2", "T6"],
            names: &[
                Name(Suricata, "closewait_ack_out_of_window", "2210015"),
                Name(Suricata, "closewait_invalid_ack", "2210017"),
                Name(Suricata, "closing_ack_wrong_seq", "2210018"),
                Name(Suricata, "closing_invalid_ack", "2210019"),
                Name(Suricata, "fin1_ack_wrong_seq", "2210031"),
                Name(Suricata, "fin1_invalid_ack", "2210033"),
                Name(Suricata, "fin2_ack_wrong_seq", "2210034"),
                Name(Suricata, "fin2_invalid_ack", "2210036"),
                Name(Suricata, "lastack_ack_wrong_seq", "2210039"),
                Name(Suricata, "lastack_invalid_ack", "2210040"),
                Name(Suricata, "timewait_ack_wrong_seq", "2210042"),
                Name(Suricata, "timewait_invalid_ack", "2210043"),
                Name(Snort, "STREAM_TCP_BAD_ACK", "129:17"),
                Name(Conntrack, "ACK is over upper bound (ACKed data not seen yet)", ""),
            ],
        },
        Rule::DataAfterFin => Entry {
            phase: Closing,
            meaning: "Data, or a second FIN, beyond the sender's own FIN. A FIN says that nothing follows (RFC 9293 \
                section 3.6).",
            causes: "Injection into a connection that is being closed; broken stacks and proxies; two machines \
                behind one address.",
            next: "Compare TTL with the sender's other segments. If one proxy does it always, it is the proxy.",
            state: FORGED,
            behaviours: &["T15"],
            names: &[
                Name(ZeekWeird, "FIN_advanced_last_seq", ""),
                Name(ZeekWeird, "pending_data_when_closed", ""),
                Name(Snort, "STREAM_TCP_DATA_ON_CLOSED", "129:3"),
            ],
        },
        Rule::HalfClose => Entry {
            phase: Closing,
            meaning: "Data from an end whose peer has closed its direction. That is legal: each direction is closed \
                by itself (RFC 9293 section 3.6.1).",
            causes: "Protocols that say `that was all` by a FIN and wait for the answer: `ssh`, rsync, HTTP/1.0 \
                clients, `nc -N`.",
            next: "Nothing. If such connections break, a firewall on the way forgets half-closed ones too early.",
            state: "The closer is in FIN_WAIT_2, the other end in CLOSE_WAIT, for as long as data flows.",
            behaviours: &["T4"],
            names: &[Name(ZeekState, "S2", ""), Name(ZeekState, "S3", "")],
        },
        Rule::SimultaneousClose => Entry {
            phase: Closing,
            meaning: "A FIN from each end, and neither acknowledges the other's: both closed at the same time (RFC \
                9293 section 3.6, figure 13).",
            causes: "Protocols in which both ends know that it is over.",
            next: "Nothing.",
            state: "Both ends go through CLOSING, if their FIN is not acknowledged yet, to TIME_WAIT.",
            behaviours: &["T5"],
            names: &[],
        },
        Rule::FinStorm => Entry {
            phase: Closing,
            meaning: "Fifty or more FINs from one end after its first. A FIN is repeated with growing pauses until \
                it is acknowledged (RFC 6298), a dozen times at most.",
            causes: "A loop between two devices; an acknowledgment that never arrives, with a stack that does not \
                back off; a flood with FINs.",
            next: "See whether the peer's acknowledgments reach the sender.",
            state: "None: repeated FINs add no facts.",
            behaviours: &["T6"],
            names: &[Name(ZeekWeird, "FIN_storm", "")],
        },
        Rule::RstStorm => Entry {
            phase: Closing,
            meaning: "Fifty or more RSTs from one end after the connection was reset. One is enough, and an RST is \
                never answered (RFC 9293 section 3.10.7.1).",
            causes: "A peer that goes on sending and gets an RST for each segment; a loop; a flood with RSTs.",
            next: "See who goes on sending data into the closed connection: the fault is there.",
            state: "None: the connection was closed already.",
            behaviours: &["T11", "T14"],
            names: &[Name(ZeekWeird, "RST_storm", "")],
        },
        Rule::TimeWaitReuse => Entry {
            phase: Closing,
            meaning: "A SYN that may open a new connection over one in TIME_WAIT: its sequence number lies beyond \
                the old connection's end, or its timestamp is newer (RFC 1122 section 4.2.2.13, RFC 6191).",
            causes: "Clients that make many connections to one server, load balancers and proxies most of all.",
            next: "Nothing, unless connections fail: then widen the range of ports.",
            state: "A new connection begins; the old one ends with a DESTROY event, reason `reopened`.",
            behaviours: &["T9"],
            names: &[
                Name(Suricata, "shutdown_syn_resend", "2210049"),
                Name(ZeekWeird, "active_connection_reuse", ""),
                Name(ZeekWeird, "premature_connection_reuse", ""),
                Name(ZeekWeird, "SYN_after_close", ""),
                Name(Counter, "TWRecycled", ""),
                Name(Wireshark, "tcp.analysis.reused_ports", ""),
            ],
        },
        Rule::SynInTimeWait => Entry {
            phase: Closing,
            meaning: "A SYN on a connection in TIME_WAIT with an older timestamp, or where both have none or the same, \
                with a sequence number that is not higher: by RFC 6191 section 2 and RFC 1122 section 4.2.2.13 it may \
                be an old duplicate and opens nothing.",
            causes: "An old duplicate SYN; a client whose numbers went backwards: it restarted, or several share an \
                address behind NAT that drops timestamps.",
            next: "If clients behind one NAT fail to connect now and then, this is why: let the NAT keep a port for \
                longer, or the server close later than the client.",
            state: "TIME_WAIT stays, and the timer is not renewed.",
            behaviours: &["T10"],
            names: &[
                Name(Suricata, "shutdown_syn_resend", "2210049"),
                Name(ZeekWeird, "SYN_after_close", ""),
                Name(Counter, "PAWSTimewait", ""),
                Name(DropReason, "TCP_RFC7323_TW_PAWS", ""),
            ],
        },
        Rule::TimeWaitAssassination => Entry {
            phase: Closing,
            meaning: "An RST in the window, in TIME_WAIT after a SYN of an old connection (syn_in_time_wait) on the same flow: the \
                acknowledgment of that SYN provoked it, and an end that believes it leaves TIME_WAIT early (RFC \
                1337). Any other RST in TIME_WAIT is rst_in_time_wait, since a network that duplicates a segment \
                makes a closed end answer with a legal one.",
            causes: "Old duplicates on a path that delays for long; somebody who wants the port pair free to insert \
                data into the next connection.",
            next: "Set `net.ipv4.tcp_rfc1337` to 1 on the host, which makes it ignore such an RST.",
            state: "TIME_WAIT stays: it is not ended by an RST here.",
            behaviours: &["T10"],
            names: &[
                Name(Suricata, "timewait_ack_wrong_seq", "2210042"),
                Name(Suricata, "timewait_invalid_ack", "2210043"),
                Name(Counter, "TWKilled", ""),
            ],
        },
        Rule::RstInTimeWait => Entry {
            phase: Closing,
            meaning: "An RST to or from an end in TIME_WAIT. It should not end that state (RFC 1337).",
            causes: "A network that duplicates a segment: the end that is CLOSED already answers it with a legal \
                RST. Clients that close with data unread.",
            next: "Nothing, unless time_wait_assassination shows as well.",
            state: "None: TIME_WAIT stays until 2MSL has passed.",
            behaviours: &["T10", "T14"],
            names: &[],
        },
    }
}

/// Names that no rule answers to.
pub const OUTSIDE: &[Outside] = &[
    Outside {
        name: "overlap_different_data",
        why: "No data is kept, so two copies of the same bytes cannot be compared; the second one is counted as \
              retransmission or spurious_retransmission.",
        names: &[
            Name(Suricata, "reassembly_overlap_different_data", "2210050"),
            Name(ZeekWeird, "rexmit_inconsistency", ""),
            Name(Snort, "STREAM_TCP_EXCESSIVE_TCP_OVERLAPS", "129:7"),
        ],
    },
    Outside {
        name: "mac_change",
        why: "A host sees the MAC address of its gateway for every peer behind it, so a change says nothing of the \
              connection. Link addresses are not looked at.",
        names: &[
            Name(Snort, "STREAM_TCP_SESSION_HIJACKED_CLIENT", "129:9"),
            Name(Snort, "STREAM_TCP_SESSION_HIJACKED_SERVER", "129:10"),
        ],
    },
    Outside {
        name: "idle_timeout",
        why: "Not a breach but the end of a flow: DESTROY events say `reason=timeout` and the state that was waited \
              in. Where that was the handshake, see half_open_timeout.",
        names: &[],
    },
    Outside {
        name: "table_full",
        why: "Not a breach by a segment: counted as `table_full` in `tracker stats`, and the flow stays in the table \
              that evicts.",
        names: &[],
    },
    Outside {
        name: "early_drop",
        why: "Not a breach by a segment: half-open flows that were pushed out are `evicted` in `tracker stats`. \
              Confirmed flows are never evicted.",
        names: &[],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn all() -> impl Iterator<Item = (Rule, Entry)> {
        Rule::ALL.iter().map(|rule| (*rule, entry(*rule)))
    }

    #[test]
    fn every_rule_says_something_of_its_own() {
        let mut said = BTreeSet::new();
        for (rule, entry) in all() {
            assert!(said.insert(rule.summary()), "{rule:?}");
            for text in [entry.meaning, entry.causes] {
                assert!(said.insert(text), "{rule:?} repeats: {text}");
            }
            for text in [rule.summary(), entry.meaning, entry.causes, entry.next, entry.state] {
                assert!(text.ends_with('.'), "{rule:?}: {text}");
                assert_eq!(text, text.trim(), "{rule:?}");
                assert!(!text.contains("  ") && !text.contains('\n'), "{rule:?}: {text}");
            }
            assert!(!entry.behaviours.is_empty(), "{rule:?}");
        }
    }

    #[test]
    fn violations_name_what_they_break() {
        for (rule, entry) in
            all().filter(|(rule, _)| rule.severity() == crate::violation::Severity::Violation)
        {
            assert!(entry.meaning.contains("RFC "), "{rule:?}");
        }
    }

    #[test]
    fn behaviours_have_the_form_of_ids() {
        for (rule, entry) in all() {
            for id in entry.behaviours {
                let (letter, number) = id.split_at(1);
                assert!(
                    "HTFSPC".contains(letter) && number.parse::<u8>().is_ok(),
                    "{rule:?}: {id}"
                );
            }
        }
    }

    /// Ids in a summary, where the rule is defined, are among those of its entry.
    #[test]
    fn behaviours_agree_with_the_summary() {
        for (rule, entry) in all() {
            for word in rule.summary().split(|letter: char| !letter.is_ascii_alphanumeric()) {
                let is_id = word.len() > 1
                    && word.starts_with(['H', 'T', 'F', 'S', 'P'])
                    && word[1..].bytes().all(|byte| byte.is_ascii_digit());
                assert!(!is_id || entry.behaviours.contains(&word), "{rule:?}: {word}");
            }
        }
    }

    #[test]
    fn a_sid_belongs_to_one_event_and_an_event_has_one_sid() {
        let mut events = BTreeMap::new();
        let mut sids = BTreeMap::new();
        let names = all()
            .flat_map(|(_, entry)| entry.names)
            .chain(OUTSIDE.iter().flat_map(|outside| outside.names));
        for Name(tool, name, id) in names {
            match tool {
                Suricata if id.is_empty() => {}
                Suricata => {
                    // Stream events are 22100xx, decoder events and checksums 22000xx.
                    let decoder = name.starts_with("decoder.") || name.ends_with("-csum");
                    assert!(
                        id.len() == 7 && id.starts_with(if decoder { "22000" } else { "22100" }),
                        "{name} {id}"
                    );
                    assert!(id.parse::<u32>().is_ok(), "{id}");
                    assert_eq!(events.insert(("suricata", *id), *name).unwrap_or(name), *name);
                    assert_eq!(sids.insert(*name, *id).unwrap_or(id), *id);
                }
                Snort => {
                    let (generator, signature) = id.split_once(':').expect("generator:signature");
                    assert!(
                        ["116", "122", "129"].contains(&generator)
                            && signature.parse::<u16>().is_ok(),
                        "{id}"
                    );
                    assert_eq!(events.insert(("snort", *id), *name).unwrap_or(name), *name);
                    assert_eq!(sids.insert(*name, *id).unwrap_or(id), *id);
                }
                _ => assert!(id.is_empty(), "{name}"),
            }
            assert!(!name.is_empty());
        }
    }

    #[test]
    fn no_rule_names_the_same_thing_twice() {
        for (rule, entry) in all() {
            for (n, name) in entry.names.iter().enumerate() {
                assert!(!entry.names[..n].contains(name), "{rule:?}: {name:?}");
            }
        }
    }

    #[test]
    fn what_is_outside_is_no_rule() {
        for outside in OUTSIDE {
            assert!(Rule::from_name(outside.name).is_none());
            assert!(outside.why.ends_with('.'));
        }
    }
}
