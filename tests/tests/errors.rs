//! What a user meets first when something is missing: one clear message, and the exit code that shells expect.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, clear_after_kill, run_tracker, tracker},
    lab::{Bench, INTERFACE, Pair},
    namespace::Namespace,
};

/// Runs `tracker` to its failure, and returns what it said.
fn refusal(arguments: &[&str], namespace: Option<&Namespace>) -> Result<String> {
    let (stdout, stderr, status) = run_tracker(arguments, namespace)?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("tracker: ")).count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("Stack backtrace"), "{stderr}");
    Ok(stderr)
}

#[test]
fn not_root() -> Result<()> {
    // nobody's own copy of the command: the build directory may be root's alone.
    let directory = std::env::temp_dir().join(format!("tracker-not-root-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let copy = directory.join("tracker");
    std::fs::copy(tracker()?, &copy)?;
    let mut command = Command::new(&copy);
    command.args(["run", "--interface", "lo"]).uid(65_534).gid(65_534);
    let output = command.output()?;
    let json = command.args(["-o", "jsonl"]).output()?;
    std::fs::remove_dir_all(&directory)?;
    let json = String::from_utf8(json.stderr)?;
    assert!(json.starts_with(r#"{"v":1,"error":{"kind":"not_permitted","message":"#), "{json}");
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("needs root") && stderr.contains("sudo"), "{stderr}");
    Ok(())
}

/// Each verb that loads programs, and what it says.
fn each_loading_verb(mut command: impl FnMut() -> Result<Command>) -> Result<Vec<String>> {
    let verbs: [&[&str]; 3] =
        [&["check"], &["run", "--interface", "lo"], &["replay", "/nonexistent.pcap"]];
    let mut said = Vec::new();
    for verb in verbs {
        let output = command()?.args(["--instance", "errors-kernel"]).args(verb).output()?;
        let stderr = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {stderr}");
        said.push(String::from_utf8(output.stdout)? + &stderr);
    }
    Ok(said)
}

#[test]
fn an_old_kernel() -> Result<()> {
    let said = each_loading_verb(|| {
        let mut command = Command::new(tracker()?);
        let pretend = || {
            // To this process and those that it starts, the kernel is a Linux 2.6 (personality(2)).
            const UNAME26: libc::c_ulong = 0x0002_0000;
            // SAFETY: takes a number.
            match unsafe { libc::personality(UNAME26) } {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: this is one system call.
        unsafe { command.pre_exec(pretend) };
        Ok(command)
    })?;
    for said in said {
        assert!(
            said.contains("Linux 2.6 is older than 6.1, the oldest that tracker supports"),
            "{said}"
        );
        assert!(!said.contains("accepted:"), "{said}");
    }
    Ok(())
}

#[test]
fn a_kernel_without_types() -> Result<()> {
    let said = each_loading_verb(|| {
        let mut command = Command::new("unshare");
        let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
        command.args(["--mount", "sh", "-c", hide]).arg(tracker()?);
        Ok(command)
    })?;
    for said in said {
        assert!(said.contains(" has no BTF (/sys/kernel/btf/vmlinux is missing)"), "{said}");
        assert!(!said.contains("accepted:"), "{said}");
    }
    Ok(())
}

#[test]
fn no_such_interface() -> Result<()> {
    let pair = Pair::silent()?;
    let said =
        refusal(&["--instance", "errors-1", "run", "--interface", "eth9"], Some(&pair.host))?;
    assert!(said.contains("no interface named `eth9`") && said.contains(INTERFACE), "{said}");
    Ok(())
}

#[test]
fn another_xdp_program() -> Result<()> {
    let bench = Bench::new()?;
    let said = refusal(
        &["--instance", "errors-2", "run", "--interface", INTERFACE, "--ingress", "xdp"],
        Some(&bench.pair.host),
    )?;
    assert!(said.contains("has an XDP program already"), "{said}");
    let (name, pid) = (bench.agent.name(), bench.agent.pid());
    assert!(said.contains(&format!("the agent named `{name}` (pid {pid})")), "{said}");
    // It was left alone, and goes on.
    let tcp = tracker_tests::lab::Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(tracker_tests::segment::flag::SYN, 1, 0))?;
    assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
    Ok(())
}

#[test]
fn an_agent_of_that_name_runs_already() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let said = refusal(
        &["--instance", agent.name(), "run", "--interface", INTERFACE, "--ingress", "xdp"],
        Some(&pair.host),
    )?;
    assert!(said.contains(&format!("pid {}", agent.pid())), "{said}");
    Ok(())
}

#[test]
fn no_agent() -> Result<()> {
    for verb in ["flows", "events", "stats"] {
        let said = refusal(&["--instance", "errors-nobody", verb], None)?;
        assert!(said.contains("no agent named `errors-nobody` is running"), "{said}");
        assert!(said.contains("tracker run --interface"), "{said}");
    }
    Ok(())
}

/// What a command that fails writes where it is asked for JSON: kind and message.
fn json_refusal(
    arguments: &[&str],
    code: i32,
    namespace: Option<&Namespace>,
) -> Result<(String, String)> {
    let (stdout, stderr, status) = run_tracker(arguments, namespace)?;
    assert_eq!(status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stdout, "", "{arguments:?}");
    let document: Value = serde_json::from_str(&stderr).with_context(|| stderr.clone())?;
    assert_eq!(document["v"], 1);
    let part = |name: &str| document["error"][name].as_str().map(str::to_owned).context("a text");
    Ok((part("kind")?, part("message")?))
}

#[test]
fn failures_are_json_where_that_is_asked_for() -> Result<()> {
    let nobody = |arguments: &[&str]| {
        let all = [&["--instance", "errors-json"], arguments].concat();
        json_refusal(&all, 1, None)
    };
    for arguments in [
        &["flows", "-o", "json"][..],
        &["stats", "--output=jsonl"],
        &["flush", "-o", "json"],
        &["events", "-o", "jsonl"],
    ] {
        let (kind, said) = nobody(arguments)?;
        assert_eq!(kind, "no_agent", "{said}");
        assert!(said.starts_with("no agent named `errors-json` is running"), "{said}");
    }
    // What clap refuses, and what is wrong only as a whole.
    for (arguments, part) in [
        (&["flows", "-o", "json", "--nonsense"][..], "unexpected argument '--nonsense'"),
        (&["flows", "-o", "json", "--watch", "1"], "one JSON document is none"),
        (&["flows", "-o", "jsonl", "nonsense", "1"], "`nonsense` is no filter"),
        (&["delete", "-o", "json"], "which flows?"),
    ] {
        let (kind, said) = json_refusal(arguments, 2, None)?;
        assert_eq!(kind, "bad_input", "{said}");
        assert!(said.contains(part) && !said.contains("Usage"), "{said}");
    }
    // Names and files that can be read, and not used.
    for (arguments, part) in [
        (&["replay", "-o", "json", "/proc/self/status"][..], "it is not a capture"),
        (&["replay", "-o", "json", "/proc"], "it is a directory"),
        (&["explain", "-o", "json", "nonsense"], "nothing is called `nonsense`"),
    ] {
        let (kind, said) = json_refusal(arguments, 1, None)?;
        assert_eq!(kind, "bad_input", "{said}");
        assert!(said.contains(part), "{said}");
    }
    Ok(())
}

#[test]
fn what_is_taken_is_told_from_what_fails() -> Result<()> {
    let bench = Bench::new()?;
    let host = Some(&bench.pair.host);
    let run = ["run", "-o", "jsonl", "--interface", INTERFACE, "--ingress", "xdp"];
    let other = [&["--instance", "errors-3"], &run[..]].concat();
    let (kind, said) = last_json(&other, host)?;
    assert_eq!(kind, "in_use", "{said}");
    assert!(said.contains("has an XDP program already"), "{said}");
    let absent = ["--instance", "errors-4", "run", "-o", "jsonl", "--interface", "eth9"];
    let (kind, said) = last_json(&absent, host)?;
    assert_eq!(kind, "bad_input", "{said}");
    assert!(said.contains("no interface named `eth9`"), "{said}");
    let same = [&["--instance", bench.agent.name()], &run[..]].concat();
    let (kind, said) = last_json(&same, host)?;
    assert_eq!(kind, "in_use", "{said}");
    assert!(said.contains("is running already"), "{said}");
    Ok(())
}

/// The same of an agent, whose log comes before.
fn last_json(arguments: &[&str], namespace: Option<&Namespace>) -> Result<(String, String)> {
    let (_, stderr, status) = run_tracker(arguments, namespace)?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().context("nothing was said")?;
    let document: Value = serde_json::from_str(last).with_context(|| stderr.clone())?;
    let error = &document["error"];
    Ok((error["kind"].to_string().replace('"', ""), error["message"].to_string()))
}

#[test]
fn a_filter_that_a_killed_agent_left_is_replaced() -> Result<()> {
    let pair = Pair::silent()?;
    let options = ["--interface", INTERFACE, "--egress", "clsact"];
    let killed = Agent::start(&pair.host, &options)?;
    let name = killed.name().to_owned();
    killed.stop(nix::sys::signal::Signal::SIGKILL)?;
    clear_after_kill(&name)?;
    let filters = || pair.host.run("tc", &["filter", "show", "dev", INTERFACE, "egress"]);
    assert_eq!(filters()?.matches("direct-action").count(), 1);
    let next = Agent::start(&pair.host, &options)?;
    assert_eq!(filters()?.matches("direct-action").count(), 1);
    next.stop(nix::sys::signal::Signal::SIGTERM)?;
    assert_eq!(filters()?.matches("direct-action").count(), 0);
    Ok(())
}

#[test]
fn events_of_one_rule() -> Result<()> {
    let bench = Bench::new()?;
    let mut child = bench
        .agent
        .command(&["events", "-o", "jsonl", "--violation", "syn_fin", "--last", "1"])?
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let mut listening = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut stderr, &mut listening)?;
    // Other events come first, and are left out.
    let tcp = tracker_tests::lab::Connection::inbound(&bench);
    tcp.handshake()?;
    tcp.c_sends(&tcp.c(0, 1001, 5001))?;
    tcp.c_sends(&tcp.c(
        tracker_tests::segment::flag::SYN | tracker_tests::segment::flag::FIN,
        1001,
        5001,
    ))?;
    let output = child.wait_with_output()?;
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout)?;
    assert_eq!(lines.lines().count(), 1);
    assert!(lines.contains("syn_fin"), "{lines}");
    Ok(())
}

#[test]
fn kernel_messages_are_carried_when_asked_for() -> Result<()> {
    let bench = Bench::with(&["--kernel-log"])?;
    let tcp = tracker_tests::lab::Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(tracker_tests::segment::flag::SYN, 1, 0))?;
    bench.agent.wait_for_log("hook 0 fate 0")?;
    Ok(())
}
