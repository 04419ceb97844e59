//! Every command that the documentation shows is run as it stands there.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tracker_tests::{
    agent::tracker,
    namespace::Namespace,
    pcap::{Form, Ng, Order, Packet, pcap},
    segment::{Segment, flag},
};

/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// A host as the documentation assumes one: interfaces, addresses, an agent's directories of its own, and a capture.
struct Host {
    network: Namespace,
    directory: PathBuf,
    /// Keeps the mount namespace.
    keeper: Child,
}

impl Host {
    fn new() -> Result<Self> {
        let network = Namespace::new()?;
        for (name, peer, address) in [
            ("eth0", "veth0", ["192.0.2.1/24", "2001:db8::1/64"]),
            ("eth1", "veth1", ["198.51.100.1/24", "2001:db8:1::1/64"]),
        ] {
            network.run("ip", &["link", "add", name, "type", "veth", "peer", "name", peer])?;
            network.run("ip", &["link", "set", peer, "up"])?;
            network.run("ip", &["link", "set", name, "up"])?;
            for address in address {
                network.run("ip", &["address", "add", address, "dev", name])?;
            }
        }
        let directory = std::env::temp_dir().join(format!("tracker-docs-{}", std::process::id()));
        fs::create_dir_all(directory.join("bin"))?;
        fs::create_dir_all(directory.join("target/release"))?;
        for place in ["bin/tracker", "target/release/tracker"] {
            std::os::unix::fs::symlink(tracker()?, directory.join(place))?;
        }
        // Root needs no sudo; and what tcpdump would have captured is there.
        for (name, text) in [("sudo", "exec \"$@\""), ("tcpdump", "exec cat capture.pcap")] {
            let path = directory.join("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let packets = capture();
        for name in ["capture.pcap", "in.pcap", "out.pcap"] {
            let file = pcap(Order::Little, Form::Microseconds, ETHERNET, &packets);
            fs::write(directory.join(name), file)?;
        }
        let file = Ng::new(Order::Little).interface(1, 0, &[]);
        let file = packets.iter().fold(file, Ng::simple);
        fs::write(directory.join("capture.pcapng"), file.file())?;
        fs::write(directory.join("tracker.toml"), "interface = [\"eth0\"]\n")?;
        // What an agent with --export-file has at its start.
        fs::write(directory.join("records.jsonl"), "")?;
        // An agent named `default` may be at work on this machine.
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/etc && cp -a /etc/. /run/etc && mount --bind /run/etc /etc \
                      && mkdir -p /etc/tracker && mount -t bpf bpf /sys/fs/bpf && echo ready && exec cat";
        let mut keeper = network
            .command("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare, of util-linux")?;
        let mut said = [0; 6];
        keeper
            .stdout
            .take()
            .context("a pipe")?
            .read_exact(&mut said)
            .context("a mount namespace could not be made; what mount said is above")?;
        Ok(Self { network, directory, keeper })
    }

    /// Starts what a user would type, as the leader of a process group of its own.
    fn start(&self, line: &str) -> Result<Child> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.network.path()))
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()))
            .arg(format!("--wd={}", self.directory.display()))
            // So that a command that says nothing fails by itself.
            .args(["timeout", "--foreground", "60", "bash", "-o", "pipefail", "-c", line])
            .env("PATH", format!("{}/bin:{path}:/usr/sbin:/sbin", self.directory.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        command.spawn().context("starting nsenter, of util-linux")
    }

    /// Runs it to its end, which must be a good one.
    fn run(&self, line: &str) -> Result<()> {
        let output = self.start(line)?.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{line}` ended with {}: {stderr}", output.status);
        Ok(())
    }

    /// Runs what does not end by itself until it says that it is at work.
    fn run_until(&self, line: &str, at_work: &str) -> Result<Running> {
        let mut child = self.start(line)?;
        let mut said = String::new();
        let stderr = child.stderr.take().context("a pipe")?;
        let mut running = Running { child, line: line.to_owned() };
        let mut stderr = BufReader::new(stderr);
        loop {
            let mut next = String::new();
            if stderr.read_line(&mut next)? == 0 {
                let status = running.child.wait()?;
                bail!("`{line}` ended with {status}: {said}");
            }
            said.push_str(&next);
            if next.contains(at_work) {
                // Whatever else it says is read, so that it never waits for that.
                std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
                return Ok(running);
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A handshake.
fn capture() -> Vec<Packet> {
    let (client, server) = ("192.0.2.2:40000", "192.0.2.1:443");
    let address = |text: &str| text.parse().expect("an address and a port");
    let segments = [
        Segment::new(address(client), address(server), flag::SYN, 100, 0),
        Segment::new(address(server), address(client), flag::SYN | flag::ACK, 500, 101),
        Segment::new(address(client), address(server), flag::ACK, 101, 501),
    ];
    segments.iter().map(|segment| Packet::new(1_700_000_000_000_000_000, segment.frame())).collect()
}

/// A command that is at work.
struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Ends it as a user would by Ctrl-C, with everything that it has started.
    fn interrupt(mut self) -> Result<()> {
        killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let status = self.child.wait()?;
        ensure!(
            status.code() == Some(0) || self.is_reader(),
            "`{}` ended with {status}",
            self.line
        );
        Ok(())
    }

    /// Whether it only listens, so that a signal ends it like any other.
    fn is_reader(&self) -> bool {
        !self.line.contains("tracker run")
    }
}

/// Returns the lines of a page that a user is to type into a shell.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for line in page.lines() {
        let Some(code) = line.strip_prefix("    ") else { continue };
        let code = code.strip_prefix("$ ").unwrap_or(code);
        let starts =
            ["sudo tracker ", "tracker ", "sudo target/release/tracker ", "tcpdump ", "curl "];
        if starts.iter().any(|start| code.starts_with(start)) {
            // What follows explains it.
            let command = code.split("   #").next().unwrap_or(code).trim_end();
            commands.push(command.to_owned());
        }
    }
    commands
}

/// README and everything in docs/.
fn pages() -> Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = vec![root.join("README.md")];
    for page in fs::read_dir(root.join("docs"))? {
        let path = page?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    paths[1..].sort();
    Ok(paths.iter().map(fs::read_to_string).collect::<std::io::Result<_>>()?)
}

/// What a heading of GitHub's pages is linked by.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || ['-', '_', ' '].contains(letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The links of a page: their targets, as they are written.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut pages =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root.join(name)).to_vec();
    for page in fs::read_dir(root.join("docs"))? {
        pages.push(page?.path());
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut checked = 0;
    for page in pages {
        let text = fs::read_to_string(&page)?;
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').map_or((link, None), |(p, h)| (p, Some(h)));
            let target = match path {
                "" => page.clone(),
                path => page.parent().context("a directory")?.join(path),
            };
            let said = format!("{}: {link}", page.display());
            ensure!(target.exists(), "{said} leads nowhere");
            if let Some(heading) = heading {
                let text = fs::read_to_string(&target)?;
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                ensure!(found, "{said}: there is no such heading");
            }
            checked += 1;
        }
    }
    ensure!(checked >= 40, "few links: {checked}");
    Ok(())
}

/// What the last cells of a page's tables name: tests by their file, `file/main.rs` where that is a folder, and other files.
fn evidence(page: &str) -> Vec<(String, Vec<String>)> {
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    let cells = rows.filter_map(|row| Some(row.trim_end_matches('|').rsplit_once('|')?.1.trim()));
    let mut all = Vec::new();
    for cell in cells.filter(|cell| *cell != "Test") {
        let words: Vec<_> = cell.split('`').collect();
        let mut file = "";
        let mut named = Vec::new();
        for (at, word) in words.iter().enumerate().skip(1).step_by(2) {
            if word.contains('/') {
                named.push((*word).to_owned());
            } else if words.get(at + 1).is_some_and(|next| next.starts_with(':')) {
                file = word;
            } else {
                named.push(format!("{file}::{word}"));
            }
        }
        all.push((cell.to_owned(), named));
    }
    all
}

