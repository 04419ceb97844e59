//! SYN cookies, as far as the agent decides: which listeners, whose cookies, what is offered, with which keys. The kernel
//! itself says what is right: its own SYN,ACKs, its sockets.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use socket2::Protocol;
use tracker_common::{
    config::InterfaceConfig,
    cookie::{Keys, LIFETIME_NS, period},
    protect::{Listener, Way, feature},
};
use tracker_tests::{
    agent::{Agent, clear_after_kill, eventually, pins, run_tracker},
    lab::{INTERFACE, Pair, address},
    namespace::Namespace,
    offer::{Offer, listen, offered},
    wire::Wire,
};
use tracker_user::{
    agent::protect::{
        keys::Keeper,
        sockets::{Listening, listening},
        synack_terms::{Share, SynAckTerms, Sysctls, mss},
    },
    kernel::{
        listeners::{KeyMap, ListenerMaps},
        load::{Sizes, load},
        object,
        private_bpffs::PrivateBpffs,
    },
};

/// What the agent would offer for the same listener.
fn our_offer(pair: &Pair, host: SocketAddr, mtu: u32) -> Result<Offer> {
    pair.host.enter(|| {
        let sysctls = Sysctls::read()?;
        let at = Listening::at(&listening()?, host);
        ensure!(at.buffer.is_some(), "nobody listens at {host}");
        let listener = SynAckTerms::new(&sysctls, at.buffer, Share::of_this_kernel()?)
            .listener(mss(host.ip(), mtu));
        Ok(Offer {
            mss: listener.mss,
            scale: listener.has(feature::WINDOW_SCALE).then_some(listener.scale),
            window: listener.first_window(listener.has(feature::TIMESTAMPS)),
            // No client here asks for it.
            ecn: false,
        })
    })
}

#[test]
fn what_is_offered_is_what_the_kernel_offers() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let wire = Wire::receiver(&pair.peer, INTERFACE)?;
    let mut port = 1000;
    let mut compared = std::collections::BTreeSet::new();
    for (sysctls, mtu) in [
        (&[][..], 1500),
        (&[("net/ipv4/tcp_timestamps", "0")], 1500),
        (&[("net/ipv4/tcp_window_scaling", "0")], 1500),
        (&[("net/ipv4/tcp_workaround_signed_windows", "1")], 1500),
        (&[("net/ipv4/tcp_rmem", "4096 65536 8388608")], 1500),
        (&[("net/ipv4/tcp_rmem", "4096 1048576 67108864")], 1500),
        (&[("net/ipv4/tcp_rmem", "4096 131072 33554432")], 9000),
        (&[], 1280),
    ] {
        for (name, value) in sysctls {
            pair.host.sysctl(name, value)?;
        }
        for namespace in [&pair.host, &pair.peer] {
            namespace.run("ip", &["link", "set", INTERFACE, "mtu", &mtu.to_string()])?;
        }
        for ip in address::HOST {
            for buffer in [None, Some(1), Some(5000), Some(33_000), Some(100_000), Some(1 << 20)] {
                port += 1;
                let at = SocketAddr::new(ip, port);
                let _listener = listen(&pair.host, at, Protocol::TCP, buffer)?;
                let kernels = offered(&pair.peer, &wire, None, at)?;
                let ours = our_offer(&pair, at, mtu)?;
                assert_eq!(ours, kernels, "{sysctls:?} mtu {mtu} {at} buffer {buffer:?}");
                compared.insert(kernels);
            }
        }
        for (name, _) in sysctls.iter().filter(|(name, _)| !name.ends_with("rmem")) {
            let default = if name.ends_with("signed_windows") { "0" } else { "1" };
            pair.host.sysctl(name, default)?;
        }
    }
    // They were different ones.
    assert!(compared.len() > 30, "{compared:?}");
    Ok(())
}

#[test]
fn features_are_what_the_sysctls_say() -> Result<()> {
    let namespace = Namespace::new()?;
    let features = || namespace.enter(|| Ok(Sysctls::read()?.features));
    let all = [
        ("tcp_window_scaling", feature::WINDOW_SCALE),
        ("tcp_sack", feature::SACK),
        ("tcp_timestamps", feature::TIMESTAMPS),
        ("tcp_ecn", feature::ECN),
    ];
    for (name, _) in all {
        namespace.sysctl(&format!("net/ipv4/{name}"), "0")?;
    }
    assert_eq!(features()?, 0);
    for (name, bit) in all {
        // Any other value means yes.
        for value in ["1", if name == "tcp_timestamps" || name == "tcp_ecn" { "2" } else { "1" }] {
            namespace.sysctl(&format!("net/ipv4/{name}"), value)?;
            assert_eq!(features()?, bit, "{name}={value}");
        }
        namespace.sysctl(&format!("net/ipv4/{name}"), "0")?;
    }
    Ok(())
}

