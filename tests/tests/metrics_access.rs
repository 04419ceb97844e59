//! TLS, a token and a unix socket for metrics, as curl and openssl see them.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tracker_tests::{
    agent::{Agent, eventually, run_tracker},
    authority::{Authority, validity},
    fault::{Directory, send},
    lab::{INTERFACE, Pair},
    namespace::Namespace,
};

const AT: &str = "127.0.0.1:9469";

/// What curl got: the status, the headers in lower case, and the body; or its exit code.
fn curl(namespace: &Namespace, arguments: &[&str]) -> Result<Result<(u16, String, String), i32>> {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--include", "--max-time", "60"]).args(arguments);
    let output = command.stdin(Stdio::null()).output().context("starting curl")?;
    if !output.status.success() {
        return Ok(Err(output.status.code().context("a signal ended curl")?));
    }
    let answer = String::from_utf8(output.stdout)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an empty line")?;
    let code = head.split(' ').nth(1).context("a status")?.trim().parse()?;
    Ok(Ok((code, head.to_lowercase(), body.to_owned())))
}

/// The same where there must be an answer.
fn get(namespace: &Namespace, arguments: &[&str]) -> Result<(u16, String, String)> {
    let answer = curl(namespace, arguments)?;
    answer.map_err(|code| anyhow::anyhow!("curl {arguments:?} ended with {code}"))
}

