//! Faults around an agent that come from outside its own files: signals, memory, disks, clocks, crowds. Each shows that tracking goes on, to
//! the packet.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually, pins, run_tracker, tracker},
    fault::{Directory, MemoryLimit, memory, pause, resume, send},
    lab::{Bench, Connection, INTERFACE, Pair, address, all_are_counted},
    namespace::Namespace,
    segment::{
        Segment,
        flag::{FIN, SYN},
    },
    sockets::{accept, bound, listener, transfer},
};

fn agent_socket(name: &str) -> String {
    format!("/run/tracker/{name}.sock")
}

/// A frame that breaks a rule.
fn breach() -> Vec<u8> {
    let (client, server) = (([192, 0, 2, 1], 1000).into(), ([192, 0, 2, 2], 80).into());
    Segment::new(client, server, SYN | FIN, 1, 0).frame()
}

#[test]
fn an_agent_that_is_stopped_misses_nothing() -> Result<()> {
    const BREACHES: usize = 1000;
    let bench = Bench::new()?;
    pause(bench.agent.pid())?;
    Connection::inbound(&bench).handshake()?;
    for _ in 0..BREACHES {
        bench.arrive(&breach())?;
    }
    // The kernel programs count without it, and whoever may read their maps sees it.
    bench.settle()?;
    ensure!(bench.states()? == "ESTABLISHED/ESTABLISHED");
    resume(bench.agent.pid())?;
    bench.events.wait_for("ESTABLISHED")?;
    let (mut seen, last) = (1, |event: &Value| event["event"] == "VIOLATION");
    while seen <= BREACHES {
        bench.events.wait(last)?;
        seen += 1;
    }
    ensure!(bench.agent.counter("reports_lost")? == 0);
    Ok(())
}

#[test]
fn a_command_that_is_stopped_holds_nobody_up_and_catches_up() -> Result<()> {
    const BREACHES: usize = 500;
    let bench = Bench::new()?;
    let mut stopped = bench
        .agent
        .command(&["events", "-o", "jsonl"])?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = String::new();
    BufReader::new(stopped.stderr.take().context("a pipe")?).read_line(&mut first)?;
    ensure!(first.trim() == "listening", "{first}");
    pause(stopped.id())?;
    for _ in 0..BREACHES {
        bench.arrive(&breach())?;
    }
    for _ in 0..BREACHES {
        bench.events.wait_for("VIOLATION")?;
    }
    resume(stopped.id())?;
    let lines = BufReader::new(stopped.stdout.take().context("a pipe")?).lines();
    let seen = lines
        .take(BREACHES)
        .filter(|line| line.as_ref().is_ok_and(|line| line.contains("\"event\":\"VIOLATION\"")));
    let seen = seen.count();
    send(stopped.id(), Signal::SIGTERM)?;
    stopped.wait()?;
    ensure!(seen == BREACHES, "{seen}");
    Ok(())
}

#[test]
fn an_agent_that_the_kernel_kills_for_its_memory_is_taken_over() -> Result<()> {
    let bench = Bench::new()?;
    Connection::inbound(&bench).handshake()?;
    bench.settle()?;
    let pid = bench.agent.pid();
    // What it takes from now on counts; listeners that do not read make it keep events.
    let group = MemoryLimit::new("oom", 4 << 20)?;
    fs::write(group.procs(), pid.to_string())?;
    let mut listeners = Vec::new();
    for _ in 0..4 {
        let mut stream = UnixStream::connect(agent_socket(bench.agent.name()))?;
        stream.write_all(b"{\"v\":1,\"events\":[\"VIOLATION\"]}\n")?;
        listeners.push(stream);
    }
    let ended = || -> Result<bool> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(status.contains("State:\tZ"))
    };
    eventually("there is no memory for it", || {
        (0..1000).try_for_each(|_| bench.arrive(&breach()))?;
        ended()
    })?;
    ensure!(group.killed()? > 0, "it ended otherwise");
    let Bench { agent, pair, .. } = bench;
    let killed = agent.kill()?;
    let next = killed.restart(&pair.host, &["--interface", INTERFACE])?;
    let flows = next.flows(&[])?;
    ensure!(flows.len() == 1 && flows[0]["orig"]["state"] == "ESTABLISHED", "{flows:?}");
    all_are_counted(&pair, &next, 1)?;
    next.finish()?;
    Ok(())
}

