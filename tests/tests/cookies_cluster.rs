//! Cookies of hosts that share an address and keys: a router sends a client's SYN to one of them, and what follows to another.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use socket2::SockRef;
use tracker_common::cookie::PERIOD_SHIFT;
use tracker_tests::{
    agent::{Agent, run_tracker},
    fault::send,
    lab::cable,
    namespace::Namespace,
    nft,
};
use tracker_user::agent::protect::SHORTEST_ROTATION;

/// The address that every host has.
const SHARED: &str = "10.7.7.7:80";

const PATIENCE: Duration = Duration::from_secs(20);

/// A client, a router, and hosts with one address behind it.
struct Site {
    agents: Vec<Agent>,
    hosts: Vec<Namespace>,
    client: Namespace,
    _router: Namespace,
    keys: Keys,
}

/// A file of keys that vanishes.
struct Keys(PathBuf);

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Keys {
    fn new(name: &str, text: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
        let keys = Self(path);
        keys.write(text, 0o600)?;
        Ok(keys)
    }

    fn write(&self, text: &str, mode: u32) -> Result<()> {
        fs::write(&self.0, text)?;
        Ok(fs::set_permissions(&self.0, fs::Permissions::from_mode(mode))?)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a name of letters")
    }
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// A line of a file of keys.
fn key(since: Duration, digit: char) -> Result<String> {
    let since = Timestamp::from_second(i64::try_from(since.as_secs())?)?;
    Ok(format!("{since} {}\n", digit.to_string().repeat(32)))
}

impl Site {
    /// Hosts that answer in these modes, behind a router with these rules: a packet with mark 1 goes to the first, and so on.
    fn new(modes: &[&str], rules: &str, keys: Keys) -> Result<Self> {
        let (client, router) = (Namespace::new()?, Namespace::new()?);
        let join = |other: &Namespace, near: &str, net: usize| -> Result<()> {
            cable((&router, near), (other, "veth0"))?;
            router.run("ip", &["addr", "add", &format!("10.1.{net}.1/24"), "dev", near])?;
            other.run("ip", &["addr", "add", &format!("10.1.{net}.2/24"), "dev", "veth0"])?;
            other.run("ip", &["route", "add", "default", "via", &format!("10.1.{net}.1")])?;
            Ok(())
        };
        router.sysctl("net/ipv4/ip_forward", "1")?;
        join(&client, "client", 0)?;
        let (mut hosts, mut agents) = (Vec::new(), Vec::new());
        for (n, mode) in (1..).zip(modes) {
            let host = Namespace::new()?;
            join(&host, &format!("host{n}"), n)?;
            host.run("ip", &["addr", "add", "10.7.7.7/32", "dev", "lo"])?;
            let (mark, table, via) = (n.to_string(), format!("{}", 100 + n), format!("10.1.{n}.2"));
            router.run("ip", &["rule", "add", "fwmark", &mark, "table", &table])?;
            router.run("ip", &["route", "add", "default", "via", &via, "table", &table])?;
            let options = [
                "--interface",
                "veth0",
                "--ingress",
                "tcx",
                "--protect",
                "80@10.7.7.7",
                "--syn-cookies",
                mode,
                "--cookie-keys",
                keys.path(),
            ];
            let agent = Agent::start(&host, &options)?;
            agent.wait_for_log("listeners are protected")?;
            agents.push(agent);
            hosts.push(host);
        }
        nft::load(&router, rules)?;
        Ok(Self { agents, hosts, client, _router: router, keys })
    }

    /// Serves at every host until `done`; how many connections each has served.
    fn serve(
        &self,
        done: &AtomicBool,
        work: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Vec<u64>> {
        let at: SocketAddr = SHARED.parse()?;
        let listeners: Vec<_> = self
            .hosts
            .iter()
            .map(|host| host.enter(|| Ok(TcpListener::bind(at)?)))
            .collect::<Result<_>>()?;
        thread::scope(|scope| {
            let servers: Vec<_> = listeners
                .iter()
                .map(|listener| {
                    SockRef::from(listener).set_read_timeout(Some(Duration::from_millis(100)))?;
                    Ok(scope.spawn(|| serve(listener, done)))
                })
                .collect::<Result<_>>()?;
            let result = work();
            done.store(true, Ordering::Relaxed);
            let mut served = Vec::new();
            for server in servers {
                served.push(server.join().map_err(|_| anyhow::anyhow!("a server panicked"))??);
            }
            result?;
            Ok(served)
        })
    }

    /// Cookies with an outcome, over all hosts.
    fn outcome(&self, name: &str) -> Result<u64> {
        let of_each = self.agents.iter().map(|agent| -> Result<u64> {
            agent.stats()?["cookies"]["total"][name].as_u64().context("an outcome")
        });
        of_each.sum()
    }
}

fn serve(listener: &TcpListener, done: &AtomicBool) -> Result<u64> {
    let mut served = 0;
    while !done.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut asked = [0; 4];
                stream.read_exact(&mut asked)?;
                stream.write_all(&asked)?;
                served += 1;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(served)
}

/// A client that asks and is answered, and leaves nothing behind.
fn ask(client: &Namespace, until: impl Fn(u64) -> bool + Send + Sync) -> Result<u64> {
    let at: SocketAddr = SHARED.parse()?;
    client.enter(|| {
        let mut asked = 0;
        while !until(asked) {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE)
                .with_context(|| format!("connection {asked}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.write_all(b"ping")?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).with_context(|| {
                format!("connection {asked} from {:?} at {:?}", stream.local_addr(), now())
            })?;
            ensure!(answer == *b"ping");
            asked += 1;
        }
        Ok(asked)
    })
}

/// By the client's port, of which every fourth stays at its host; the kernel prefers even ones.
const MOVES: &str = "table ip moves {
    chain asks {
        tcp sport & 6 == 0 meta mark set 1
        tcp sport & 6 == 2 meta mark set 2
        tcp sport & 6 == 4 meta mark set 3
        tcp sport & 6 == 6 meta mark set 1
    }
    chain goes_on {
        tcp sport & 6 == 0 meta mark set 2
        tcp sport & 6 == 2 meta mark set 3
        tcp sport & 6 == 4 meta mark set 1
        tcp sport & 6 == 6 meta mark set 1
    }
    chain arrives {
        type filter hook prerouting priority mangle
        iifname client tcp flags & (syn | ack) == syn goto asks
        iifname client meta l4proto tcp goto goes_on
    }
}";