#[test]
fn listeners_as_ss_shows_them() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let [v4, v6] = address::HOST;
    let sockets = [
        listen(&pair.host, (v4, 80).into(), Protocol::TCP, None)?,
        listen(&pair.host, (v6, 80).into(), Protocol::TCP, Some(20_000))?,
        listen(&pair.host, (v4, 8080).into(), Protocol::MPTCP, None)?,
        listen(&pair.host, (v6, 8080).into(), Protocol::MPTCP, Some(20_000))?,
    ];
    let found = pair.host.enter(|| Ok(listening()?))?;
    let shown = pair.host.run("ss", &["-H", "-t", "-l", "-n", "-m", "-i", "-e", "-O"])?;
    assert_eq!(shown.lines().count(), sockets.len(), "{shown}");
    for line in shown.lines() {
        let local: SocketAddr = line.split_whitespace().nth(3).context("an address")?.parse()?;
        let at = Listening::at(&found, local);
        let buffer: u32 = line
            .split_once(",rb")
            .and_then(|(_, rest)| rest.split_once(',')?.0.parse().ok())
            .with_context(|| line.to_owned())?;
        assert_eq!(at.buffer, Some(buffer), "{line}");
        assert_eq!(at.is_mptcp, line.contains("tcp-ulp-mptcp"), "{line}");
        assert_eq!(at.is_mptcp, local.port() == 8080);
        assert!(line.contains(&format!(" ino:{} ", at.inodes[0])) || at.is_mptcp, "{line}");
    }
    Ok(())
}

/// Runs an agent in `namespace` to its failure, and returns what it said.
fn refusal(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let name = format!("cookies-refused-{}", std::process::id());
    let arguments = [&["--instance", &name, "run"], arguments].concat();
    let (_, stderr, status) = run_tracker(&arguments, Some(namespace))?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("tracker: ")).count(), 1, "{stderr}");
    Ok(stderr)
}

#[test]
fn what_cannot_be_protected_is_refused() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let host = &pair.host;
    let on = ["--interface", INTERFACE, "--protect"];
    let with = |target| [&on[..], &[target]].concat();

    let said = refusal(host, &with("80@192.0.2.1"))?;
    assert!(said.contains("192.0.2.1 is no address of this host"), "{said}");
    assert!(said.contains("`ip address add 192.0.2.1 dev NAME`"), "{said}");
    let said = refusal(host, &with("80@10.9.0.2"))?;
    assert!(said.contains("10.9.0.2 is no address of this host"), "{said}");

    let said = refusal(host, &with("1-1025@10.9.0.1"))?;
    assert!(said.contains("1025 pairs") && said.contains("1024 can be"), "{said}");

    let said = refusal(host, &["--interface", "lo", "--protect", "80"])?;
    assert!(said.contains("loopback cannot be protected"), "{said}");

    let [v4, _] = address::HOST;
    let mptcp = listen(host, (v4, 8080).into(), Protocol::MPTCP, None)?;
    let said = refusal(host, &with("80,8080"))?;
    assert!(said.contains("10.9.0.1:8080 speaks MPTCP"), "{said}");
    assert!(said.contains("`sysctl -w net.ipv4.tcp_syncookies=2`"), "{said}");
    drop(mptcp);

    host.sysctl("net/ipv4/tcp_syncookies", "0")?;
    let said = refusal(host, &with("80"))?;
    assert!(said.contains("`sysctl -w net.ipv4.tcp_syncookies=1`"), "{said}");
    Ok(())
}

fn maps(agent: &Agent) -> Result<ListenerMaps> {
    ListenerMaps::from_pins(&pins(agent.name()))?.context("there are listeners")
}

/// Returns the kernel programs' entry for a listener.
fn told(agent: &Agent, at: (IpAddr, u16)) -> Result<Option<Listener>> {
    Ok(maps(agent)?.listeners()?.get(&at.into()).copied())
}

/// Writes a listener's state in the kernel programs' place: cookies until then, half-open connections, whether refused.
fn pretend(agent: &Agent, index: u32, until_ns: u64, half_open: u32, refused: u32) -> Result<()> {
    let map = MapData::from_pin(pins(agent.name()).join("LISTENER_STATES"))?;
    let mut states: Array<_, [u64; 4]> = Map::Array(map).try_into()?;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    // `is_listening` and a backlog that is long enough.
    Ok(states.set(index, [until_ns, 1, pair(1, half_open), pair(4096, refused)], 0)?)
}

