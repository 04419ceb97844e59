//! SIGHUP, and what a service manager gets from the agent and grants to it.

use std::{
    fs,
    os::unix::{fs::chown, net::UnixDatagram, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracker_tests::{
    agent::{Agent, receive, run_tracker, tracker},
    lab::{Bench, Connection, INTERFACE, Pair},
    segment::flag::{FIN, SYN},
};

/// A directory of a test's own.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> Result<String> {
        self.0.join(name).into_os_string().into_string().ok().context("a path of UTF-8")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hang_up(agent: &Agent) -> Result<()> {
    Ok(kill(Pid::from_raw(agent.pid().cast_signed()), Signal::SIGHUP)?)
}

#[test]
fn what_can_change_does() -> Result<()> {
    let directory = Directory::new("reload")?;
    let file = directory.path("tracker.toml")?;
    fs::write(&file, "report = \"syn_rst\"\ntimeout-syn-sent = 60\n")?;
    let bench = Bench::with(&["--config", &file, "--events", "violation"])?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1, 0))?;
    let flows = bench.agent.flows(&[])?;
    let left = |flow: &serde_json::Value| flow["timeout_s"].as_u64();
    let before = left(&flows[0]).with_context(|| flows[0].to_string())?;
    ensure!(before <= 60, "{before} s");

    fs::write(&file, "report = \"syn_fin\"\ntimeout-syn-sent = 5000\nzone = 3\n")?;
    hang_up(&bench.agent)?;
    bench.agent.wait_for_log("setting=\"zone\"")?;
    // It is asked for by the socket, where wishes are read after the file.
    tcp.c_sends(&tcp.c(SYN | FIN, 1, 0))?;
    bench.agent.wait_for_log("syn_fin")?;
    let flows = bench.agent.flows(&["--state", "syn-sent"])?;
    let after = left(&flows[0]).with_context(|| flows[0].to_string())?;
    ensure!(after > 4000, "{after} s");

    // A file that is wrong changes nothing, and the agent goes on.
    fs::write(&file, "report = \"no_such_rule\"\n")?;
    hang_up(&bench.agent)?;
    let said = bench.agent.wait_for_log("nothing was changed")?;
    ensure!(said.contains("no_such_rule"), "{said}");
    tcp.c_sends(&tcp.c(SYN | FIN, 1, 0))?;
    assert_eq!(bench.agent.flows(&["--state", "syn-sent"])?.len(), 1);
    Ok(())
}

#[test]
fn a_service_manager_is_told() -> Result<()> {
    let directory = Directory::new("notify")?;
    let path = directory.path("notify")?;
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let told = || -> Result<String> {
        let mut bytes = [0; 4096];
        let length = receive(&socket, &mut bytes).context("nothing was told")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    };
    let until = |wanted: &str| -> Result<String> {
        loop {
            let said = told()?;
            if said.contains(wanted) {
                return Ok(said);
            }
        }
    };
    let pair = Pair::silent()?;
    let mut agent = pair
        .host
        .command(tracker()?.to_str().context("a path of UTF-8")?)
        .args(["--instance", &format!("notify-{}", std::process::id())])
        .args(["run", "--interface", INTERFACE])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stderr(Stdio::null())
        .spawn()?;
    let pid = Pid::from_raw(agent.id().cast_signed());
    until("READY=1")?;
    until("WATCHDOG=1")?;
    kill(pid, Signal::SIGHUP)?;
    let said = until("RELOADING=1")?;
    ensure!(said.contains("MONOTONIC_USEC="), "{said}");
    until("READY=1")?;
    until("WATCHDOG=1")?;
    kill(pid, Signal::SIGTERM)?;
    until("STOPPING=1")?;
    ensure!(agent.wait()?.success());
    Ok(())
}