/// How many keys come into use while clients ask.
fn new_keys() -> Result<u32> {
    match env::var("TRACKER_CLUSTER_KEYS") {
        Ok(text) => text.parse().with_context(|| format!("TRACKER_CLUSTER_KEYS={text}")),
        Err(_) => Ok(1),
    }
}

#[test]
fn any_host_takes_a_cookie_of_any_other() -> Result<()> {
    const CONNECTIONS: u64 = 10_000;
    // A period's first second: the next key is used from there on, while clients go on asking.
    let began = now()?;
    let period = 1_u128 << PERIOD_SHIFT;
    let boundary = (began.as_nanos() / period + 1) * period;
    let mut boundary = Duration::from_nanos(u64::try_from(boundary)?) + Duration::from_secs(1);
    let mut lines = vec![key(began - Duration::from_secs(1000), 'a')?];
    let keys = Keys::new("cluster", &lines[0])?;
    let site = Site::new(&["always"; 3], MOVES, keys)?;
    let (done, all) = (AtomicBool::new(false), AtomicU64::new(0));
    let served = site.serve(&done, || {
        let mut asked = ask(&site.client, |asked| asked == CONNECTIONS / 2)?;
        for digit in ('b'..).take(usize::try_from(new_keys()?)?) {
            // With the one before it, whose cookies are still under way.
            lines.push(key(boundary, digit)?);
            site.keys.write(&lines[lines.len() - 2..].concat(), 0o600)?;
            for agent in &site.agents {
                send(agent.pid(), Signal::SIGHUP)?;
                agent.wait_for_log("there is another key for cookies")?;
            }
            let end = boundary + Duration::from_secs(1);
            asked += ask(&site.client, |asked| {
                asked >= CONNECTIONS / 2 && now().is_ok_and(|now| now > end)
            })?;
            boundary += Duration::from_secs(SHORTEST_ROTATION.into());
        }
        all.store(asked, Ordering::Relaxed);
        Ok(())
    })?;
    let all = all.into_inner();
    assert_eq!(served.iter().sum::<u64>(), all, "{served:?}");
    assert!(served.iter().all(|served| *served > all / 10), "{served:?}");
    assert_eq!(site.outcome("accepted")?, all);
    for wrong in ["forged", "expired", "no_key", "replayed"] {
        assert_eq!(site.outcome(wrong)?, 0, "{wrong}");
    }
    println!("{all} connections, {served:?} at each host");
    Ok(())
}

#[test]
fn a_host_without_a_flood_takes_cookies_of_one_with() -> Result<()> {
    const MOVED: &str = "table ip moves {
        chain arrives {
            type filter hook prerouting priority mangle
            iifname client tcp flags & (syn | ack) == syn meta mark set 1 accept
            iifname client meta l4proto tcp meta mark set 2
        }
    }";
    let keys = Keys::new("calm", &key(now()? - Duration::from_secs(1000), 'a')?)?;
    let site = Site::new(&["always", "auto"], MOVED, keys)?;
    let done = AtomicBool::new(false);
    let served = site.serve(&done, || ask(&site.client, |asked| asked == 200).map(|_| ()))?;
    assert_eq!(served, [0, 200]);
    assert_eq!(site.outcome("accepted")?, 200);
    assert_eq!(site.outcome("forged")?, 0);
    Ok(())
}