#[test]
fn addresses_come_and_go() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let [v4, v6] = address::HOST;
    let new = IpAddr::from([10, 9, 0, 77]);
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--protect", "80,90-91"])?;
    // One that means something on another link only.
    pair.host.run("ip", &["link", "add", "other0", "type", "veth", "peer", "name", "other1"])?;
    pair.host.run("ip", &["addr", "add", "fe80::77/64", "dev", "other0", "nodad"])?;
    pair.host.run("ip", &["addr", "add", "fe80::78/64", "dev", INTERFACE, "nodad"])?;
    let link_local = |last| IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, last]);
    eventually("a new address of the link is protected", || {
        Ok(matches!(told(&agent, (link_local(0x78), 91)), Ok(Some(_))))
    })?;
    assert_eq!(told(&agent, (link_local(0x77), 91))?, None);
    eventually("every address with every port is protected", || {
        Ok([80, 90, 91].iter().all(|port| {
            [v4, v6].iter().all(|ip| matches!(told(&agent, (*ip, *port)), Ok(Some(_))))
        }))
    })?;
    assert_eq!(told(&agent, ([127, 0, 0, 1].into(), 80))?, None);
    let indexes = |agent: &Agent| -> Result<Vec<_>> {
        let listeners = maps(agent)?.listeners()?;
        let mut indexes: Vec<_> = listeners.values().map(|listener| listener.index).collect();
        indexes.sort_unstable();
        let all = indexes.len();
        indexes.dedup();
        assert_eq!(indexes.len(), all, "no two share counters");
        Ok(indexes)
    };
    let first = indexes(&agent)?;
    let kept = told(&agent, (v6, 91))?;

    pair.host.run("ip", &["addr", "add", "10.9.0.77/24", "dev", INTERFACE])?;
    eventually("a new address is protected", || Ok(told(&agent, (new, 80))?.is_some()))?;
    pair.host.run("ip", &["addr", "del", "10.9.0.77/24", "dev", INTERFACE])?;
    eventually("an address that has gone is not", || {
        Ok([80, 90, 91].iter().all(|port| matches!(told(&agent, (new, *port)), Ok(None))))
    })?;
    assert_eq!(indexes(&agent)?, first);
    assert_eq!(told(&agent, (v6, 91))?, kept);

    let stats = agent.stats()?;
    let shown = stats["cookies"]["listeners"].as_array().context("listeners")?;
    assert_eq!(shown.len(), first.len());
    assert!(
        shown.iter().all(|listener| listener["mode"] == "auto" && listener["way"] == "handover")
    );
    assert_eq!(stats["cookies"]["total"]["sent"], 0);
    Ok(())
}

#[test]
fn an_agent_that_protects_nothing_says_nothing_of_it() -> Result<()> {
    let pair = Pair::with_addresses()?;
    for options in [&[][..], &["--protect", "80", "--syn-cookies", "off"]] {
        let agent = Agent::start(&pair.host, &[&["--interface", INTERFACE], options].concat())?;
        let stats = agent.stats()?;
        assert!(stats["cookies"].is_null() && stats["interfaces"][0]["handover"].is_null());
    }
    Ok(())
}

#[test]
fn what_the_kernel_programs_are_told() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let [v4, v6] = address::HOST;
    let _small = listen(&pair.host, (v4, 80).into(), Protocol::TCP, Some(20_000))?;
    pair.host.run("ip", &["link", "set", INTERFACE, "mtu", "1400"])?;
    let options = [
        "--interface",
        INTERFACE,
        "--protect",
        "80",
        "--syn-cookies-at",
        "7",
        "--syn-cookies-hold",
        "11",
    ];
    let agent = Agent::start(&pair.host, &options)?;
    agent.wait_for_log("listeners are protected")?;
    for at in [(v4, 80), (v6, 80)] {
        let listener = told(&agent, at)?.context("protected")?;
        assert_eq!((listener.threshold, listener.hold_ns), (7, 11_000_000_000));
    }
    let listener = told(&agent, (v4, 80))?.context("protected")?;
    let _listener6 = listen(&pair.host, (v6, 80).into(), Protocol::TCP, None)?;
    for (at, told) in [((v4, 80), listener), ((v6, 80), told(&agent, (v6, 80))?.context("it")?)] {
        let Offer { mss, scale, window, .. } = our_offer(&pair, at.into(), 1400)?;
        assert_eq!((told.mss, Some(told.scale), told.window), (mss, scale, window), "{at:?}");
    }
    // Settings that change while it runs.
    pair.host.sysctl("net/ipv4/tcp_sack", "0")?;
    eventually("SACK is not offered any more", || {
        Ok(!told(&agent, (v4, 80))?.context("protected")?.has(feature::SACK))
    })?;
    pair.host.run("ip", &["link", "set", INTERFACE, "mtu", "1300"])?;
    eventually("segments are smaller", || Ok(told(&agent, (v4, 80))?.context("it")?.mss == 1260))?;
    Ok(())
}