/// The capabilities of a process, as the kernel shows them.
fn capabilities(pid: u32, set: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(set)).context("no such set")?;
    Ok(u64::from_str_radix(line.trim_start_matches(':').trim(), 16)?)
}

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (linux/capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 38 | 1 << 39;

#[test]
fn what_is_not_needed_is_given_up() -> Result<()> {
    let bench = Bench::new()?;
    let pid = bench.agent.pid();
    for (set, expected) in
        [("CapEff", NEEDED), ("CapPrm", NEEDED), ("CapBnd", NEEDED), ("CapInh", 0), ("CapAmb", 0)]
    {
        assert_eq!(capabilities(pid, set)?, expected, "{set}");
    }
    // Each thread has capabilities of its own.
    let mut without = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let number = thread?.file_name().to_string_lossy().parse()?;
        match capabilities(number, "CapPrm")? {
            0 => without += 1,
            others => assert_eq!(others, NEEDED),
        }
    }
    ensure!(without >= 3, "two threads write, and one takes signals: {without}");
    // It still attaches to what comes later, and detaches (which dropping it checks).
    let tcp = Connection::inbound(&bench);
    tcp.handshake()?;
    assert_eq!(bench.states()?, "ESTABLISHED/ESTABLISHED");
    Ok(())
}

#[test]
fn a_user_with_three_capabilities() -> Result<()> {
    let directory = Directory::new("user")?;
    let (bpffs, run) = (directory.path("bpf")?, directory.path("run")?);
    let program = directory.path("tracker")?;
    fs::copy(tracker()?, &program)?;
    for path in [&bpffs, &run] {
        fs::create_dir(path)?;
    }
    chown(&run, Some(65_534), Some(65_534))?;
    let mount = Command::new("mount").args(["-t", "bpf", "bpf", &bpffs]).status()?;
    ensure!(mount.success(), "mounting a BPF filesystem needs CONFIG_BPF_SYSCALL");
    let outcome = as_user(&program, &bpffs, &run);
    let unmounted = Command::new("umount").arg(&bpffs).status()?;
    outcome?;
    ensure!(unmounted.success(), "something is left in {bpffs}");
    Ok(())
}

fn as_user(program: &str, bpffs: &str, run: &str) -> Result<()> {
    chown(bpffs, Some(65_534), Some(65_534))?;
    let pair = Pair::silent()?;
    let notify = format!("{run}/notify");
    let socket = UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    chown(&notify, Some(65_534), Some(65_534))?;
    let where_it_is = ["--bpffs", bpffs, "--run-dir", run];
    let mut agent = pair
        .host
        .command("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"])
        .args(["--inh-caps", "-all,+net_admin,+perfmon,+bpf"])
        .args(["--ambient-caps", "-all,+net_admin,+perfmon,+bpf"])
        .args(["--bounding-set", "-all,+net_admin,+perfmon,+bpf", program])
        .args(where_it_is)
        .args(["run", "--interface", INTERFACE])
        .env("NOTIFY_SOCKET", &notify)
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .context("starting setpriv, of util-linux")?;
    let mut bytes = [0; 256];
    let said = receive(&socket, &mut bytes).context("it was never ready");
    let pid = agent.id();
    let checked = said.and_then(|length| {
        ensure!(bytes[..length].starts_with(b"READY=1"));
        assert_eq!(capabilities(pid, "CapEff")?, NEEDED);
        let arguments = [&where_it_is[..], &["flows"]].concat();
        let (_, stderr, status) = run_tracker(&arguments, Some(&pair.host))?;
        ensure!(status.success(), "{stderr}");
        Ok(())
    });
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
    let status = agent.wait()?;
    checked?;
    ensure!(status.success(), "{status}");
    let version = tracker_common::LAYOUT_VERSION;
    ensure!(fs::read_dir(format!("{bpffs}/tracker/v{version}")).map_or(0, Iterator::count) == 0);
    let left = pair.host.run("ip", &["-details", "link", "show", INTERFACE])?;
    ensure!(!left.contains("xdp"), "{left}");
    Ok(())
}