#[test]
fn the_file_of_keys_is_made_rotated_and_checked() -> Result<()> {
    let keys = Keys::new("verb", "")?;
    fs::remove_file(&keys.0)?;
    let run = |arguments: &[&str]| -> Result<(String, String, Option<i32>)> {
        let (stdout, stderr, status) = run_tracker(&[&["keys"], arguments].concat(), None)?;
        Ok((stdout, stderr, status.code()))
    };
    let (made, _, code) = run(&["new", keys.path(), "--after", "600"])?;
    assert_eq!(code, Some(0));
    assert_eq!(mode(&keys.0)?, 0o600);
    let lines: Vec<_> = made.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].ends_with(" used") && lines[1].ends_with(" ahead"),
        "{made}"
    );
    // What is shown is no key.
    let text = fs::read_to_string(&keys.0)?;
    for secret in text.lines().filter_map(|line| line.split_whitespace().nth(1)) {
        assert!(!made.contains(secret));
    }
    let (_, said, code) = run(&["new", keys.path()])?;
    assert!(code == Some(1) && said.contains("File exists"), "{said}");

    let (rotated, _, code) = run(&["rotate", keys.path(), "--after", "600"])?;
    assert_eq!((code, rotated.lines().count(), mode(&keys.0)?), (Some(0), 3, 0o600));
    assert!(rotated.starts_with(&made), "{rotated}");
    let (checked, said, code) = run(&["check", keys.path()])?;
    assert_eq!((checked.as_str(), said.as_str(), code), (rotated.as_str(), "", Some(0)));

    let old = now()? - Duration::from_secs(5000);
    keys.write(&format!("{}{}", key(old, 'a')?, key(old + Duration::from_secs(900), 'b')?), 0o600)?;
    let (checked, said, code) = run(&["check", keys.path()])?;
    assert!(code == Some(0) && said.contains("is used for good"), "{said}");
    assert!(checked.lines().next().is_some_and(|line| line.ends_with(" over")), "{checked}");
    let (rotated, _, _) = run(&["rotate", keys.path()])?;
    assert_eq!(rotated.lines().count(), 2, "the first is over: {rotated}");
    Ok(())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

#[test]
fn a_file_that_others_may_read_or_that_is_wrong_is_refused() -> Result<()> {
    let host = Namespace::new()?;
    host.run("ip", &["link", "set", "lo", "up"])?;
    host.run("ip", &["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"])?;
    host.run("ip", &["addr", "add", "10.7.7.7/32", "dev", "veth0"])?;
    let now = now()?;
    let good = key(now - Duration::from_secs(1000), 'a')?;
    let keys = Keys::new("wrong", &good)?;
    for (text, mode, wanted) in [
        (good.clone(), 0o640, "take away the others' rights (`chmod 600`)"),
        (
            good.replace('a', "x"),
            0o600,
            "line 1: the key has 32 characters that are not all hexadecimal",
        ),
        (String::new(), 0o600, "`tracker keys new FILE` makes"),
        (key(now + Duration::from_secs(1000), 'a')?, 0o600, "no key is used yet"),
    ] {
        keys.write(&text, mode)?;
        let run = ["run", "--interface", "veth0", "--protect", "80", "--cookie-keys", keys.path()];
        let (_, said, status) = run_tracker(&run, Some(&host))?;
        assert!(status.code() == Some(1) && said.contains(wanted), "{said}");
        assert!(said.contains(keys.path()) || wanted.contains("yet"), "{said}");
        assert!(!said.contains(&"a".repeat(32)), "{said}");
    }
    let both = [
        "run",
        "--interface",
        "veth0",
        "--protect",
        "80",
        "--cookie-keys",
        "x",
        "--syn-cookies-rotate",
        "600",
    ];
    let (_, said, status) = run_tracker(&both, Some(&host))?;
    assert!(status.code() == Some(2) && said.contains("cannot be used with"), "{said}");
    Ok(())
}

/// Everything goes to the first.
const STAYS: &str = "table ip moves {
    chain arrives {
        type filter hook prerouting priority mangle
        iifname client meta mark set 1
    }
}";

#[test]
fn a_wrong_file_changes_nothing_while_the_agent_runs() -> Result<()> {
    let keys = Keys::new("reload", &key(now()? - Duration::from_secs(1000), 'a')?)?;
    let site = Site::new(&["always"], STAYS, keys)?;
    site.keys.write("nonsense", 0o600)?;
    send(site.agents[0].pid(), Signal::SIGHUP)?;
    let said = site.agents[0].wait_for_log("the keys of cookies stay what they were")?;
    assert!(said.contains("line 1"), "{said}");
    let done = AtomicBool::new(false);
    let served = site.serve(&done, || ask(&site.client, |asked| asked == 10).map(|_| ()))?;
    assert_eq!(served, [10]);
    assert_eq!(site.outcome("accepted")?, 10);
    Ok(())
}