/// Writes a file that only root may read.
fn write_secret(path: &str, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

/// The serial number of the certificate that a client of the agent sees.
fn serial(namespace: &Namespace) -> Result<String> {
    let script = format!(
        "openssl s_client -connect {AT} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    Ok(namespace.run("sh", &["-c", &script])?.trim().to_owned())
}

/// The options for a certificate of this name.
fn with_tls(authority: &Authority, name: &str) -> Result<Vec<String>> {
    let file = |end: &str| authority.path(&format!("{name}.{end}"));
    Ok([
        "--metrics-tls-cert".to_owned(),
        file("pem")?,
        "--metrics-tls-key".to_owned(),
        file("key")?,
    ]
    .into())
}

#[test]
fn tls_and_a_token_are_needed_where_asked_for() -> Result<()> {
    let authority = Authority::new("access")?;
    authority.issue("server", validity::PRESENT)?;
    let token = authority.path("token")?;
    write_secret(&token, "the-right-one\n")?;
    let pair = Pair::silent()?;
    let tls = with_tls(&authority, "server")?;
    let mut arguments = vec!["--interface", INTERFACE, "--metrics", AT, "--metrics-token", &token];
    arguments.extend(["--sweep-interval", "0.05"]);
    arguments.extend(tls.iter().map(String::as_str));
    let agent = Agent::start(&pair.host, &arguments)?;
    agent.wait_for_log("metrics are served with TLS and a token")?;

    let ca = authority.path("ca.pem")?;
    let ask = |path: &str, authorization: Option<&str>| {
        let url = format!("https://{AT}{path}");
        let header = authorization.map(|it| format!("Authorization: {it}"));
        let mut arguments = vec!["--cacert", &ca, &url];
        arguments.extend(header.iter().flat_map(|header| ["--header", header]));
        get(&pair.host, &arguments)
    };
    let (code, head, body) = ask("/metrics", Some("Bearer the-right-one"))?;
    ensure!(code == 200 && body.ends_with("# EOF\n"), "{head}\n{body}");
    for (given, challenge) in [
        (None, "www-authenticate: bearer realm=\"tracker\"\r"),
        (
            Some("Bearer the-wrong-one"),
            "www-authenticate: bearer realm=\"tracker\", error=\"invalid_token\"\r",
        ),
        (Some("Bearer the-right-on"), "error=\"invalid_token\""),
        (Some("Bearer the-right-one-"), "error=\"invalid_token\""),
        (Some("Basic dGhlLXJpZ2h0LW9uZQ=="), "error=\"invalid_token\""),
    ] {
        let (code, head, body) = ask("/metrics", given)?;
        ensure!(code == 401 && format!("{head}\r").contains(challenge), "{given:?}: {head}");
        ensure!(!body.contains("tracker_") && !body.contains("the-right-one"), "{body}");
    }
    // Probes need none.
    ensure!(ask("/healthz", None)?.0 == 200);
    eventually("it is ready", || Ok(ask("/readyz", None)?.0 == 200))?;
    // Why it is not ready may name an interface.
    pair.host.run("ip", &["link", "del", INTERFACE])?;
    let wanted = Some("Bearer the-right-one");
    eventually("it is not ready", || Ok(ask("/readyz", wanted)?.0 == 503))?;
    ensure!(ask("/readyz", wanted)?.2.contains("no interface"));
    ensure!(ask("/readyz", None)?.2 == "not ready\n");

    // Whoever does not know the authority sees another certificate than it trusts (curl's 60).
    let secure = format!("https://{AT}/healthz");
    ensure!(curl(&pair.host, &[&secure])? == Err(60));
    // In the clear there is nothing: TLS' alert is no answer (1: unsupported protocol, 52: nothing, 56: reset).
    let plain = format!("http://{AT}/metrics");
    let nothing = curl(&pair.host, &["--header", "Authorization: Bearer the-right-one", &plain]);
    let answer = nothing.unwrap_or(Err(1));
    ensure!(answer.as_ref().err().is_some_and(|code| [1, 52, 56].contains(code)), "{answer:?}");
    ensure!(ask("/metrics", wanted)?.0 == 200);
    agent.finish()?;
    Ok(())
}

#[test]
fn renewed_files_are_taken_over_and_wrong_ones_change_nothing() -> Result<()> {
    const STAYS: &str = "the certificate of /metrics stays what it was";
    let authority = Authority::new("renewal")?;
    let first = authority.issue("server", validity::PRESENT)?;
    let token = authority.path("token")?;
    write_secret(&token, "first")?;
    let pair = Pair::silent()?;
    let tls = with_tls(&authority, "server")?;
    let mut arguments = vec!["--interface", INTERFACE, "--metrics", AT, "--metrics-token", &token];
    arguments.extend(tls.iter().map(String::as_str));
    let agent = Agent::start(&pair.host, &arguments)?;
    agent.wait_for_log("metrics are served")?;
    let hang_up = |said: &str| -> Result<String> {
        send(agent.pid(), Signal::SIGHUP)?;
        agent.wait_for_log(said)
    };
    ensure!(serial(&pair.host)? == first);

    let second = authority.issue("next", validity::PRESENT)?;
    ensure!(second != first);
    authority.replace("server", "next")?;
    hang_up("/metrics has another certificate")?;
    ensure!(serial(&pair.host)? == second);

    // What is wrong is said with its file, and the certificate stays.
    let [certificate, key] = ["server.pem", "server.key"].map(|name| authority.path(name));
    let (certificate, key) = (certificate?, key?);
    let good = (fs::read_to_string(&certificate)?, fs::read_to_string(&key)?);
    authority.issue("other", validity::PRESENT)?;
    authority.issue("old", validity::PAST)?;
    authority.issue("early", validity::FUTURE)?;
    let read = |name: &str| Ok::<_, anyhow::Error>(fs::read_to_string(authority.path(name)?)?);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    for (files, said) in [
        ((garbage, good.1.clone()), "server.pem"),
        ((good.0.clone(), read("other.key")?), "is not that of the first certificate"),
        ((read("old.pem")?, read("old.key")?), "has expired at 2021-01-01T00:00:00Z"),
        ((read("early.pem")?, read("early.key")?), "is not valid before 2098-01-01T00:00:00Z"),
    ] {
        fs::write(&certificate, files.0)?;
        fs::write(&key, files.1)?;
        let line = hang_up(STAYS)?;
        ensure!(line.contains(said), "{said}: {line}");
        ensure!(serial(&pair.host)? == second, "{said}");
    }
    fs::write(&certificate, good.0)?;
    fs::write(&key, good.1)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let line = hang_up(STAYS)?;
    ensure!(line.contains("chmod 600"), "{line}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;

    let ca = authority.path("ca.pem")?;
    let url = format!("https://{AT}/metrics");
    let code = |token: &str| -> Result<u16> {
        let header = format!("Authorization: Bearer {token}");
        Ok(get(&pair.host, &["--cacert", &ca, "--header", &header, &url])?.0)
    };
    ensure!((code("first")?, code("second")?) == (200, 401));
    write_secret(&token, "second\n")?;
    hang_up("/metrics has another token")?;
    ensure!((code("first")?, code("second")?) == (401, 200));
    for text in ["", "two words"] {
        write_secret(&token, text)?;
        let line = hang_up("the token of /metrics stays what it was")?;
        ensure!(line.contains(&token) && !line.contains("two words"), "{line}");
        ensure!((code("")?, code("second")?) == (401, 200));
    }
    agent.finish()?;
    Ok(())
}

/// What `tracker check` finds about metrics with these options: verdict and message.
fn found(namespace: &Namespace, options: &[&str]) -> Result<(String, String)> {
    let arguments = [&["check", "--interface", "lo", "-o", "jsonl"], options].concat();
    let (stdout, _, _) = run_tracker(&arguments, Some(namespace))?;
    let finding = stdout
        .lines()
        .map(serde_json::from_str::<Value>)
        .find(|finding| finding.as_ref().is_ok_and(|finding| finding["check"] == "metrics"))
        .with_context(|| format!("nothing about metrics: {stdout}"))??;
    let text = |name: &str| finding[name].as_str().map(str::to_owned).context("a text");
    Ok((text("verdict")?, text("message")?))
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_attached() -> Result<()> {
    let authority = Authority::new("wrong")?;
    for name in ["good", "other"] {
        authority.issue(name, validity::PRESENT)?;
    }
    authority.issue("old", validity::PAST)?;
    let path = |name: &str| authority.path(name);
    authority.run(&[
        "pkey",
        "-in",
        "good.key",
        "-aes256",
        "-passout",
        "pass:x",
        "-out",
        "locked.key",
    ])?;
    fs::copy(path("good.key")?, path("shared.key")?)?;
    fs::set_permissions(path("shared.key")?, fs::Permissions::from_mode(0o640))?;
    fs::set_permissions(path("locked.key")?, fs::Permissions::from_mode(0o600))?;
    fs::write(path("empty.pem")?, "")?;
    write_secret(&path("token")?, "a-secret another-secret")?;
    write_secret(&path("shared")?, "a-secret")?;
    fs::set_permissions(path("shared")?, fs::Permissions::from_mode(0o604))?;

    let pair = Pair::silent()?;
    let tls = |certificate: &str, key: &str| -> Result<Vec<(&str, String)>> {
        Ok(vec![("metrics-tls-cert", path(certificate)?), ("metrics-tls-key", path(key)?)])
    };
    let token =
        |name: &str| -> Result<Vec<(&str, String)>> { Ok(vec![("metrics-token", path(name)?)]) };
    for (at, options, said) in [
        (AT, tls("none.pem", "good.key")?, "none.pem: No such file"),
        (AT, tls("empty.pem", "good.key")?, "empty.pem: there is none"),
        (AT, tls("good.pem", "none.key")?, "none.key: No such file"),
        (AT, tls("good.pem", "good.pem")?, "good.pem: "),
        (AT, tls("good.pem", "shared.key")?, "take away the others' rights (`chmod 600`)"),
        (AT, tls("good.pem", "locked.key")?, "locked.key: it is encrypted"),
        (AT, tls("good.pem", "other.key")?, "is not that of the first certificate in"),
        (AT, tls("old.pem", "old.key")?, "old.pem: it has expired at 2021-01-01T00:00:00Z"),
        ("unix:/run/tracker/m.sock", tls("good.pem", "good.key")?, "a unix socket needs no TLS"),
        (AT, token("none")?, "none: No such file"),
        (AT, token("token")?, "token: it has other characters"),
        (AT, token("empty.pem")?, "others may read it"),
        (AT, token("shared")?, "has mode 604"),
        ("203.0.113.9", Vec::new(), "203.0.113.9 is no address of this host"),
    ] {
        let mut flags = vec![format!("--metrics={at}")];
        flags.extend(options.iter().map(|(name, value)| format!("--{name}={value}")));
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let line = [&["--instance", "wrong-metrics", "run", "--interface", INTERFACE], &flags[..]]
            .concat();
        let (_, log, status) = run_tracker(&line, Some(&pair.host))?;
        ensure!(status.code() == Some(1) && log.contains(said), "{said}: {status} {log}");
        ensure!(!log.contains("attached") && !log.contains("a-secret"), "{log}");

        // It loads programs, which takes its time, and so a few are enough.
        if flags.len() == 2 || said.contains("is not that") {
            let (verdict, message) = found(&pair.host, &flags)?;
            ensure!(verdict == "failure" && message.contains(said), "{said}: {message}");
        }

        let file = path("tracker.toml")?;
        let settings = options.iter().map(|(name, value)| format!("{name} = \"{value}\"\n"));
        let settings: String = settings.collect();
        fs::write(&file, format!("interface = [\"{INTERFACE}\"]\nmetrics = \"{at}\"\n{settings}"))?;
        let (_, log, status) = run_tracker(&["config", "check", &file], Some(&pair.host))?;
        ensure!(status.code() == Some(1) && log.contains(said), "{said}: {status} {log}");
    }
    // Half of what TLS needs is wrong usage, and so is a path that is none.
    for options in [
        &["--metrics", AT, "--metrics-tls-cert", "x"][..],
        &["--metrics", AT, "--metrics-tls-key", "x"],
        &["--metrics-token", "x"],
        &["--metrics", "unix:metrics.sock"],
    ] {
        let line = [&["run", "--interface", INTERFACE], options].concat();
        let (_, log, status) = run_tracker(&line, Some(&pair.host))?;
        ensure!(status.code() == Some(2), "{options:?}: {status} {log}");
    }
    Ok(())
}

#[test]
fn a_token_that_everybody_could_see_is_warned_of() -> Result<()> {
    let authority = Authority::new("clear")?;
    authority.issue("server", validity::PRESENT)?;
    authority.issue("early", validity::FUTURE)?;
    let token = authority.path("token")?;
    write_secret(&token, "secret")?;
    let pair = Pair::with_addresses()?;
    let remote = ["--metrics", "10.9.0.1:9469", "--metrics-token", &token];
    let agent = Agent::start(&pair.host, &[&["--interface", INTERFACE], &remote[..]].concat())?;
    let said = agent.wait_for_log("learns the token")?;
    ensure!(said.contains("WARN") && said.contains("10.9.0.1:9469"), "{said}");
    // It serves all the same.
    let url = "http://10.9.0.1:9469/metrics";
    ensure!(get(&pair.peer, &["--header", "Authorization: Bearer secret", url])?.0 == 200);
    ensure!(get(&pair.peer, &[url])?.0 == 401);
    agent.finish()?;

    ensure!(found(&pair.host, &remote)?.0 == "warning");
    ensure!(found(&pair.host, &["--metrics", "--metrics-token", &token])?.0 == "ok");
    let check = |name: &str| {
        let tls = with_tls(&authority, name)?;
        let options: Vec<_> = remote.into_iter().chain(tls.iter().map(String::as_str)).collect();
        found(&pair.host, &options)
    };
    let expected = ("ok".to_owned(), "10.9.0.1:9469, with TLS and a token".to_owned());
    ensure!(check("server")? == expected);
    // The clock may be set later: such a certificate is served.
    let (verdict, message) = check("early")?;
    ensure!(verdict == "warning" && message.contains("not valid before 2098"), "{message}");
    Ok(())
}

#[test]
fn a_unix_socket_of_an_agent_is_taken_over_and_no_other_one() -> Result<()> {
    let directory = Directory::new("metrics-socket")?;
    let path = directory.path("run/metrics.sock")?;
    let at = format!("unix:{path}");
    let pair = Pair::silent()?;
    let arguments = ["--interface", INTERFACE, "--metrics", &at];
    let ask = || curl(&pair.host, &["--unix-socket", &path, "http://localhost/metrics"]);
    let serves = || -> Result<bool> { Ok(ask()?.is_ok_and(|(code, _, _)| code == 200)) };
    let refused = |said: &str| -> Result<()> {
        let line = [&["--instance", "second-metrics", "run"], &arguments[..]].concat();
        let (_, log, status) = run_tracker(&line, Some(&pair.host))?;
        ensure!(status.code() == Some(1) && log.contains(said), "{said}: {status} {log}");
        ensure!(log.contains(&path) && !log.contains("attached"), "{log}");
        Ok(())
    };

    let agent = Agent::start(&pair.host, &arguments)?;
    agent.wait_for_log("metrics are served")?;
    ensure!(serves()?);
    // As the socket for commands.
    let about = fs::symlink_metadata(&path)?;
    let own = fs::symlink_metadata(format!("/run/tracker/{}.sock", agent.name()))?;
    ensure!(about.file_type().is_socket() && about.mode() & 0o777 == 0o660, "{:o}", about.mode());
    ensure!((about.uid(), about.gid(), about.mode()) == (own.uid(), own.gid(), own.mode()));
    // A second agent leaves it alone.
    refused("somebody serves at unix:")?;
    ensure!(serves()? && fs::symlink_metadata(&path)?.ino() == about.ino());
    // Where somebody removes it, it is made anew.
    fs::remove_file(&path)?;
    eventually("it is there again", serves)?;

    // What a killed agent has left is taken over.
    let killed = agent.kill()?;
    ensure!(Path::new(&path).exists() && !serves()?);
    let next = killed.restart(&pair.host, &arguments)?;
    next.wait_for_log("metrics are served")?;
    ensure!(serves()?);
    next.finish()?;
    let left = fs::read_dir(directory.path("run")?)?.count();
    ensure!(left == 0, "{left} files are left");

    // Nor the one for commands.
    let own = ["--instance", "second-metrics", "run", "--interface", INTERFACE, "--metrics"];
    let line = [&own[..], &["unix:/run/tracker/second-metrics.sock"]].concat();
    let (_, log, status) = run_tracker(&line, Some(&pair.host))?;
    ensure!(status.code() == Some(1) && log.contains("socket for commands"), "{status} {log}");

    // Nobody else's, whatever it is.
    let other = UnixListener::bind(&path)?;
    refused("somebody serves at unix:")?;
    ensure!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(other);
    fs::remove_file(&path)?;
    let other = UnixDatagram::bind(&path)?;
    refused("somebody serves at unix:")?;
    ensure!(Path::new(&path).exists());
    drop(other);
    fs::remove_file(&path)?;
    fs::write(&path, "text")?;
    refused("is there and no socket")?;
    ensure!(fs::read_to_string(&path)? == "text");
    fs::remove_file(&path)?;
    let run = directory.path("run")?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777))?;
    let line = [&["--instance", "second-metrics", "run"], &arguments[..]].concat();
    let (_, log, status) = run_tracker(&line, Some(&pair.host))?;
    ensure!(status.code() == Some(1) && log.contains("others could replace"), "{status} {log}");
    Ok(())
}
