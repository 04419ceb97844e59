//! What tests of Zeek, Suricata, Arkime and tcpdump expect in words, said again as claims.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Claim,
    claims::{Source, Subject},
};

/// One statement of `ground-truth.jsonl`.
struct Statement {
    path: &'static str,
    /// Word for word, so that a change of the table is seen.
    said: &'static str,
    /// Whoever says so leaves out packets with a wrong checksum.
    verify: bool,
    /// Subject (empty: the one connection; `capture`; else its two ends), field, known answer.
    means: &'static [(&'static str, &'static str, &'static str)],
}

const CAPTURE: &str = "capture";

const fn says(
    path: &'static str,
    said: &'static str,
    means: &'static [(&'static str, &'static str, &'static str)],
) -> Statement {
    Statement { path, said, verify: false, means }
}

const fn verified(
    path: &'static str,
    said: &'static str,
    means: &'static [(&'static str, &'static str, &'static str)],
) -> Statement {
    Statement { verify: true, ..says(path, said, means) }
}

const STATEMENTS: &[Statement] = &[
    says(
        "zeek/tls/https-to-http.pcap",
        "conn_state RSTO history ShADadfR | Zeek conn.log: RSTO ShADadfR",
        &[("", "conn_state", "RSTO"), ("", "history", "ShADadfR")],
    ),
    says(
        "zeek/http/http-to-ssh.pcap",
        "conn_state RSTR history ShADadFr | Zeek conn.log: RSTR ShADadFr",
        &[("", "conn_state", "RSTR"), ("", "history", "ShADadFr")],
    ),
    says(
        "zeek/http/get_nosyn.pcap",
        "NO baseline in the repo (file unused by tests); by construction = http/get.pcap minus its first 3 packets",
        &[
            ("", "conn_state", "OTH"),
            ("", "orig_bytes", "136"),
            ("", "resp_bytes", "5007"),
            ("", "orig_pkts", "5"),
            ("", "resp_pkts", "6"),
        ],
    ),
    says(
        "zeek/tcp/syn.pcap",
        "packet threshold NOT crossed (1 packet); by Zeek's documented states: S0, history S",
        &[("", "conn_state", "S0"), ("", "history", "S"), ("", "orig_pkts", "1")],
    ),
    verified(
        "zeek/tcp/syn-bad.pcap",
        "history C conn_state OTH orig_pkts 0 resp_pkts 0",
        &[
            (CAPTURE, "counted bad_checksum", "1"),
            ("", "history", "C"),
            ("", "conn_state", "OTH"),
            ("", "orig_pkts", "0"),
            ("", "resp_pkts", "0"),
        ],
    ),
    says(
        "zeek/tcp/syn-synack.pcap",
        "NO baseline in the repo (file unused by tests); by Zeek's documented states: S1, history Sh; half-open (SYN_RECV) in nf_conntrack",
        &[("", "conn_state", "S1"), ("", "history", "Sh"), ("", "states", "SYN_SENT/SYN_RECEIVED")],
    ),
    says(
        "zeek/tcp/fin_retransmission.pcap",
        "orig: size=0 state=5(CLOSED) pkts=3; resp: size=0 state=6(RESET) pkts=2",
        &[
            ("", "orig_bytes", "0"),
            ("", "resp_bytes", "0"),
            ("", "orig_pkts", "3"),
            ("", "resp_pkts", "2"),
            ("", "conn_state", "RSTR"),
        ],
    ),
    says(
        "zeek/tcp/no-handshake.pcap",
        "NO baseline in the repo (file unused by tests); by Zeek's documented states: OTH, history D",
        &[("", "conn_state", "OTH"), ("", "history", "D")],
    ),
    says(
        "zeek/tcp/one-sided-2745.pcap",
        "2 flows: history ^haf, orig_pkts 0 resp_pkts 3 resp_ip_bytes 140",
        &[
            (CAPTURE, "connections", "2"),
            (CAPTURE, "each history", "^haf"),
            (CAPTURE, "each orig_pkts", "0"),
            (CAPTURE, "each resp_pkts", "3"),
            (CAPTURE, "each resp_ip_bytes", "140"),
        ],
    ),
    says(
        "zeek/tcp/payload-syn.pcap",
        "signature matches payload in SYN; weird SYN_with_data expected",
        &[(CAPTURE, "weird SYN_with_data", "1")],
    ),
    says(
        "zeek/tcp/payload-synack.pcap",
        "signature matches payload in SYN-ACK",
        &[(CAPTURE, "rule synack_with_data", "2")],
    ),
    says(
        "zeek/tcp/tcp-fast-open.pcap",
        "signature match on conn 10.99.99.1:55534 (SYN data)",
        &[(CAPTURE, "rule fast_open_data", "8"), (CAPTURE, "connections", "2")],
    ),
    says(
        "zeek/tcp/window-scale-range.pcap",
        "weird TCP_scale_range addl 255 on 10.0.0.1:40000->10.0.0.2:80",
        &[
            (CAPTURE, "weird TCP_scale_range", "1"),
            ("", "originator", "10.0.0.1:40000"),
            ("", "responder", "10.0.0.2:80"),
        ],
    ),
    says(
        "zeek/tcp/options.pcap",
        "orig: mss 1460 sackOK ts 4294923497/0 ws 6; resp: mss 1380 sackOK ts 419445911/4294923497",
        &[
            ("", "orig_options", "mss=1460 sack timestamps wscale=6"),
            // The words leave out the scale; the baseline has it.
            ("", "resp_options", "mss=1380 sack timestamps wscale=7"),
        ],
    ),
    says(
        "zeek/tcp/option-27.pcap",
        "kinds 1,27(len8),28(len4),0",
        &[(CAPTURE, "rule bad_option", "-"), ("", "resp_options", "")],
    ),
    says(
        "zeek/tcp/qi_internet_SYNACK_curl_jsonip.pcap",
        "rexmit_inconsistency on 178.200.100.200:39976->96.126.98.124:80 flags AP",
        &[
            ("", "originator", "178.200.100.200:39976"),
            ("", "responder", "96.126.98.124:80"),
            (CAPTURE, "different data", "reported"),
        ],
    ),
    says(
        "zeek/tcp/timeout-with-pings.pcap",
        "Zeek: connection timeout suppressed 3 times; tracker: one ESTABLISHED flow, 3 TCP packets, idle",
        &[
            (CAPTURE, "connections", "1"),
            (CAPTURE, "fate tracked", "3"),
            ("", "states", "ESTABLISHED/ESTABLISHED"),
        ],
    ),
    says(
        "zeek/tcp/truncated-header.pcap",
        "22 new-packet events for 128.3.26.249:25<->201.186.157.67:60827, none lost",
        &[(CAPTURE, "fate tracked", "22"), (CAPTURE, "connections", "1")],
    ),
    says(
        "zeek/modbus/fuzz-72.pcap",
        "no conn baseline; parser must survive; every flag-anomaly class present once",
        &[(CAPTURE, "survives", "yes")],
    ),
    says(
        "zeek/rotation.pcap",
        "20 x conn, log rotation tests print one line per conn; by Zeek's documented states S0/S",
        &[
            (CAPTURE, "connections", "20"),
            (CAPTURE, "each conn_state", "S0"),
            (CAPTURE, "each history", "S"),
        ],
    ),
    says(
        "zeek/ipv4/fragmented-syn.pcap",
        "exactly one connection_SYN_packet event 192.168.1.100:12345->10.0.0.5:80 seq 1000",
        &[(CAPTURE, "connections", "1")],
    ),
    // Data of reassembled fragments.
    says("zeek/ipv4/fragmented-4.pcap", "see Baseline/core.reassembly/output", &[]),
    verified(
        "zeek/chksums/ip4-tcp-bad-chksum.pcap",
        "weird bad_TCP_checksum 127.0.0.1:30000->127.0.0.1:80",
        &[(CAPTURE, "counted bad_checksum", "1"), (CAPTURE, "fate bad_checksum", "1")],
    ),
    verified(
        "zeek/chksums/ip4-tcp-good-chksum.pcap",
        "no weird",
        &[(CAPTURE, "counted bad_checksum", "0"), (CAPTURE, "fate tracked", "1")],
    ),
    verified(
        "zeek/chksums/ip6-tcp-bad-chksum.pcap",
        "weird bad_TCP_checksum",
        &[(CAPTURE, "counted bad_checksum", "1"), (CAPTURE, "fate bad_checksum", "1")],
    ),
    says(
        "zeek/http-vlan-0.pcap",
        "one normal HTTP connection (SF)",
        &[("", "conn_state", "SF"), (CAPTURE, "violations", "0")],
    ),
    says(
        "zeek/vlan-qinqinq.pcap",
        "one HTTP connection parsed through 3 tags",
        &[(CAPTURE, "connections", "1")],
    ),
    says(
        "zeek/communityid/tcp.pcap",
        "NO TCP baseline in the repo; textbook SF (server FIN first)",
        &[("", "conn_state", "SF"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/firewall/tcp-session-midstream-policy/input.pcap",
        "3 drops: 1 'stream midstream' + 2 'exception policy flow drop'",
        &[("", "midstream", "true"), (CAPTURE, "counted midstream", "1")],
    ),
    says(
        "suricata-verify/firewall/tcp-session-equivalence/input.pcap",
        "flow.state closed; pkts 6/4; 3 packets not_established, 7 established",
        &[
            ("", "flow.state", "closed"),
            ("", "orig_pkts", "6"),
            ("", "resp_pkts", "4"),
            ("", "segments before it was open", "3"),
        ],
    ),
    says(
        "suricata-verify/firewall/tcp-session-syn-flood-drop-precedence/input.pcap",
        "with threshold 100: 100 flows accepted / 100 blocked; flow.state new, all half-open",
        &[(CAPTURE, "connections", "200"), (CAPTURE, "each flow.state", "new")],
    ),
    says(
        "suricata-verify/bug-6733-syn-packet-flow-output/input.pcap",
        "flow.state new tcp.state syn_sent tcp_flags 02 pkts 1/0 66 bytes",
        &[
            ("", "flow.state", "new"),
            ("", "states", "SYN_SENT/LISTEN"),
            ("", "orig_flags", "02"),
            ("", "orig_pkts", "1"),
            ("", "resp_pkts", "0"),
            // 66 with the Ethernet header.
            ("", "orig_ip_bytes", "52"),
        ],
    ),
    says(
        "suricata-verify/bug-3286-03-windows-evasion/with_evasion_windows.pcap",
        "alerts sid 2210044 at packets 2 and 3; HTTP 200 completed",
        &[(CAPTURE, "sid 2210044", "2 3"), ("", "flow.state", "established")],
    ),
    says(
        "suricata-verify/bug-3286-01-no-evasion/without_evasion.pcap",
        "no stream alert; HTTP 200 14 bytes, CLOSED",
        &[(CAPTURE, "violations", "0"), ("", "flow.state", "closed")],
    ),
    says(
        "suricata-verify/bug-6244-tcp-rst-with-data/tcp-rst-with-data.pcap",
        "rule on RST payload (sid 1) fires once; data not part of the stream (sid 2: 0)",
        &[(CAPTURE, "rule rst_with_data", "8"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/tcp-rst-unacked-stream-01-raw/input.pcap",
        "no reassembly gap (stats.tcp.reassembly_gap 0), no sid 2210048",
        &[(CAPTURE, "sid 2210048", "-"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/tcp-fastopen-06/tfo-s1.pcap",
        "flow tcp.state closed",
        &[("", "flow.state", "closed"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/tcp-fastopen-08/tcp_fastopen_segmentation-s1.pcap",
        "flow tcp.state closed",
        &[("", "flow.state", "closed"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/bug-4702-01/input.pcap",
        "flow tcp.state closed, HTTP parsed",
        &[("", "flow.state", "closed"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/bug-4702-02/tsecr.pcap",
        "flow tcp.state closed",
        &[("", "flow.state", "closed"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/stream-async/http/stream-async-6063-cli-01/http-request-header-async-cli.pcap",
        "async-oneside=true: flow.state established; async-oneside=false (cli-02): flow.state new tcp.state syn_sent; pkts 5/0 flags 1b",
        &[
            ("", "flow.state", "established"),
            ("", "orig_pkts", "5"),
            ("", "resp_pkts", "0"),
            ("", "orig_flags", "1b"),
        ],
    ),
    says(
        "suricata-verify/stream-async/http/stream-async-6063-srv-01/http-request-header-async-srv.pcap",
        "flow.state established pkts 0/5 flags_tc 1b; exception stream_midstream",
        &[
            ("", "flow.state", "established"),
            ("", "orig_pkts", "0"),
            ("", "resp_pkts", "5"),
            ("", "resp_flags", "1b"),
        ],
    ),
    says(
        "suricata-verify/bug-2491-02/simple_http_download.onesided.nosyn.pcap",
        "flow.state established pkts 11/0 flags 19",
        &[
            ("", "flow.state", "established"),
            ("", "orig_pkts", "11"),
            ("", "resp_pkts", "0"),
            ("", "orig_flags", "19"),
        ],
    ),
    says(
        "suricata-verify/alert-no-3whs-established/no-3whs.pcap",
        "0 alerts for flow:to_server,established rule",
        // Assumed to be open; this mark distinguishes it from one that was seen to open.
        &[("", "midstream", "true"), ("", "flow.state", "closed")],
    ),
    says(
        "suricata-verify/alert-testmyids-midstream5/input.pcap",
        "1 flow, direction fixed so that dest_port 80",
        &[(CAPTURE, "connections", "1"), ("", "responder", "82.165.177.154:80")],
    ),
    says(
        "suricata-verify/exception-policy-midstream-06/input-http-ACK.pcap",
        "see test: midstream drop-flow",
        &[("", "midstream", "true"), (CAPTURE, "counted midstream", "1")],
    ),
    says(
        "suricata-verify/bug-2430/backwards.pcap",
        "HTTP CONNECT + TLS parsed in the right direction (src 10.120.128.236:53909)",
        &[("", "originator", "10.120.128.236:53909"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/issue-3341-tcphdr-01/urgent11_cve_2019_12260.pcap",
        "rule sid 1 on tcp.hdr fires once (SYN,FIN,URG packet)",
        &[(CAPTURE, "rule syn_fin", "6"), (CAPTURE, "flags 6", "fin,syn,urg")],
    ),
    says(
        "suricata-verify/bug-4571-05/ipv4.pcap",
        "flow created only because midstream=true; payload rule fires",
        &[(CAPTURE, "connections", "1")],
    ),
    says(
        "suricata-verify/bug-814/input.pcap",
        "flow established pkts 4/3 bytes 461/234",
        &[
            ("", "flow.state", "established"),
            ("", "orig_pkts", "4"),
            ("", "resp_pkts", "3"),
            // 461 and 234 with Ethernet headers and VLAN tags, 18 bytes a packet.
            ("", "orig_ip_bytes", "389"),
            ("", "resp_ip_bytes", "180"),
        ],
    ),
    says(
        "suricata-verify/bug-7264-tcp-3whs-ack-data-tls-01/input.pcap",
        "established: sid 188 once (SNI), sid 6001 never",
        &[("", "segments before it was open", "3"), (CAPTURE, "violations", "0")],
    ),
    says(
        "suricata-verify/transform-base64-7296/input.pcap",
        "no crash, 0 alerts",
        &[(CAPTURE, "survives", "yes")],
    ),
    says(
        "suricata-verify/bug-5881-01/input.pcap",
        "0 alerts with the full stream-events.rules in IPS mode",
        &[(CAPTURE, "violations", "0")],
    ),
    // The sessions themselves are claims of their own.
    says(
        "arkime/tcpseq_synthetic.pcap",
        "tags out-of-order-src on 40002 and 40005; tcpflags counts per session",
        &[],
    ),
    says(
        "arkime/tcp-reassembly-synthetic.pcap",
        "12 sessions, 40008 split in two sessions, tags out-of-order-dst (40004), acked-unseen-segment-src (40005)",
        &[
            (CAPTURE, "connections", "12"),
            ("10.180.156.1:40008 10.180.156.2:80", "connections", "2"),
        ],
    ),
    says(
        "arkime/no-syn-ack.pcap",
        "2 sessions tagged no-syn-ack; syn 1 syn-ack 0",
        &[(CAPTURE, "connections", "2"), (CAPTURE, "each tags", "no-syn-ack")],
    ),
    says(
        "arkime/http-syn-ack.pcap",
        "1 session src 10.0.0.32 dst 10.0.0.33:80 syn 0 syn-ack 1 ack 9 psh 3",
        &[("", "originator", "10.0.0.32:10882"), ("", "responder", "10.0.0.33:80")],
    ),
    says("arkime/twovlan.pcap", "see .test", &[(CAPTURE, "connections", "1")]),
    says(
        "arkime/v6-http.pcap",
        "see .test (tcpflags, packets per direction)",
        &[(CAPTURE, "connections", "1")],
    ),
    says(
        "arkime/wireshark-retrans.pcap",
        "see .test (tcpflags, packets per direction)",
        &[(CAPTURE, "connections", "1")],
    ),
    says(
        "tcpdump/tcp_rst_data.pcap",
        "Flags [R.] length 58",
        &[(CAPTURE, "counted rst_no_session", "1"), (CAPTURE, "fate no_flow", "1")],
    ),
    says(
        "tcpdump/tcp_rst_diag_payload.pcap",
        "Flags [R.] seq 1:9",
        &[(CAPTURE, "counted rst_no_session", "1"), (CAPTURE, "fate no_flow", "1")],
    ),
    says(
        "tcpdump/tcp_eight_lowest_weight_flags_set.pcap",
        "Flags [FSRP.UEW]",
        &[(CAPTURE, "flags 1", "fin,syn,rst,psh,ack,urg,ece,cwr")],
    ),
    says(
        "tcpdump/tfo-5c1fa7f9ae91.pcap",
        "3 SYN, 2 SYN-ACK, 1 SYN with data, 5 FIN (counts by tshark; no .out under this name)",
        &[
            (CAPTURE, "all tcpflags.syn", "3"),
            (CAPTURE, "all tcpflags.syn-ack", "2"),
            (CAPTURE, "all tcpflags.fin", "5"),
            (CAPTURE, "rule fast_open_data", "13"),
            (CAPTURE, "connections", "3"),
        ],
    ),
    says(
        "tcpdump/mptcp-tcprst.pcap",
        "see .out",
        &[(CAPTURE, "counted rst_no_session", "2"), (CAPTURE, "fate no_flow", "2")],
    ),
    says(
        "tcpdump/mptcp-fclose.pcap",
        "see .out",
        &[("", "flow.state", "closed"), (CAPTURE, "violations", "0")],
    ),
    says(
        "quantuminsert/pcaps/qi_local_SYNACK_curl_jsonip.pcap",
        "injected segment + later different data at the same sequence numbers (README)",
        &[(CAPTURE, "different data", "reported")],
    ),
    says(
        "quantuminsert/pcaps/qi_local_GET_slashdot_redirect.pcap",
        "injected segment + later different data at the same sequence numbers (README)",
        &[(CAPTURE, "different data", "reported")],
    ),
    says(
        "suricata-verify/util-action-tests/util-action-04/input.pcap",
        "suricata: sid 1 x2, sid 2 x0, sid 3 x2, flow alerted; no stream-event check. Two SYNs crossing = simultaneous open/SYN_SENT2",
        &[(CAPTURE, "rule simultaneous_open", "2"), ("", "states", "SYN_SENT/SYN_SENT")],
    ),
];

/// Every statement of `truth` as claims.
///
/// # Errors
///
/// Where one is not in the table, or one of the table's is said no more.
pub(super) fn claims(truth: &[Value], claims: &mut Vec<Claim>) -> Result<()> {
    let mut said = 0;
    for row in truth {
        let Some(words) = row["ground_truth"].as_str() else { continue };
        let path = row["path"].as_str().context("a statement without a capture")?;
        let known = STATEMENTS.iter().find(|known| known.path == path && known.said == words);
        let known = known.with_context(|| format!("{path}: nobody knows what `{words}` means"))?;
        said += 1;
        for (subject, field, theirs) in known.means {
            claims.push(Claim {
                path: path.to_owned(),
                verify: known.verify,
                subject: subject_of(subject)?,
                field: (*field).to_owned(),
                theirs: (*theirs).to_owned(),
                source: Source::Statement,
            });
        }
    }
    ensure!(said == STATEMENTS.len(), "{said} statements of {} are said", STATEMENTS.len());
    Ok(())
}

fn subject_of(text: &str) -> Result<Subject> {
    Ok(match text {
        "" => Subject::Only,
        CAPTURE => Subject::Capture,
        ends => {
            let (originator, responder) = ends.split_once(' ').context("two ends")?;
            Subject::Connection {
                originator: originator.to_owned(),
                responder: responder.to_owned(),
                nth: 0,
            }
        }
    })
}
