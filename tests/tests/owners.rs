//! `tracker flows --processes`: whose sockets the ends of connections are. /proc and the control groups that a process is put in are the
//! oracle.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use socket2::Socket;
use tracker_tests::{
    agent::{Agent, eventually, tracker},
    lab::{INTERFACE, Pair, address},
    sockets::{accept, bound, listener, transfer},
};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const POD: &str = "6e1d2f4a-1111-2222-3333-444455556666";

struct Laboratory {
    pair: Pair,
    agent: Agent,
    listener: Socket,
    server: SocketAddr,
}

impl Laboratory {
    fn new() -> Result<Self> {
        let pair = Pair::with_addresses()?;
        let agent = Agent::start(&pair.host, &["--interface", INTERFACE])?;
        let server = SocketAddr::new(address::PEER[0], 80);
        let listener = listener(&pair.peer, server)?;
        Ok(Self { pair, agent, listener, server })
    }

    /// A connection from this port of the host.
    fn connect(&self, port: u16) -> Result<[Socket; 2]> {
        let local = SocketAddr::new(address::HOST[0], port);
        let client = bound(&self.pair.host, local)?;
        client.connect(&self.server.into())?;
        let server = accept(&self.listener, local)?;
        transfer(&client, &server, 100)?;
        Ok([client, server])
    }

    fn flows(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let shown = self.agent.ask(&[&["flows", "-o", "json"], arguments].concat())?;
        let shown: Value = serde_json::from_str(&shown)?;
        Ok(shown["flows"].as_array().context("flows")?.clone())
    }

    /// Ports of the host's ends, in order.
    fn ports(&self, arguments: &[&str]) -> Result<Vec<u64>> {
        let flows = self.flows(arguments)?;
        let mut ports: Vec<_> = flows.iter().filter_map(|flow| flow["sport"].as_u64()).collect();
        ports.sort_unstable();
        Ok(ports)
    }
}

/// A process that does nothing but hold a socket, in a control group of its own.
struct Holder {
    child: Child,
    group: PathBuf,
}

impl Holder {
    fn new(socket: &Socket) -> Result<Self> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let root = if root.join("unified").exists() { root.join("unified") } else { root };
        let group = root.join(format!("kubepods-tracker-{}/pod{POD}/{ID}", std::process::id()));
        fs::create_dir_all(&group).with_context(|| {
            format!("this test makes control groups (cgroup v2): {}", group.display())
        })?;
        let kept = socket.try_clone()?;
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(move || {
                fcntl(&kept, FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
        let child = command.spawn()?;
        // Else this process has it, too.
        drop(command);
        let holder = Self { child, group };
        fs::write(holder.group.join("cgroup.procs"), holder.child.id().to_string())?;
        Ok(holder)
    }

    /// Its group, from the root on.
    fn group(&self) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(line.with_context(|| text.clone())?.to_owned())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
        for group in self.group.ancestors().take(3) {
            let _ = fs::remove_dir(group);
        }
    }
}

fn own_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/self/comm")?.trim().to_owned())
}

#[test]
fn a_thousand_connections_are_this_process_s() -> Result<()> {
    const CONNECTIONS: u16 = 1000;
    let lab = Laboratory::new()?;
    let sockets: Vec<_> =
        (0..CONNECTIONS).map(|n| lab.connect(20_000 + n)).collect::<Result<_>>()?;
    let me = serde_json::json!([{"pid": std::process::id(), "name": own_name()?}]);
    let mut last = Vec::new();
    // Another test's child has them, too, until it has become another program.
    eventually("all are this process's", || {
        last = lab.flows(&["-p"])?;
        Ok(last.iter().all(|flow| flow["orig"]["owner"]["processes"] == me))
    })
    .with_context(|| format!("{:?}", last.first()))?;
    ensure!(last.len() == usize::from(CONNECTIONS), "{} flows", last.len());
    for flow in &last {
        let owner = &flow["orig"]["owner"];
        assert_eq!((&owner["uid"], &owner["user"]), (&Value::from(0), &Value::from("root")));
        // The server's socket is in another network namespace: for the agent it is no socket of this host.
        assert!(flow["reply"]["owner"].is_null(), "{flow}");
    }
    // Nobody has asked.
    assert!(lab.flows(&[])?.iter().all(|flow| flow["orig"]["owner"].is_null()));
    drop(sockets);
    Ok(())
}