#[test]
fn every_promise_names_a_test_that_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tests = root.join("tests/tests");
    // The second page also says where nothing shows it.
    for (page, least, unproven) in [("reliability.md", 40, 0), ("security.md", 30, 2)] {
        let rows = evidence(&fs::read_to_string(root.join("docs").join(page))?);
        ensure!(rows.len() >= least, "{page} has few rows: {}", rows.len());
        let mut without = 0;
        for (cell, named) in rows {
            without += usize::from(named.is_empty());
            for name in named {
                let Some((file, function)) = name.split_once("::") else {
                    ensure!(root.join(&name).exists(), "{page}: {cell}: there is no {name}");
                    continue;
                };
                let places = [format!("{file}.rs"), format!("{file}/main.rs")];
                let source = places.iter().find_map(|at| fs::read_to_string(tests.join(at)).ok());
                let source = source.with_context(|| format!("{page}: {cell}: no file {file}"))?;
                let is_test = source.contains(&format!("#[test]\nfn {function}()"));
                ensure!(is_test, "{page}: {cell}: {file} has no test {function}");
            }
        }
        ensure!(without <= unproven, "{page}: {without} rows name no test");
    }
    Ok(())
}

#[test]
fn readme_says_what_was_measured() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = |name: &str| fs::read_to_string(root.join(name));
    let (readme, conformance) = (page("README.md")?, page("docs/conformance.md")?);
    let performance = page("docs/performance.md")?;
    ensure!(readme.lines().count() <= 160, "README.md is longer than 160 lines");
    let table = readme.split_once("## Compared").context("a section")?.1;
    let table = table.split_once("\n## ").context("a next section")?.0;
    // The page says them in words that its test writes.
    let numbers = |row: &str| -> Vec<String> {
        let row = table.lines().find(|line| line.starts_with(&format!("| {row}")));
        let row = row.unwrap_or_default().trim_start_matches('|').split_once('|');
        let numbers = row
            .map_or("", |(_, cells)| cells)
            .split(|letter: char| !letter.is_ascii_digit() && letter != ',' && letter != '.');
        numbers
            .filter(|word| word.starts_with(|l: char| l.is_ascii_digit()))
            .map(str::to_owned)
            .map(|number| number.trim_end_matches([',', '.']).to_owned())
            .collect()
    };
    for (row, sentence) in [
        ("Misjudged", "In {} of them nf_conntrack calls a lawful segment INVALID"),
        ("Undetected", "in {} a breach is not INVALID"),
    ] {
        let found = numbers(row);
        ensure!(found.len() == 2 && found[0] == "0", "{row}: {found:?}");
        let sentence = sentence.replace("{}", &found[1]);
        ensure!(conformance.contains(&sentence), "docs/conformance.md does not say: {sentence}");
    }
    let of_all = table.split_once("Misjudged, of ").context("how many sequences")?.1;
    let of_all = of_all.split(' ').next().unwrap_or_default();
    ensure!(
        conformance.contains(&format!("{of_all} sequences of crafted segments")),
        "docs/conformance.md has another number of sequences than {of_all}"
    );
    for (before, after) in [("own cookies cost ", " ns"), ("serve ", ":")] {
        let number = table.replace('\n', " ");
        let number = number.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        let number = number.with_context(|| format!("`{before}`"))?.0;
        ensure!(
            performance.contains(&format!(" {number} ")),
            "{number} is not in docs/performance.md"
        );
    }
    for row in ["ns added", "CPU time", "Real connections"] {
        let found = numbers(row);
        ensure!(found.len() >= 3, "{row}: {found:?}");
        for number in found {
            ensure!(
                performance.contains(&format!(" {number} ")),
                "README.md says {number} under `{row}`, which is not in docs/performance.md"
            );
        }
    }
    Ok(())
}

