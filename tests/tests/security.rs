//! What those who are near an agent cannot do, as far as no other test shows it: docs/security.md has the whole.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::{FileExt, MetadataExt},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use clap::Parser;
use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::Signal,
    },
    unistd::{Gid, chown},
};
use tracker_common::cookie::Keys;
use tracker_tests::{
    agent::{Agent, eventually, pins, run_tracker, tracker},
    fault::{Directory, pause, resume, send},
    lab::{Bench, INTERFACE, Pair},
};
use tracker_user::{cli::Cli, client::map_sharing::SharedMaps};

/// Starts a program that may leave a core dump in a directory, has it crash once it is `ready`, and returns how it ended.
fn crash(command: &mut Command, at: &Directory, ready: impl Fn() -> bool) -> Result<ExitStatus> {
    // SAFETY: this is one system call.
    unsafe {
        command.pre_exec(|| {
            setrlimit(Resource::RLIMIT_CORE, libc::RLIM_INFINITY, libc::RLIM_INFINITY)?;
            Ok(())
        });
    }
    command
        .current_dir(at.itself())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    eventually("it is ready", || Ok(ready()))?;
    // Not SIGSEGV: Rust's handler of that waits for the next one.
    send(child.id(), Signal::SIGABRT)?;
    Ok(child.wait()?)
}

#[test]
fn an_agent_that_crashes_leaves_no_core_dump() -> Result<()> {
    let directory = Directory::new("core")?;
    // Where nobody gets one, nothing is shown.
    let status = crash(Command::new("sleep").arg("60"), &directory, || true)?;
    ensure!(
        status.core_dumped(),
        "this needs core dumps: CONFIG_COREDUMP, and a kernel.core_pattern that takes them ({status})"
    );
    let pair = Pair::silent()?;
    let name = format!("core-{}", std::process::id());
    let mut agent = pair.host.command(tracker()?.to_str().context("a path of UTF-8")?);
    agent.args(["--instance", &name, "run", "--interface", INTERFACE]);
    // The last that it writes before it is ready.
    let info = PathBuf::from(format!("/run/tracker/{name}.json"));
    let status = crash(&mut agent, &directory, || info.exists())?;
    let (_, said, detached) = run_tracker(&["--instance", &name, "detach"], None)?;
    ensure!(detached.success(), "{said}");
    ensure!(status.signal() == Some(Signal::SIGABRT as i32) && !status.core_dumped(), "{status}");
    Ok(())
}

/// How often each of these bytes is in the memory of a process.
fn occurrences(pid: u32, wanted: &[[u8; 8]]) -> Result<Vec<usize>> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("reading another's memory")?;
    let mut found = vec![0; wanted.len()];
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().context("a range")?, words.next().context("rights")?);
        // What it has not written holds nothing of its own; what it shares are the kernel's ring buffer and the clock.
        if !rights.starts_with("rw-p") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        memory.read_exact_at(&mut bytes, from).with_context(|| line.to_owned())?;
        for (count, wanted) in found.iter_mut().zip(wanted) {
            *count += bytes.windows(8).filter(|bytes| bytes == wanted).count();
        }
    }
    Ok(found)
}

#[test]
fn no_key_of_cookies_stays_in_the_agents_memory() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(&pair.host, &["--interface", INTERFACE, "--protect", "80"])?;
    agent.wait_for_log("listeners are protected")?;
    let map = Map::Array(MapData::from_pin(pins(agent.name()).join("KEYS"))?);
    let keys: Array<_, [u64; size_of::<Keys>() / 8]> = map.try_into()?;
    let [first, second, ..] = keys.get(&0, 0)?;
    ensure!(first != 0 && second != 0, "there is a key");
    // What can be found is: its name, eight of its letters at a time.
    let name: [u8; 8] = agent.name().as_bytes()[..8].try_into()?;
    let wanted = [first.to_ne_bytes(), second.to_ne_bytes(), name];
    // It reads the keys once a second, and has them for as long as that takes.
    let mut last = Vec::new();
    for _ in 0..3 {
        pause(agent.pid())?;
        last = occurrences(agent.pid(), &wanted)?;
        resume(agent.pid())?;
        ensure!(last[2] > 0, "not even its name is in its memory");
        if last[..2] == [0, 0] {
            return agent.finish().map(drop);
        }
    }
    anyhow::bail!("the halves of a key are in its memory: {last:?}")
}

