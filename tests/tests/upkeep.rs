//! What an agent claims to have, it looks after: programs, pins, lock, files. And what it relies on is checked.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracker_common::LAYOUT_VERSION;
use tracker_tests::{
    agent::{Agent, PATIENCE, eventually, pins, run_tracker, tracker},
    fault::{Directory, MemoryLimit, pause, resume},
    lab::{Bench, Connection, INTERFACE, Pair, all_are_counted},
    namespace::Namespace,
    segment::{
        Segment,
        flag::{FIN, SYN},
    },
    wire::Wire,
};
use tracker_user::kernel::kernel_side::links;

fn slot(agent: &Agent) -> PathBuf {
    pins(agent.name()).join(format!("slot-0-{INTERFACE}"))
}

/// The status and body that the agent's endpoint answers.
fn get(namespace: &Namespace, path: &str) -> Result<(u16, String)> {
    let at = SocketAddr::from(([127, 0, 0, 1], 9469));
    let mut stream = namespace.enter(|| Ok(TcpStream::connect(at)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an empty line")?;
    Ok((head.split(' ').nth(1).context("a status")?.parse()?, body.to_owned()))
}

#[test]
fn what_is_detached_is_attached_again() -> Result<()> {
    for egress in ["tcx", "clsact"] {
        let pair = Pair::silent()?;
        let agent =
            Agent::start(&pair.host, &["--interface", INTERFACE, "--egress", egress, "--metrics"])?;
        all_are_counted(&pair, &agent, 1)?;
        let at = slot(&agent);
        let ways: [&dyn Fn() -> Result<()>; 3] = [
            // The link ends, whoever has it open; its pin goes too.
            &|| {
                ensure!(links::remove(&at.join("xdp-native"))?);
                Ok(())
            },
            // The pin is the link's last reference.
            &|| Ok(fs::remove_file(at.join("xdp-native"))?),
            &|| {
                if egress == "tcx" {
                    ensure!(links::remove(&at.join("egress-tcx"))?);
                } else {
                    pair.host.run("tc", &["qdisc", "del", "dev", INTERFACE, "clsact"])?;
                }
                Ok(())
            },
        ];
        for (port, remove) in (2..).zip(ways) {
            remove()?;
            agent.wait_for_log("is gone")?;
            agent.wait_for_log("attached again")?;
            all_are_counted(&pair, &agent, port)?;
            eventually("it is ready", || Ok(get(&pair.host, "/readyz")?.0 == 200))?;
        }
        ensure!(agent.violations()?.is_empty(), "{:?}", agent.violations()?);
        agent.finish()?;
        let left = pair.host.run("ip", &["-details", "link", "show", INTERFACE])?;
        ensure!(!left.contains("xdp"), "{left}");
        ensure!(!pair.host.run("tc", &["qdisc", "show", "dev", INTERFACE])?.contains("clsact"));
    }
    Ok(())
}

#[test]
fn it_is_not_ready_while_something_is_detached() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(
        &pair.host,
        &["--interface", INTERFACE, "--metrics", "--on-detach", "report"],
    )?;
    eventually("it is ready", || Ok(get(&pair.host, "/readyz")?.0 == 200))?;
    ensure!(links::remove(&slot(&agent).join("egress-tcx"))?);
    let said = agent.wait_for_log("is gone")?;
    ensure!(said.contains(INTERFACE) && said.contains("hook=\"out\""), "{said}");
    eventually("it is not ready", || {
        let (status, said) = get(&pair.host, "/readyz")?;
        Ok(status == 503 && said.contains(INTERFACE) && said.contains("out"))
    })?;
    let (_, metrics) = get(&pair.host, "/metrics")?;
    for (hook, mode, value) in [("in", "native", 1), ("out", "tcx", 0)] {
        let series = format!(
            "tracker_program_attached{{interface=\"{INTERFACE}\",hook=\"{hook}\",mode=\"{mode}\"}} {value}"
        );
        ensure!(metrics.contains(&series), "{series}: {metrics}");
    }
    Ok(())
}

#[test]
fn an_interface_that_somebody_else_takes_is_attached_to_when_it_is_free() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--metrics"])?;
    // While the agent does not look, its link ends, and another agent comes.
    pause(agent.pid())?;
    ensure!(links::remove(&slot(&agent).join("xdp-native"))?);
    let other = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    resume(agent.pid())?;
    let said = agent.wait_for_log("attaching to it again")?;
    ensure!(said.contains(other.name()), "{said}");
    eventually("it is not ready", || Ok(get(&pair.host, "/readyz")?.0 == 503))?;
    other.finish()?;
    eventually("it is ready again", || Ok(get(&pair.host, "/readyz")?.0 == 200))?;
    all_are_counted(&pair, &agent, 1)?;
    agent.finish()?;
    Ok(())
}