#[test]
fn whose_cookies_a_listener_gets() -> Result<()> {
    let pair = Pair::with_addresses()?;
    pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    let at = (address::HOST[0], 80);
    let way = |agent: &Agent, way: Way| -> Result<bool> {
        Ok(told(agent, at)?.is_some_and(|listener| listener.way == way as u8))
    };
    let mptcp = listen(&pair.host, at.into(), Protocol::MPTCP, None)?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--protect", "80"])?;
    let said = agent.wait_for_log("10.9.0.1:80")?;
    assert!(said.contains("kernel's own cookies") && said.contains("speaks MPTCP"), "{said}");
    eventually("it gets the kernel's", || way(&agent, Way::Kernel))?;

    // Started again without MPTCP.
    drop(mptcp);
    let plain = listen(&pair.host, at.into(), Protocol::TCP, None)?;
    eventually("it gets ours", || way(&agent, Way::Handover))?;
    let said = agent.wait_for_log("10.9.0.1:80")?;
    assert!(said.contains("handed the connections"), "{said}");

    let index = told(&agent, at)?.context("protected")?.index;
    // Again and again: the agent forgets it where it finds another listener, and may have looked while there was none.
    eventually("it gets the kernel's where handing over is refused", || {
        pretend(&agent, index, 0, 0, 1)?;
        way(&agent, Way::Kernel)
    })?;
    agent.wait_for_log("refused to take a connection over")?;
    drop(plain);
    let _again = listen(&pair.host, at.into(), Protocol::TCP, None)?;
    eventually("another listener is tried again", || way(&agent, Way::Handover))?;

    // Where the kernel would not send cookies of its own, nothing is pretended.
    pair.host.sysctl("net/ipv4/tcp_syncookies", "1")?;
    let mode = || -> Result<String> {
        let stats = agent.stats()?;
        let listeners = stats["cookies"]["listeners"].as_array().context("listeners")?.clone();
        let shown = listeners.iter().find(|listener| listener["listener"] == "10.9.0.1:80");
        Ok(shown.context("it is shown")?["mode"].as_str().context("a mode")?.to_owned())
    };
    eventually("it is left alone", || {
        pretend(&agent, index, 0, 0, 1)?;
        Ok(mode()? == "off")
    })?;
    let said = agent.wait_for_log("not protected")?;
    assert!(said.contains("`sysctl -w net.ipv4.tcp_syncookies=2`"), "{said}");
    pair.host.sysctl("net/ipv4/tcp_syncookies", "2")?;
    agent.wait_for_log("protected again")?;
    assert_eq!(mode()?, "auto");
    Ok(())
}

#[test]
fn cookies_begin_and_end() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let at = (address::HOST[0], 80);
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--protect", "80@10.9.0.1"])?;
    agent.wait_for_log("listeners are protected")?;
    let events = agent.events()?;
    let index = told(&agent, at)?.context("protected")?.index;
    let on_now = || Ok::<_, anyhow::Error>(agent.stats()?["cookies"]["listeners"][0]["on"].clone());
    assert_eq!(on_now()?, false);

    pretend(&agent, index, u64::MAX, 200, 0)?;
    let on = events.wait_for("COOKIE")?;
    assert_eq!(on["listener"], "10.9.0.1:80");
    assert_eq!(on["mode"], "on");
    assert_eq!(on["reason"], "half_open");
    assert_eq!((on["half_open"].as_u64(), on["threshold"].as_u64()), (Some(200), Some(128)));
    assert_eq!(on["way"], "handover");
    assert_eq!(on_now()?, true);

    let until = on["time_ns"].as_u64().context("a time")? + 1;
    pretend(&agent, index, until, 3, 0)?;
    let off = events.wait_for("COOKIE")?;
    assert_eq!((&off["listener"], &off["mode"]), (&on["listener"], &"off".into()));
    assert_eq!((off["time_ns"].as_u64(), off["half_open"].as_u64()), (Some(until), Some(3)));
    assert!(off["reason"].is_null());
    assert_eq!(on_now()?, false);
    Ok(())
}