/// What a command of bpf(2) on a map that an agent has shared says: its error's number, or 0. The first `members` of map, key, value
/// and flags are given; the kernel wants zeroes for others.
fn attempt(command: libc::c_long, map: &impl AsRawFd, members: usize) -> Result<i32> {
    let (key, mut value) = ([0_u8; 64], vec![0_u8; 1 << 16]);
    let given =
        [u64::try_from(map.as_raw_fd())?, key.as_ptr() as u64, value.as_mut_ptr() as u64, 0];
    let mut attributes = [0_u64; 4];
    attributes[..members].copy_from_slice(&given[..members]);
    // SAFETY: key and value are longer than those of any map here, and outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes))
    };
    if result >= 0 {
        return Ok(0);
    }
    std::io::Error::last_os_error().raw_os_error().context("a number")
}

#[test]
fn maps_that_an_agent_shares_can_only_be_read() -> Result<()> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    /// With how many members of the attributes each has.
    const WRITING: [(&str, libc::c_long, usize); 4] = [
        ("BPF_MAP_UPDATE_ELEM", 2, 4),
        ("BPF_MAP_DELETE_ELEM", 3, 2),
        ("BPF_MAP_LOOKUP_AND_DELETE_ELEM", 21, 4),
        ("BPF_MAP_FREEZE", 22, 1),
    ];
    let bench = Bench::with(&["--protect", "80"])?;
    let line = ["tracker", "--instance", bench.agent.name(), "flows"];
    let mut shared = SharedMaps::ask(&Cli::try_parse_from(line)?.instance)?;
    ensure!(shared.take("KEYS").is_err(), "keys of cookies are shared");
    for name in ["CONFIRMED", "HALF_OPEN", "CONFIG", "LISTENERS", "TALLIES"] {
        let map = shared.take(name)?;
        let map = map.fd().as_fd();
        let said = attempt(BPF_MAP_LOOKUP_ELEM, &map, 4)?;
        ensure!([0, libc::ENOENT].contains(&said), "{name} cannot be read: error {said}");
        for (what, command, members) in WRITING {
            let said = attempt(command, &map, members)?;
            // Even root, who holds no other descriptor here.
            ensure!(said == libc::EPERM, "{what} on {name}: error {said}");
        }
    }
    Ok(())
}

#[test]
fn root_of_a_user_namespace_is_not_root() -> Result<()> {
    const GROUP: u32 = 64_125;
    const USER: u32 = 64_126;
    let bench = Bench::new()?;
    for file in ["sock", "json"] {
        let path = format!("/run/tracker/{}.{file}", bench.agent.name());
        chown(path.as_str(), None, Some(Gid::from_raw(GROUP)))?;
    }
    let directory = Directory::new("userns")?;
    let program = directory.path("tracker")?;
    fs::copy(tracker()?, &program)?;
    let inside = |command: &[&str]| -> Result<(bool, String)> {
        let (user, group) = (USER.to_string(), GROUP.to_string());
        let output = Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &group, "--clear-groups"])
            .args(["unshare", "--user", "--map-root-user"])
            .args(command)
            .output()
            .context("starting setpriv, of util-linux")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(said)?))
    };
    let (is_root, said) = inside(&["id", "-u"])?;
    ensure!(is_root && said.trim() == "0", "this needs CONFIG_USER_NS, for any user: {said}");
    let ask = |verb: &str| inside(&[&program, "--instance", bench.agent.name(), verb]);
    let (is_done, said) = ask("flows")?;
    ensure!(is_done, "a member of the group may look: {said}");
    let (is_done, said) = ask("flush")?;
    ensure!(!is_done && said.contains("deleting flows needs root"), "{said}");
    Ok(())
}

#[test]
fn nobody_else_can_open_what_an_agent_locks() -> Result<()> {
    let bench = Bench::new()?;
    for file in ["lock", "json", "sock"] {
        let path = format!("/run/tracker/{}.{file}", bench.agent.name());
        let mode = fs::metadata(&path).context(path.clone())?.mode();
        ensure!(mode & 0o007 == 0, "{path} has mode {mode:o}");
    }
    Ok(())
}