#[test]
fn process_user_group_container_and_pod_are_found_and_filtered_by() -> Result<()> {
    let lab = Laboratory::new()?;
    let [client, _server] = lab.connect(30_001)?;
    let _other = lab.connect(30_002)?;
    let holder = Holder::new(&client)?;
    drop(client);
    let pid = holder.child.id();
    let group = holder.group()?;
    let holds = serde_json::json!([{"pid": pid, "name": "sleep"}]);
    let mut owner = Value::Null;
    eventually("it alone has the socket", || {
        let flow = lab.flows(&["-p", "sport", "30001"])?.pop().context("a flow")?;
        owner = flow["orig"]["owner"].clone();
        Ok(owner["processes"] == holds)
    })?;
    assert_eq!(owner["cgroup"], group);
    assert_eq!(owner["container"], ID);
    assert_eq!(owner["pod"], serde_json::json!({ "uid": POD }));

    let (me, number) = (own_name()?, pid.to_string());
    let parent = group.rsplit_once('/').context("a group in a group")?.0;
    for (arguments, ports) in [
        (["--process", "sleep"], &[30_001][..]),
        (["--process", &number], &[30_001]),
        (["--process", &me], &[30_002]),
        (["--process", "nobody"], &[]),
        (["--user", "root"], &[30_001, 30_002]),
        (["--user", "nobody"], &[]),
        (["--cgroup", &group], &[30_001]),
        (["--cgroup", parent], &[30_001]),
        (["--container", &ID[..12]], &[30_001]),
        (["--pod", POD], &[30_001]),
        (["--pod", "web-1"], &[]),
    ] {
        assert_eq!(lab.ports(&arguments)?, ports, "{arguments:?}");
    }
    // With other filters, before the last ones are taken.
    assert_eq!(lab.ports(&["--user", "root", "--last", "1", "-s", "sport"])?, [30_002]);
    assert_eq!(lab.ports(&["--user", "root", "sport", "30001"])?, [30_001]);

    // In text, and as columns.
    let text = lab.agent.ask(&["flows", "-o", "full", "-p", "sport", "30001"])?;
    let said = format!(
        " process=sleep/{pid} user=root cgroup={group} container={} pod={POD}\n",
        &ID[..12]
    );
    assert!(text.ends_with(&said), "{text}");
    let columns = ["flows", "-c", "sport,process,user,container", "-s", "sport"];
    let table = lab.agent.ask(&columns)?;
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let process = format!("sleep/{pid}");
    assert_eq!(rows[0], ["SPORT", "PROCESS", "USER", "CONTAINER"]);
    assert_eq!(rows[1], ["30001", &process, "root", &ID[..12]]);

    // The kubelet's logs name the pod.
    let mut script =
        format!("mount -t tmpfs none /var/log && mkdir -p /var/log/pods/shop_web-1_{POD}");
    script.push_str(" && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(tracker()?);
    command.args(["--instance", lab.agent.name(), "flows", "-o", "json", "--pod", "shop/web-1"]);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(shown["flows"].as_array().map(Vec::len), Some(1), "{shown}");
    let pod = &shown["flows"][0]["orig"]["owner"]["pod"];
    assert_eq!(*pod, serde_json::json!({ "uid": POD, "namespace": "shop", "name": "web-1" }));
    Ok(())
}

#[test]
fn a_socket_without_a_process_has_no_owner() -> Result<()> {
    let lab = Laboratory::new()?;
    let [client, server] = lab.connect(31_000)?;
    // The host's end waits in FIN_WAIT_2: nobody has it open.
    drop(client);
    eventually("it is closed", || {
        let flow = lab.flows(&["-p"])?.pop().context("a flow")?;
        Ok(flow["orig"]["state"] == "FIN_WAIT_2" && flow["orig"]["owner"].is_null())
    })?;
    drop(server);
    Ok(())
}

#[test]
fn both_ends_on_this_host_are_named() -> Result<()> {
    let pair = Pair::with_addresses()?;
    let agent = Agent::start(&pair.host, &["--interface", "lo"])?;
    let server = SocketAddr::new([127, 0, 0, 1].into(), 80);
    let listening = listener(&pair.host, server)?;
    let local = SocketAddr::new([127, 0, 0, 1].into(), 32_000);
    let client = bound(&pair.host, local)?;
    client.connect(&server.into())?;
    let served = accept(&listening, local)?;
    transfer(&client, &served, 100)?;
    let shown: Value = serde_json::from_str(&agent.ask(&["flows", "-p", "-o", "json"])?)?;
    let flow = &shown["flows"][0];
    for end in ["orig", "reply"] {
        let mine = |found: &Value| found["pid"] == std::process::id();
        let processes = flow[end]["owner"]["processes"].as_array();
        assert!(processes.is_some_and(|processes| processes.iter().any(mine)), "{flow}");
    }
    Ok(())
}

#[test]
fn who_may_not_see_all_is_told() -> Result<()> {
    let lab = Laboratory::new()?;
    let _sockets = lab.connect(33_000)?;
    let ask = |name: &str, set: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(set).arg(tracker()?);
        command.args(["--instance", name, "flows", "-p", "-o", "jsonl"]);
        let output = lab.pair.host.enter(|| Ok(command.output()?))?;
        let [stdout, stderr] = [output.stdout, output.stderr].map(String::from_utf8);
        Ok::<_, anyhow::Error>((output.status.code(), stdout?, stderr?))
    };
    const LESS: [&str; 2] = ["--inh-caps=-sys_ptrace", "--bounding-set=-sys_ptrace"];
    let (code, _, said) = ask(lab.agent.name(), &LESS)?;
    let advice = "which takes root or CAP_SYS_PTRACE";
    assert!(code == Some(1) && said.contains(advice), "{code:?} {said}");

    // Where the agent has gone, its flows are still there, and this network namespace is asked.
    let killed = lab.agent.kill()?;
    const SAID: &str = "processes of other users are not named: that takes root, or CAP_SYS_PTRACE";
    for (set, sees) in [(&LESS[..], false), (&["--inh-caps=-setpcap"], true)] {
        let (code, shown, said) = ask(killed.name(), set)?;
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.contains(SAID), !sees, "{said} {shown}");
        let flow: Value = serde_json::from_str(shown.lines().next().context("a flow")?)?;
        let owner = &flow["orig"]["owner"];
        assert_eq!((&owner["uid"], &owner["user"]), (&Value::from(0), &Value::from("root")));
        let pids = owner["processes"].as_array().context("processes")?;
        assert_eq!(pids.iter().any(|found| found["pid"] == std::process::id()), sees, "{owner}");
    }
    Ok(())
}