#[test]
fn always_is_told_at_the_start() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let options = ["--protect", "80@10.9.0.1", "--syn-cookies", "always", "--events", "cookie"];
    let agent = Agent::start(&pair.host, &[&["--interface", INTERFACE], &options[..]].concat())?;
    let said = agent.wait_for_log("[COOKIE]")?;
    assert!(said.contains("[COOKIE] on listener=10.9.0.1:80 reason=always"), "{said}");
    let stats = agent.stats()?;
    assert_eq!(stats["cookies"]["listeners"][0]["mode"], "always");
    assert_eq!(stats["cookies"]["listeners"][0]["on"], true);
    Ok(())
}

#[test]
fn keys_are_kept_and_rotated_and_nobodys_business() -> Result<()> {
    const SIZES: Sizes = Sizes { max_flows: 16, max_half_open: 16, ring_bytes: 1 << 16 };
    const ROTATION_NS: u64 = 600_000_000_000;
    const START_NS: u64 = 5_000_000_000_000;
    let bpffs = PrivateBpffs::new()?;
    let pins = bpffs.path();
    let _ebpf = load(object::PLAIN, &pins, &SIZES, InterfaceConfig::default())?;
    std::fs::set_permissions(pins.join("KEYS"), std::fs::Permissions::from_mode(0o644))?;
    let keeper = |now_ns| -> Result<Keeper> {
        Ok(Keeper::new(KeyMap::from_pins(&pins)?, ROTATION_NS, now_ns)?)
    };
    let keys = || -> Result<Keys> { Ok(zerocopy::transmute!(**KeyMap::from_pins(&pins)?.get()?)) };

    drop(keeper(START_NS)?);
    assert_eq!(std::fs::metadata(pins.join("KEYS"))?.permissions().mode() & 0o777, 0o600);
    let first = keys()?;
    assert_eq!(first.of(period(START_NS) - 1), None);
    let key = *first.of(period(START_NS)).context("a key from the start")?;
    assert!(key[0] != 0 && key[1] != 0);

    // The next agent goes on with it, and so do the cookies that are on their way.
    let mut next = keeper(START_NS + 1)?;
    assert_eq!(keys()?, first);
    assert!(!next.rotate(START_NS + ROTATION_NS / 2)?);
    assert_eq!(keys()?, first);

    let rotated_ns = START_NS + 2 * ROTATION_NS;
    assert!(next.rotate(rotated_ns)?);
    assert!(!next.rotate(rotated_ns)?);
    let second = keys()?;
    let now = period(rotated_ns);
    assert_eq!(second.of(now), Some(&key), "until the period ends");
    let newer = *second.of(now + 1).context("a key for the next period")?;
    assert_ne!(newer, key);

    let later_ns = rotated_ns + ROTATION_NS + LIFETIME_NS;
    assert!(next.rotate(later_ns)?);
    let third = keys()?;
    assert_eq!(third.of(now), None, "the first key is gone");
    assert_eq!(third.of(period(later_ns)), Some(&newer));
    Ok(())
}

#[test]
fn connections_are_handed_over_at_ingress() -> Result<()> {
    let pair = Pair::with_addresses()?;
    for (choice, hook, filters) in [("tcx", "tcx", 0), ("clsact", "clsact", 1)] {
        let options = ["--interface", INTERFACE, "--protect", "80", "--egress", choice];
        let agent = Agent::start(&pair.host, &options)?;
        let interface = agent.stats()?["interfaces"][0].clone();
        assert_eq!((&interface["handover"], &interface["egress"]), (&hook.into(), &hook.into()));
        let shown = || pair.host.run("tc", &["filter", "show", "dev", INTERFACE, "ingress"]);
        assert_eq!(shown()?.matches("direct-action").count(), filters);
        assert!(agent.stop(nix::sys::signal::Signal::SIGTERM)?.success());
        assert_eq!(shown().map_or(0, |shown| shown.matches("direct-action").count()), 0);
    }
    Ok(())
}

#[test]
fn a_filter_that_a_killed_agent_left_is_removed() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let shown = || pair.host.run("tc", &["filter", "show", "dev", INTERFACE, "ingress"]);
    let count = || Ok::<_, anyhow::Error>(shown()?.matches("direct-action").count());
    let options = ["--interface", INTERFACE, "--egress", "clsact"];
    let killed = Agent::start(&pair.host, &[&options[..], &["--protect", "80"]].concat())?;
    let name = killed.name().to_owned();
    killed.stop(nix::sys::signal::Signal::SIGKILL)?;
    clear_after_kill(&name)?;
    assert_eq!(count()?, 1);
    let next = Agent::start(&pair.host, &options)?;
    assert_eq!(count()?, 0);
    drop(next);
    Ok(())
}