#[test]
fn a_run_directory_that_is_full_stops_nothing() -> Result<()> {
    let mut directory = Directory::new("full")?;
    let run = directory.mount("run", "tmpfs", Some("size=64k,mode=755"))?;
    let pair = Pair::silent()?;
    let arguments = ["--interface", &format!("{INTERFACE},new*"), "--run-dir", &run];
    let agent = Agent::start(&pair.host, &arguments)?;
    let filler = Path::new(&run).join("filler");
    let mut file = File::create(&filler)?;
    let error = loop {
        if let Err(error) = file.write_all(&[0; 512]) {
            break error;
        }
    };
    ensure!(error.kind() == ErrorKind::StorageFull, "{error}");
    drop(file);
    // It has something to write.
    pair.host.run("ip", &["link", "add", "new0", "type", "veth", "peer", "name", "far0"])?;
    let said = agent.wait_for_log("telling other commands of this agent")?;
    ensure!(said.contains("No space left on device"), "{said}");
    let is_known = || -> Result<bool> {
        let info = fs::read_to_string(Path::new(&run).join(format!("{}.json", agent.name())))?;
        Ok(info.contains("new0"))
    };
    ensure!(!is_known()?);
    fs::remove_file(filler)?;
    agent.wait_for_log("other commands find this agent again")?;
    ensure!(is_known()?);
    agent.finish()?;
    Ok(())
}

#[test]
fn a_thousand_idle_clients_take_no_place_of_others() -> Result<()> {
    let bench = Bench::new()?;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        let stream = UnixStream::connect(agent_socket(bench.agent.name()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        idle.push(stream);
    }
    // Those for which there is no place are refused at once, and not when they have been silent for long.
    let mut refused = 0;
    for stream in idle.iter().rev() {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        if !line.contains("256 clients") {
            break;
        }
        refused += 1;
    }
    ensure!(refused >= 1, "none was refused");
    Connection::inbound(&bench).handshake()?;
    bench.events.wait_for("ESTABLISHED")?;
    ensure!(bench.states()? == "ESTABLISHED/ESTABLISHED");
    drop(idle);
    eventually("the places are free again", || {
        Ok(bench.agent.ask(&["delete", "-o", "json", "sport", "7"]).is_ok())
    })
}

#[test]
fn of_agents_that_race_for_a_name_one_gets_it() -> Result<()> {
    let pair = Pair::silent()?;
    let name = format!("race-{}", std::process::id());
    let start = || -> Result<Child> {
        let mut command = pair.host.command(tracker()?.to_str().context("a path of UTF-8")?);
        command.args(["--instance", &name, "run", "--interface", INTERFACE]);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
    };
    let mut racing = (0..4).map(|_| start()).collect::<Result<Vec<_>>>()?;
    let mut losers = Vec::new();
    eventually("all but one have ended", || {
        let mut left = Vec::new();
        for mut child in racing.drain(..) {
            if child.try_wait()?.is_some() { losers.push(child) } else { left.push(child) }
        }
        racing = left;
        Ok(racing.len() <= 1)
    })?;
    for loser in losers {
        let output = loser.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains("running already"), "{said}");
    }
    let mut winner = racing.pop().context("nobody has it")?;
    eventually("the last one serves", || {
        Ok(run_tracker(&["--instance", &name, "flush"], None)?.2.success())
    })?;
    send(winner.id(), Signal::SIGTERM)?;
    ensure!(winner.wait()?.success());
    ensure!(!pins(&name).exists() && !Path::new(&agent_socket(&name)).exists());
    Ok(())
}

#[test]
fn an_mtu_that_changes_changes_nothing() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    for (port, mtu) in (1..).zip(["1500", "1280", "3000", "1500"]) {
        for end in [&pair.host, &pair.peer] {
            end.run("ip", &["link", "set", INTERFACE, "mtu", mtu])?;
        }
        all_are_counted(&pair, &agent, port)?;
    }
    ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
    agent.finish()?;
    Ok(())
}

#[test]
fn an_interface_that_moves_to_another_namespace_is_given_up_and_followed_back() -> Result<()> {
    let pair = Pair::silent()?;
    let elsewhere = Namespace::new()?;
    let agent = Agent::start(&pair.host, &["--interface", &format!("{INTERFACE},lo")])?;
    all_are_counted(&pair, &agent, 1)?;
    let is_attached = || -> Result<bool> {
        let stats = agent.stats()?;
        let interfaces = stats["interfaces"].as_array().context("interfaces")?;
        let found = interfaces.iter().find(|one| one["name"] == INTERFACE);
        Ok(found.is_some_and(|one| one["attached"] == true))
    };
    pair.host.run("ip", &["link", "set", INTERFACE, "netns", &elsewhere.path()])?;
    eventually("it is detached", || Ok(!is_attached()?))?;
    eventually("no program is left on it", || {
        Ok(!elsewhere.run("ip", &["-details", "link", "show", INTERFACE])?.contains("xdp"))
    })?;
    elsewhere.run("ip", &["link", "set", INTERFACE, "netns", &pair.host.path()])?;
    pair.host.run("ip", &["link", "set", INTERFACE, "up"])?;
    eventually("it is attached again", is_attached)?;
    // Its neighbour's end must have noticed, too.
    eventually("the cable is whole", || {
        Ok(pair.peer.run("ip", &["link", "show", INTERFACE])?.contains("state UP"))
    })?;
    all_are_counted(&pair, &agent, 2)?;
    // Those from before are among them.
    ensure!(agent.packets(None, None)? == 400);
    agent.finish()?;
    Ok(())
}