#[test]
fn every_command_works() -> Result<()> {
    let commands: Vec<String> = pages()?.iter().flat_map(|page| commands(page)).collect();
    let host = Host::new()?;
    let verb = |command: &str| {
        let words = command.split_whitespace().skip_while(|word| !word.ends_with("tracker"));
        words.skip(1).find(|word| !word.starts_with('-')).unwrap_or_default().to_owned()
    };
    // What others need.
    let (keys, commands): (Vec<_>, Vec<_>) =
        commands.iter().partition(|command| verb(command) == "keys");
    for command in &keys {
        host.run(command)?;
    }
    let (runs, others): (Vec<_>, Vec<_>) = commands
        .into_iter()
        .partition(|command| ["run", "check"].contains(&verb(command).as_str()));
    ensure!(runs.len() >= 5 && others.len() >= 20, "few commands: {runs:?} {others:?}");
    for run in runs {
        if verb(run) == "check" {
            host.run(run)?;
            continue;
        }
        let mut at_work = run.clone();
        if run.contains("192.0.2.1:9469") {
            at_work.push_str(" --verbose");
        }
        host.run_until(&at_work, "attached")?.interrupt()?;
    }

    let agent =
        host.run_until("exec tracker run --interface eth0 --metrics", "metrics are served")?;
    let mut tried = 0;
    for command in others {
        match verb(command).as_str() {
            "events" | "trace" => host.run_until(command, "listening")?.interrupt()?,
            "flows" if command.contains("--watch") => {
                host.run(&format!(
                    "timeout --signal INT --preserve-status 1 {}",
                    command.replace("sudo ", "")
                ))?;
            }
            "top" => {
                host.run(&format!(
                    "script -qec 'timeout --foreground --preserve-status 1 {}' /dev/null",
                    command.replace("sudo ", "")
                ))?;
            }
            // It would take the agent's place.
            "detach" => continue,
            _ => host.run(command)?,
        }
        tried += 1;
    }
    agent.interrupt()?;
    host.run("tracker detach")?;
    let _ = writeln!(std::io::stdout(), "{tried} commands besides `tracker run`");
    Ok(())
}
