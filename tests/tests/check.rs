//! `tracker check` says beforehand what `tracker run` meets.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, run_tracker, tracker},
    lab::{INTERFACE, Pair},
    namespace::Namespace,
};

/// What a check with these arguments finds, and its exit code.
fn findings(namespace: &Namespace, arguments: &[&str]) -> Result<(Vec<Value>, Option<i32>)> {
    let arguments = [&["check", "-o", "jsonl", "--ingress", "xdp"], arguments].concat();
    let (stdout, _, status) = run_tracker(&arguments, Some(namespace))?;
    let findings = stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok((findings, status.code()))
}

/// Verdict and message of one finding.
fn finding<'a>(findings: &'a [Value], check: &str, interface: &str) -> Result<(&'a str, &'a str)> {
    let found = findings
        .iter()
        .find(|finding| finding["check"] == check && finding["interface"] == interface)
        .with_context(|| format!("nothing is said of the {check} of {interface}"))?;
    let text = |name: &str| found[name].as_str().with_context(|| format!("no {name}"));
    Ok((text("verdict")?, text("message")?))
}

#[test]
fn the_driver_does_what_was_said() -> Result<()> {
    let pair = Pair::silent()?;
    pair.host.run("ip", &["link", "add", "br0", "type", "bridge"])?;
    let both = ["--interface", "br0", "--interface", INTERFACE];
    let (found, code) = findings(&pair.host, &both)?;
    assert_eq!(code, Some(0), "{found:?}");
    for (interface, expected, mode) in [(INTERFACE, "ok", "native"), ("br0", "warning", "generic")]
    {
        let (verdict, message) = finding(&found, "driver", interface)?;
        assert_eq!(verdict, expected, "{message}");
        let agent = Agent::start(&pair.host, &["--interface", interface, "--ingress", "xdp"])?;
        let shown = agent.stats()?;
        assert_eq!(shown["interfaces"][0]["xdp"], mode, "{interface}: {shown}");
    }
    Ok(())
}

#[test]
fn who_is_there_is_named() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let (found, code) = findings(&pair.host, &["--interface", INTERFACE])?;
    assert_eq!(code, Some(1));
    let (verdict, message) = finding(&found, "place for XDP", INTERFACE)?;
    assert_eq!(verdict, "failure");
    assert!(message.contains(&format!("`{}` (pid {})", agent.name(), agent.pid())), "{message}");
    // Nobody has asked for that one.
    let (found, code) = findings(&pair.host, &[])?;
    assert_eq!(finding(&found, "place for XDP", INTERFACE)?.0, "failure");
    assert_eq!(code, Some(0), "{found:?}");
    Ok(())
}

#[test]
fn what_protection_needs() -> Result<()> {
    let pair = Pair::with_addresses()?;
    pair.host.sysctl("net/ipv4/tcp_syncookies", "0")?;
    let arguments = ["--interface", INTERFACE, "--protect", "80"];
    let (found, code) = findings(&pair.host, &arguments)?;
    let said = found.iter().find(|finding| finding["check"] == "protection").context("findings")?;
    assert_eq!((said["verdict"].as_str(), code), (Some("failure"), Some(1)), "{said}");
    assert!(said["message"].as_str().is_some_and(|said| said.contains("tcp_syncookies=1")));
    pair.host.sysctl("net/ipv4/tcp_syncookies", "1")?;
    assert_eq!(findings(&pair.host, &arguments)?.1, Some(0));
    Ok(())
}

/// The names of the programs that were accepted, by what they are for.
fn accepted(findings: &[Value], check: &str) -> Result<Vec<String>> {
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.with_context(|| format!("nothing is said of {check}: {findings:?}"))?;
    assert_eq!(found["verdict"], "ok", "{found}");
    let programs = found["programs"].as_array().context("programs")?;
    for program in programs {
        // Less cannot track anything.
        assert!(
            program["verified_instructions"].as_u64().is_some_and(|count| count > 500),
            "{program}"
        );
    }
    programs
        .iter()
        .map(|program| Ok(program["name"].as_str().context("a name")?.to_owned()))
        .collect()
}

#[test]
fn the_programs_are_loaded_and_nothing_stays() -> Result<()> {
    let pair = Pair::silent()?;
    pair.host.run("ip", &["tuntap", "add", "tun0", "mode", "tun"])?;
    let (found, code) = findings(&pair.host, &["--interface", &format!("{INTERFACE},tun0,lo")])?;
    assert_eq!(code, Some(0), "{found:?}");
    for kind in ["Ethernet", "raw IP"] {
        let observing = accepted(&found, &format!("programs for {kind}"))?;
        assert_eq!(observing, ["tracker_arrival", "tracker_egress", "tracker_ingress"]);
        let protecting = accepted(&found, &format!("programs that protect, {kind}"))?;
        assert_eq!(
            protecting,
            ["tracker_arrival", "tracker_egress", "tracker_handover", "tracker_ingress"]
        );
    }
    assert_eq!(accepted(&found, "programs that sweep")?, ["tracker_sweep", "tracker_walk"]);
    let links = pair.host.run("ip", &["-details", "link"])?;
    assert!(!links.contains("xdp"), "{links}");
    assert_eq!(pair.host.run("tc", &["filter", "show", "dev", INTERFACE, "egress"])?, "");

    // On loopback alone there is no XDP.
    let (found, _) = findings(&pair.host, &["--interface", "lo"])?;
    assert_eq!(accepted(&found, "programs for loopback")?, ["tracker_egress"]);
    Ok(())
}

#[test]
fn what_the_verifier_followed_is_told_where_asked_for() -> Result<()> {
    let arguments = ["check", "--interface", "lo"];
    let (stdout, _, _) = run_tracker(&arguments, None)?;
    let line = |stdout: &str| -> Result<String> {
        let found = stdout.lines().find(|line| line.contains("programs for loopback"));
        Ok(found.context("a line of the programs")?.to_owned())
    };
    assert_eq!(line(&stdout)?, "ok       programs for loopback: accepted: tracker_egress");
    let (stdout, _, _) = run_tracker(&[&["-v"], &arguments[..]].concat(), None)?;
    assert!(line(&stdout)?.ends_with(" instructions verified)"), "{stdout}");
    Ok(())
}

#[test]
fn an_agents_capabilities_are_enough() -> Result<()> {
    let pair = Pair::silent()?;
    let mut command = pair.host.command("setpriv");
    for set in ["--inh-caps", "--bounding-set"] {
        command.args([set, "-all,+net_admin,+bpf,+perfmon"]);
    }
    let output = command
        .arg(tracker()?)
        .args(["check", "--interface", INTERFACE, "-o", "jsonl"])
        .output()?;
    let stdout = String::from_utf8(output.stdout)?;
    let found: Vec<Value> = stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert_eq!(accepted(&found, "programs for Ethernet")?.len(), 3);
    Ok(())
}

#[test]
fn what_a_user_may_not() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("tracker-check-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let copy = directory.join("tracker");
    std::fs::copy(tracker()?, &copy)?;
    let output = Command::new(&copy)
        .args(["check", "--interface", "lo"])
        .uid(65_534)
        .gid(65_534)
        .output()?;
    std::fs::remove_dir_all(&directory)?;
    let stdout = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("failure  capabilities: ") && stdout.contains("CAP_BPF"), "{stdout}");
    // What cannot be tried is not said to be so or so.
    assert!(!stdout.contains("programs"), "{stdout}");
    Ok(())
}