/// `bpftool link detach`: the pin stays, and leads to a link that is attached to nothing.
fn detach(pin: &Path) -> Result<()> {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    let path = std::ffi::CString::new(pin.to_str().context("a path of UTF-8")?)?;
    // SAFETY: the attributes are a path that outlives the call, and zeroes.
    let link =
        unsafe { tracker_user::kernel::bpf::descriptor(BPF_OBJ_GET, &[path.as_ptr() as u64, 0]) }?;
    let attributes = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&link))?;
    // SAFETY: the command reads a number.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attributes, 8_usize) };
    ensure!(result == 0, "detaching: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn a_link_that_is_detached_beneath_its_pin_is_attached_again() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let slot = pins(agent.name()).join(format!("slot-0-{INTERFACE}"));
    for (port, link) in [(1, "xdp-native"), (2, "egress-tcx")] {
        detach(&slot.join(link))?;
        agent.wait_for_log("is gone")?;
        agent.wait_for_log("attached again")?;
        all_are_counted(&pair, &agent, port)?;
    }
    agent.finish()?;
    Ok(())
}

#[test]
fn a_configuration_of_100_mb_is_refused_and_never_read() -> Result<()> {
    let directory = Directory::new("config")?;
    let path = directory.path("tracker.toml")?;
    fs::write(&path, format!("interface = [\"{INTERFACE}\"]\n"))?;
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--config", &path])?;
    // It has loaded all that it needs.
    agent.wait_for_log("took_us=")?;
    let before = memory(agent.pid(), "VmHWM")?;
    File::options().write(true).open(&path)?.set_len(100_000_000)?;
    send(agent.pid(), Signal::SIGHUP)?;
    let said = agent.wait_for_log("SIGHUP: nothing was changed")?;
    ensure!(said.contains("bytes at most"), "{said}");
    let after = memory(agent.pid(), "VmHWM")?;
    ensure!(after < before + 32 * 1024, "{before} KiB, then {after} KiB");
    all_are_counted(&pair, &agent, 1)?;
    agent.finish()?;
    for (arguments, code) in [(["config", "check", &path], 1), (["run", "--config", &path], 2)] {
        let (_, said, status) = run_tracker(&arguments, Some(&pair.host))?;
        ensure!(status.code() == Some(code) && said.contains("bytes at most"), "{status}: {said}");
    }
    Ok(())
}

#[test]
fn real_connections_pass_a_full_table() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--max-flows", "4"])?;
    // What comes before it first looks counts as another agent's.
    agent.wait_for_log("took_us=")?;
    let at = (address::HOST[0], 80).into();
    let listening = listener(&pair.host, at)?;
    let mut open = Vec::new();
    for port in 1001..=1020 {
        let from = (address::PEER[0], port).into();
        let client = bound(&pair.peer, from)?;
        client.connect(&at.into())?;
        let server = accept(&listening, from)?;
        transfer(&client, &server, 1000)?;
        transfer(&server, &client, 1000)?;
        open.push((client, server));
    }
    let said = agent.wait_for_log("the table of confirmed flows is full")?;
    ensure!(said.contains("--max-flows (now 4)"), "{said}");
    // None was pushed out: the first four are confirmed, and the others are still shown as half-open flows.
    ensure!(agent.flows(&["dport", "80"])?.len() == open.len());
    for (client, server) in &open {
        transfer(client, server, 1000)?;
    }
    ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
    Ok(())
}

