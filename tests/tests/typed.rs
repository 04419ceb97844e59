//! What users of `ss`, `tcpdump`, `conntrack` and `htop` type, and what comes: flows, or a hint that names the right word.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    agent::{Agent, run_tracker},
    lab::{Bench, INTERFACE, address},
    pcap::{Form, Order, Packet, pcap},
    segment::{
        Segment,
        flag::{ACK, PSH, SYN},
    },
};

/// What must come.
enum Comes {
    /// Flows with these source ports, by those in order.
    Flows(&'static [u16]),
    /// Anything, without an error.
    Success,
    /// Exit code 2, and this on stderr.
    Hint(&'static str),
}

use Comes::{Flows, Hint, Success};

/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// Three connections over IPv4, to ports 80, 80 and 443, of which the last waits for its SYN,ACK, and one over IPv6 to port 22.
const ALL: &[u16] = &[1001, 1002, 1003, 1004];

/// Asked of an agent with these flows. `NIC` is its interface, and `CAP` a capture.
const LINES: &[(&str, Comes)] = &[
    // ss
    ("flows -tn", Flows(ALL)),
    ("flows -4", Flows(&[1001, 1002, 1003])),
    ("flows -6", Flows(&[1004])),
    ("flows -4 -6 -n -t", Flows(ALL)),
    ("flows state established", Flows(&[1001, 1002, 1004])),
    ("flows state ESTAB", Flows(&[1001, 1002, 1004])),
    ("flows -n state syn-sent", Flows(&[1003])),
    ("flows state connected", Flows(ALL)),
    ("flows state syn-sent state established", Flows(ALL)),
    ("flows exclude established", Flows(&[1003])),
    ("flows dport = :80", Flows(&[1001, 1002])),
    ("flows dport eq :http", Flows(&[1001, 1002])),
    ("flows 'dport = :ssh or sport = :ssh'", Flows(&[1004])),
    ("flows '( dport = :443 or dport = :22 )'", Flows(&[1003, 1004])),
    ("flows '(dport=:443||dport=:22)&&!ip6'", Flows(&[1003])),
    ("flows sport gt :1002", Flows(&[1003, 1004])),
    ("flows 'sport >= 1003'", Flows(&[1003, 1004])),
    ("flows sport lt :1002 or dport ge :443", Flows(&[1001, 1003])),
    ("flows dst 10.9.0.1:80", Flows(&[1001, 1002])),
    ("flows dst :443", Flows(&[1003])),
    ("flows src 10.9.0.2", Flows(&[1001, 1002, 1003])),
    ("flows dev NIC", Flows(ALL)),
    ("flows dev NICX", Hint("did you mean `NIC`?")),
    ("flows dport 80 dport 443", Hint("did you mean `dport 80 or dport 443`?")),
    ("flows -tan", Hint("every flow is shown")),
    ("flows -l", Hint("`ss -ltn` lists listeners")),
    ("flows -p", Flows(ALL)),
    ("flows -tnp", Flows(ALL)),
    ("events -p", Hint("`tracker flows -p`")),
    ("flows -u", Hint("only TCP is tracked")),
    ("flows -o state established", Hint("`-o` is the form of output")),
    ("flows established", Hint("did you mean `state established`?")),
    ("flows state establised", Hint("did you mean `ESTABLISHED`?")),
    ("flows -K dport 443", Hint("`tracker delete`")),
    ("ss -tn", Hint("`tracker flows`")),
    // tcpdump
    ("flows port 80", Flows(&[1001, 1002])),
    ("flows tcp port 80", Flows(&[1001, 1002])),
    ("flows tcp dst port 443 and src host 10.9.0.2", Flows(&[1003])),
    ("flows host 10.9.0.2", Flows(&[1001, 1002, 1003])),
    ("flows net 10.9", Flows(&[1001, 1002, 1003])),
    ("flows net 10.9.0.0 mask 255.255.0.0", Flows(&[1001, 1002, 1003])),
    ("flows 'port 80 or 443'", Flows(&[1001, 1002, 1003])),
    ("flows 'not port 22 and not port 443'", Flows(&[1001, 1002])),
    ("flows '! port 80'", Flows(&[1003, 1004])),
    ("flows portrange 22-80", Flows(&[1001, 1002, 1004])),
    ("flows src or dst port 1002", Flows(&[1002])),
    ("flows ip6", Flows(&[1004])),
    (
        "flows 'port 80 or port 443 and host 10.9.0.2'",
        Hint("`( port 80 or port 443 ) and addr 10.9.0.2/32`"),
    ),
    ("flows host example.com", Hint("names are not looked up")),
    ("flows 10.9.0.2", Hint("did you mean `host 10.9.0.2`?")),
    ("flows udp port 53", Hint("`udp`: only TCP is tracked")),
    ("flows 'tcp[tcpflags] & tcp-syn != 0'", Hint("`--tcp-flags syn,!ack`")),
    ("flows greater 100", Hint("`min-bytes 10k`")),
    ("flows port 80 443", Hint("did you mean `port 80,443`?")),
    ("trace -i NIC -n -tttt port 80 --last 0", Success),
    ("trace -i NICX port 80 --last 0", Success),
    ("trace -n", Hint("`tracker trace --port 443`")),
    ("trace -w out.pcap", Hint("`tcpdump -w FILE`")),
    ("trace port 80 -X", Hint("`tcpdump -X`")),
    ("events -c 5", Hint("`--last N`")),
    ("events port 80 and host 10.9.0.2 --last 0", Success),
    ("events -o json", Hint("`-o jsonl`")),
    ("replay CAP port 80", Flows(&[1001])),
    ("replay -n -r CAP not port 80", Flows(&[1002])),
    ("replay CAP CAP -r", Success),
    ("replay CAP 'dst port 443 or sport gt :1001'", Flows(&[1002])),
    ("replay CAP prot 80", Hint("`prot` is no filter; did you mean `port`?")),
    ("replay port 80", Hint("which capture?")),
    ("dump.pcap", Hint("`tracker replay dump.pcap`")),
    ("-i eth0", Hint("`tracker trace --interface NAME`")),
    // conntrack
    ("-L", Hint("`tracker flows`")),
    ("-E", Hint("`tracker events`")),
    ("-D", Hint("`tracker delete`")),
    ("flows -L", Hint("`tracker flows` lists connections")),
    ("flows -s 10.9.0.2", Hint("`--src 10.9.0.2`")),
    ("flows --orig-src 10.9.0.2 --dport 80", Flows(&[1001, 1002])),
    ("flows --state ESTABLISHED --dport 22,80", Flows(&[1001, 1002, 1004])),
    ("delete -s 10.9.0.2", Hint("`--src ADDRESS`")),
    ("delete port htpp", Hint("did you mean `http`?")),
    ("list", Hint("`tracker flows`")),
    // htop
    ("top -d 5", Hint("`--every SECONDS`")),
    ("top --sort cpu", Hint("packet-rate")),
    ("htop", Hint("`tracker top`")),
    // What they would guess.
    ("flows --port 80,443", Flows(&[1001, 1002, 1003])),
    ("flows --port 22-100", Flows(&[1001, 1002, 1004])),
    ("flows --dport https", Flows(&[1003])),
    ("flows --port 80 --port 22", Flows(&[1001, 1002, 1004])),
    ("flows --host 10.9.0.2 --not", Flows(&[1004])),
    ("flows --process nginx", Flows(&[])),
    ("flows --older-than 1d", Flows(&[])),
    ("flows --since 1d", Flows(ALL)),
    ("flows --older-than 90", Hint("did you mean `90s`?")),
    ("flows --port htpps", Hint("did you mean `https`?")),
    ("flows --host 10.9.0.2:80", Hint("the port by itself")),
    ("flows -c 10", Hint("`--last 10`")),
    ("flow", Hint("'flows'")),
    ("stats --non-zero", Success),
    ("stats --port 80", Hint("`--port` is a flag of `tracker flows`")),
    ("stats -o json --watch", Hint("`-o jsonl`")),
    ("delete dport 443", Success),
    ("flows", Flows(&[1001, 1002, 1004])),
];

fn ends(port: u16) -> (SocketAddr, SocketAddr) {
    let (version, server) = match port {
        1003 => (0, 443),
        1004 => (1, 22),
        _ => (0, 80),
    };
    (SocketAddr::new(address::PEER[version], port), SocketAddr::new(address::HOST[version], server))
}

fn flows() -> Result<Bench> {
    let bench = Bench::new()?;
    for port in ALL {
        let (client, server) = ends(*port);
        bench.arrive(&Segment::new(client, server, SYN, 1, 0).frame())?;
        if *port != 1003 {
            bench.leave(&Segment::new(server, client, SYN | ACK, 500, 2).frame())?;
            bench.arrive(&Segment::new(client, server, PSH | ACK, 2, 501).data(100).frame())?;
        }
    }
    bench.settle()?;
    Ok(bench)
}

/// The words of a line, as a shell splits them.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate();
    let words = quoted.flat_map(|(place, part)| match place % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

fn check(agent: &Agent, line: &str, comes: &Comes) -> Result<()> {
    let typed = words(line);
    let json = matches!(comes, Flows(_)).then_some(["-o", "jsonl"]);
    let mut arguments = vec!["--instance", agent.name()];
    arguments.extend(typed.iter().map(String::as_str).chain(json.into_iter().flatten()));
    let (stdout, stderr, status) = run_tracker(&arguments, None)?;
    match comes {
        Flows(ports) => {
            ensure!(status.success(), "{status}: {stderr}");
            let mut listed = Vec::new();
            for line in stdout.lines() {
                let value: serde_json::Value = serde_json::from_str(line)?;
                // A replay says more.
                let record = value.get("flow").unwrap_or(&value);
                let port = record["sport"].as_u64().and_then(|port| u16::try_from(port).ok());
                listed.extend(port.filter(|_| value.get("event").is_none()));
            }
            listed.sort_unstable();
            ensure!(listed == *ports, "{listed:?} came");
        }
        Success => ensure!(status.success(), "{status}: {stderr}"),
        Hint(said) => {
            let said = said.replace("NIC", INTERFACE);
            ensure!(status.code() == Some(2) && stdout.is_empty(), "{status}: {stdout}{stderr}");
            ensure!(stderr.contains(&said), "{said} is not said: {stderr}");
        }
    }
    Ok(())
}

#[test]
fn what_users_type() -> Result<()> {
    ensure!(LINES.len() >= 60);
    let bench = flows()?;
    let capture = std::env::temp_dir().join(format!("tracker-typed-{}.pcap", std::process::id()));
    let packets: Vec<_> = [(1001, 80), (1002, 443)]
        .into_iter()
        .map(|(sport, dport)| {
            let client = SocketAddr::new(address::PEER[0], sport);
            let server = SocketAddr::new(address::HOST[0], dport);
            Packet::new(
                u64::from(sport) * 1_000_000_000,
                Segment::new(client, server, SYN, 1, 0).frame(),
            )
        })
        .collect();
    std::fs::write(&capture, pcap(Order::Little, Form::Microseconds, ETHERNET, &packets))?;
    let name = capture.to_str().context("a name in UTF-8")?;
    let mut wrong = Vec::new();
    for (line, comes) in LINES {
        let typed = line.replace("NIC", INTERFACE).replace("CAP", name);
        if let Err(error) = check(&bench.agent, &typed, comes) {
            wrong.push(format!("tracker {line}\n    {error}"));
        }
    }
    std::fs::remove_file(&capture)?;
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), LINES.len(), wrong.join("\n"));
    Ok(())
}