#[test]
fn pins_that_are_removed_are_made_anew() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    all_are_counted(&pair, &agent, 1)?;
    let names = || -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for directory in [pins(agent.name()), slot(&agent)] {
            for entry in fs::read_dir(directory)? {
                names.insert(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    };
    let before = names()?;
    for port in 2..4 {
        let counted = agent.packets(None, None)?;
        // The agent looks when all are gone: what it makes anew is not removed under its hands.
        pause(agent.pid())?;
        fs::remove_dir_all(pins(agent.name()))?;
        resume(agent.pid())?;
        agent.wait_for_log("attached again")?;
        ensure!(names()? == before, "{:?}", names()?);
        // The same maps: counters and flows go on.
        ensure!(agent.packets(None, None)? == counted);
        all_are_counted(&pair, &agent, port)?;
        ensure!(agent.flows(&[])?.len() == usize::from(port));
    }
    // Nor is another map believed to be the agent's.
    let pin = pins(agent.name()).join("CONFIRMED");
    fs::remove_file(&pin)?;
    Array::<MapData, u64>::create(1, 0)?.pin(&pin)?;
    agent.wait_for_log("pins of maps were removed")?;
    ensure!(agent.flows(&[])?.len() == 3);
    agent.finish()?;
    Ok(())
}

#[test]
fn no_second_agent_takes_a_name_unseen() -> Result<()> {
    let directory = Directory::new("second")?;
    let run = directory.path("run")?;
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--run-dir", &run])?;
    let name = agent.name().to_owned();
    let pid = agent.pid().to_string();
    let of_it = ["--instance", &name, "--run-dir", &run];
    let second = || -> Result<()> {
        for verb in [&["run", "--interface", INTERFACE][..], &["detach"]] {
            let (_, said, status) = run_tracker(&[&of_it, verb].concat(), Some(&pair.host))?;
            ensure!(status.code() == Some(1) && said.contains("running"), "{said}");
            ensure!(said.contains(&format!("pid {pid}")), "{said}");
        }
        Ok(())
    };
    second()?;
    let lock = directory.itself().join("run").join(format!("{name}.lock"));
    fs::remove_file(&lock)?;
    second()?;
    agent.wait_for_log(".lock")?;
    ensure!(fs::read_to_string(&lock)? == pid);
    second()?;
    fs::remove_dir_all(&run)?;
    second()?;
    // Everything that others find it by is there again.
    eventually("its files are there again", || {
        let there =
            |kind: &str| directory.itself().join("run").join(format!("{name}.{kind}")).exists();
        Ok(there("lock") && there("sock") && there("json"))
    })?;
    let (_, said, status) = run_tracker(&[&of_it[..], &["flush"]].concat(), None)?;
    ensure!(status.success(), "{said}");
    second()?;
    agent.finish()?;
    ensure!(!lock.exists() && !pins(&name).exists(), "nothing is left");
    Ok(())
}

#[test]
fn one_whose_place_was_taken_ends() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let name = agent.name().to_owned();
    pause(agent.pid())?;
    fs::remove_dir_all(pins(&name))?;
    for kind in ["lock", "sock", "json"] {
        fs::remove_file(format!("/run/tracker/{name}.{kind}"))?;
    }
    let mut next = Command::new(tracker()?);
    next = pair.host.command(next.get_program().to_str().context("a path of UTF-8")?);
    let mut next = next
        .args(["--instance", &name, "run", "--interface", INTERFACE, "--ingress", "xdp"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let socket = format!("/run/tracker/{name}.sock");
    eventually("the next one is there", || Ok(Path::new(&socket).exists()))?;
    resume(agent.pid())?;
    let said = agent.wait_for_log("has taken its place")?;
    ensure!(said.contains(&format!("pid {}", next.id())), "{said}");
    let status = agent.stop(Signal::SIGTERM)?;
    ensure!(status.code() == Some(1), "{status}");
    // It has left the other one alone.
    let (_, said, status) = run_tracker(&["--instance", &name, "flush"], None)?;
    ensure!(status.success(), "{said}");
    ensure!(pair.host.run("ip", &["-details", "link", "show", INTERFACE])?.contains("xdp"));
    kill(Pid::from_raw(next.id().cast_signed()), Signal::SIGTERM)?;
    ensure!(next.wait()?.success());
    ensure!(!pins(&name).exists() && !Path::new(&socket).exists());
    Ok(())
}

#[test]
fn other_names_of_an_interface() -> Result<()> {
    let pair = Pair::silent()?;
    pair.host.run("ip", &["link", "property", "add", "dev", INTERFACE, "altname", "uplink"])?;
    for name in ["uplink", "upl*"] {
        let agent = Agent::start(&pair.host, &["--interface", name])?;
        all_are_counted(&pair, &agent, 1)?;
        ensure!(slot(&agent).exists());
        agent.finish()?;
    }
    Ok(())
}

#[test]
fn a_clock_that_is_not_the_kernel_s_is_refused() -> Result<()> {
    let pair = Pair::silent()?;
    let tracker = tracker()?;
    let output = pair
        .host
        .command("unshare")
        .args(["--time", "--fork", "--monotonic", "1000"])
        .arg(tracker)
        .args(["--instance", "time-namespace", "run", "--interface", INTERFACE])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("time namespace"), "{said}");
    Ok(())
}

/// SYNs from ports that were not used before.
fn flood(bench: &Bench, flags: u16) -> Result<()> {
    let wire = Wire::open(&bench.pair.peer, INTERFACE)?;
    let server = ([192, 0, 2, 2], 80).into();
    (1000..5000).try_for_each(|port| {
        let client = ([192, 0, 2, 1], port).into();
        wire.send(&Segment::new(client, server, flags, 1, 0).frame())
    })
}

#[test]
fn a_full_table_is_said_when_it_begins_and_when_it_is_over() -> Result<()> {
    let bench = Bench::with(&["--max-flows", "4"])?;
    for port in 1..=10 {
        Connection::inbound(&bench).from_port(port).handshake()?;
    }
    let said = bench.agent.wait_for_log("the table of confirmed flows is full")?;
    ensure!(said.contains("--max-flows (now 4)"), "{said}");
    let said = bench.agent.wait_for_log("has room again")?;
    ensure!(said.contains("count=6"), "{said}");
    Ok(())
}

#[test]
fn a_full_ring_buffer_is_said_when_it_begins_and_when_it_is_over() -> Result<()> {
    let bench = Bench::with(&["--ring-bytes", "4096"])?;
    flood(&bench, SYN | FIN)?;
    let said = bench.agent.wait_for_log("the ring buffer is full")?;
    ensure!(said.contains("--ring-bytes (now 4096)"), "{said}");
    eventually("every breach is counted", || {
        let counted = bench.agent.violations()?;
        Ok(counted == [("syn_fin".to_owned(), 4000)])
    })?;
    bench.agent.wait_for_log("no reports are lost any more")?;
    Ok(())
}

#[test]
fn evictions_are_said_when_they_begin_and_when_they_are_over() -> Result<()> {
    let bench = Bench::with(&["--max-half-open", "64"])?;
    flood(&bench, SYN)?;
    let said = bench.agent.wait_for_log("half-open flows are evicted")?;
    ensure!(said.contains("--max-half-open (now 64)"), "{said}");
    bench.agent.wait_for_log("no half-open flows are evicted any more")?;
    Ok(())
}

#[test]
fn tables_for_which_there_is_no_memory_are_named() -> Result<()> {
    let pair = Pair::silent()?;
    let group = MemoryLimit::new("memory", 256 << 20)?;
    let procs = group.procs();
    let mut command = pair.host.command(tracker()?.to_str().context("a path of UTF-8")?);
    command.args(["--instance", "no-memory", "run", "--interface", INTERFACE]);
    command.args(["--max-flows", "4000000"]);
    // SAFETY: it writes a few bytes to a file.
    unsafe {
        command.pre_exec(move || fs::write(&procs, "0"));
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    let bytes = 4_000_000_u64 * 256 + 65_536 * (328 + 2 * 104) + (16 << 20);
    ensure!(said.contains(&bytes.to_string()) && said.contains("Lower --max-flows"), "{said}");
    ensure!(!pins("no-memory").exists(), "nothing is left");
    Ok(())
}

#[test]
fn directories_are_the_agent_s_alone() -> Result<()> {
    let directory = Directory::new("directories")?;
    let (run, bpffs) = (directory.path("run")?, directory.path("bpffs")?);
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let own = [
        PathBuf::from("/sys/fs/bpf/tracker"),
        format!("/sys/fs/bpf/tracker/v{LAYOUT_VERSION}").into(),
        pins(agent.name()),
        slot(&agent),
    ];
    for path in own {
        let about = fs::metadata(&path)?;
        ensure!(about.mode() & 0o7777 == 0o700 && about.uid() == 0, "{}", path.display());
    }
    agent.finish()?;

    let refused = |part: &str| -> Result<()> {
        let arguments = [
            &["--instance", "directories", "--run-dir", &run, "--bpffs", &bpffs][..],
            &["run", "--interface", INTERFACE],
        ];
        let (_, said, status) = run_tracker(&arguments.concat(), Some(&pair.host))?;
        ensure!(status.code() == Some(1) && said.contains(part), "{part}: {said}");
        Ok(())
    };
    // Somebody else could put another socket there.
    fs::create_dir(&run)?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777))?;
    refused("mode 777")?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::chown(&run, Some(65_534), None)?;
    refused("belongs to user 65534")?;
    std::os::unix::fs::chown(&run, Some(0), None)?;
    // Nothing is hidden by a mount.
    fs::create_dir(&bpffs)?;
    fs::write(Path::new(&bpffs).join("file"), "kept")?;
    refused("holds something")?;
    ensure!(fs::read_to_string(Path::new(&bpffs).join("file"))? == "kept");
    Ok(())
}

#[test]
fn a_map_of_another_form_is_never_read() -> Result<()> {
    let pair = Pair::silent()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
    let killed = agent.kill()?;
    let at = pins(killed.name());
    // Its values are longer than what would be read.
    for name in ["CONFIRMED", "TALLIES", "REMOVALS", "EVENTS"] {
        let (pin, aside) = (at.join(name), at.join("aside"));
        fs::rename(&pin, &aside)?;
        Array::<MapData, [u64; 512]>::create(64, 0)?.pin(&pin)?;
        let arguments = ["--instance", killed.name(), "run", "--interface", INTERFACE];
        let (_, said, status) = run_tracker(&arguments, Some(&pair.host))?;
        ensure!(status.code() == Some(1), "{status}: {said}");
        ensure!(said.contains(&format!("not the map {name}")), "{said}");
        if name != "EVENTS" && name != "REMOVALS" {
            let (_, said, status) = run_tracker(&["--instance", killed.name(), "stats"], None)?;
            ensure!(status.code() == Some(1) && said.contains("not the map"), "{said}");
        }
        fs::remove_file(&pin)?;
        fs::rename(&aside, &pin)?;
    }
    killed.restart(&pair.host, &["--interface", INTERFACE])?.finish()?;
    Ok(())
}