#[test]
fn a_bpf_filesystem_of_another_owner_is_refused() -> Result<()> {
    let mut directory = Directory::new("owner")?;
    let bpffs = directory.mount("bpf", "bpf", None)?;
    let pair = Pair::silent()?;
    let run =
        || run_tracker(&["--bpffs", &bpffs, "run", "--interface", INTERFACE], Some(&pair.host));
    for (owner, mode, part) in [(65_534, 0o700, "belongs to user 65534"), (0, 0o777, "mode 777")] {
        std::os::unix::fs::chown(&bpffs, Some(owner), None)?;
        fs::set_permissions(&bpffs, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        let (_, said, status) = run()?;
        ensure!(status.code() == Some(1) && said.contains(part), "{part}: {said}");
    }
    ensure!(!Path::new(&bpffs).join("tracker").exists(), "something was pinned");
    Ok(())
}

/// A library that sets the clock for one program.
const SHIFT: &str = include_str!("faults/shift.c");

#[test]
fn a_clock_that_is_set_ends_no_flow() -> Result<()> {
    const DAY_S: i64 = 86_400;
    let directory = Directory::new("clock")?;
    let [source, library, shift] =
        ["shift.c", "shift.so", "seconds"].map(|name| directory.path(name));
    let (source, library, shift) = (source?, library?, shift?);
    fs::write(&source, SHIFT)?;
    let output = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, &source]).output();
    let output = output.context("this needs a C compiler named cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    let pair = Pair::silent()?;
    let agent = Agent::start_in(
        &pair.host,
        &[("LD_PRELOAD", &library), ("CLOCK_SHIFT", &shift)],
        &["--interface", INTERFACE, "--events", "all"],
    )?;
    let events = agent.events()?;
    let mut dates = Vec::new();
    for (port, seconds) in (1..).zip([0, DAY_S, -DAY_S]) {
        // Renamed, so that nobody reads half of it.
        fs::write(directory.path("next")?, seconds.to_string())?;
        fs::rename(directory.path("next")?, &shift)?;
        all_are_counted(&pair, &agent, port)?;
        let event =
            events.wait(|event| event["event"] == "NEW" && event["flow"]["sport"] == port)?;
        let time: jiff::Timestamp = event["time"].as_str().context("a time")?.parse()?;
        dates.push((event["time_ns"].as_u64().context("a time")?, time.as_second()));
    }
    ensure!(dates.is_sorted_by_key(|(monotonic_ns, _)| *monotonic_ns), "{dates:?}");
    let [first, later, before] = [dates[0].1, dates[1].1, dates[2].1];
    ensure!(later - first >= DAY_S && first - before > DAY_S / 2, "the clock was set: {dates:?}");
    // Two days of its calendar have passed, and none of its time: nothing has expired.
    let flows = agent.flows(&[])?;
    ensure!(flows.len() == 3, "{flows:?}");
    ensure!(agent.counter("flows_expired")? == 0);
    agent.finish()?;
    Ok(())
}

/// Starts an agent on many interfaces, which takes seconds, and returns it once it has taken its name: it is loading then.
fn loading(pair: &Pair, name: &str) -> Result<Child> {
    for number in 0..4 {
        let ends = [format!("many{number}"), format!("many{}", number + 4)];
        pair.host
            .run("ip", &["link", "add", &ends[0], "type", "veth", "peer", "name", &ends[1]])?;
    }
    let mut command = pair.host.command(tracker()?.to_str().context("a path of UTF-8")?);
    command.args(["--instance", name, "run", "--interface", "many*"]);
    command.args(["--ingress", "tcx", "--egress", "tcx"]);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    eventually("it has its first slot", || {
        let Ok(entries) = fs::read_dir(pins(name)) else { return Ok(false) };
        Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("slot-")))
    })?;
    Ok(child)
}

#[test]
fn an_agent_that_is_to_end_while_it_loads_does_not_load_the_rest() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let pair = Pair::silent()?;
        let name = format!("loading-{}-{signal}", std::process::id());
        let child = loading(&pair, &name)?;
        send(child.id(), signal)?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", output.status);
        ensure!(!said.contains("attached interface") && !said.contains("verifier"), "{said}");
        ensure!(!pins(&name).exists() && !Path::new(&agent_socket(&name)).exists());
    }
    Ok(())
}

#[test]
fn signals_that_end_nothing_do_not_disturb_the_loading() -> Result<()> {
    let pair = Pair::silent()?;
    let name = format!("disturbed-{}", std::process::id());
    let mut child = loading(&pair, &name)?;
    let mut log = BufReader::new(child.stderr.take().context("a pipe")?).lines();
    let socket = agent_socket(&name);
    eventually("it is ready", || {
        send(child.id(), Signal::SIGHUP)?;
        Ok(Path::new(&socket).exists())
    })?;
    let attached = log.by_ref().map_while(Result::ok).filter(|line| line.contains("attached"));
    ensure!(attached.take(8).count() == 8);
    send(child.id(), Signal::SIGTERM)?;
    let mut rest = String::new();
    log.try_for_each(|line| line.map(|line| rest.push_str(&line)))?;
    ensure!(child.wait()?.success(), "{rest}");
    ensure!(!pins(&name).exists());
    Ok(())
}
