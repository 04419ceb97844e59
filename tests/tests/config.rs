//! Configuration files, as users meet them.

use std::{fs, path::PathBuf};

use anyhow::Result;
use tracker_tests::{agent::run_tracker, lab::Pair};

/// A file that is removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tracker-{name}-{}.toml", std::process::id()));
        fs::write(&path, text)?;
        Ok(Self(path))
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("a path of UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() -> Result<()> {
    let file = File::new("wrong", "interfaces = [\"eth0\"]\nzone = 70000\nxdp = \"fast\"\n")?;
    let (stdout, stderr, status) = run_tracker(&["config", "check", file.name()], None)?;
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
    for part in ["did you mean `interface`?", "70000", "'fast'", file.name()] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let (_, stderr, status) = run_tracker(&["config", "check", "/nonexistent.toml"], None)?;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("/nonexistent.toml"), "{stderr}");
    let (_, _, status) = run_tracker(&["config", "chekc"], None)?;
    assert_eq!(status.code(), Some(2));
    Ok(())
}

#[test]
fn what_is_shown_is_a_file() -> Result<()> {
    let pair = Pair::silent()?;
    let host = Some(&pair.host);
    let file = File::new("right", "interface = [\"veth0\", \"lo\"]\nevery = true\n")?;
    let given = ["--config", file.name(), "--zone", "9"];
    let (shown, stderr, status) = run_tracker(&[&["config", "show"], &given[..]].concat(), host)?;
    assert!(status.success(), "{stderr}");
    assert!(shown.contains("zone = 9 # command line\n"), "{shown}");
    let again = File::new("shown", &shown)?;
    let (stdout, stderr, status) = run_tracker(&["config", "check", again.name()], host)?;
    assert!(status.success() && stderr.is_empty(), "{stdout}{stderr}");
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" # ").next().unwrap_or(line).to_owned()).collect()
    };
    let (second, _, _) = run_tracker(&["config", "show", "--config", again.name()], host)?;
    assert_eq!(values(&shown), values(&second));
    Ok(())
}

#[test]
fn nothing_to_attach_to() -> Result<()> {
    let file = File::new("nowhere", "zone = 3\n")?;
    let (_, stderr, status) = run_tracker(&["config", "check", file.name()], None)?;
    assert!(status.success() && stderr.contains("names no interface"), "{stderr}");
    let (_, stderr, status) = run_tracker(&["config", "show", "--config", file.name()], None)?;
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--interface NAME"), "{stderr}");
    Ok(())
}

#[test]
fn what_run_would_refuse_is_refused() -> Result<()> {
    let pair = Pair::silent()?;
    for (text, expected) in [
        ("interface = [\"veth9\"]\n", "no interface named `veth9`"),
        (
            "interface = [\"veth0\"]\nprotect = [\"80@192.0.2.99\"]\n",
            "192.0.2.99 is no address of this host",
        ),
        ("interface = [\"lo\"]\nprotect = [\"80\"]\n", "loopback cannot be protected"),
    ] {
        let file = File::new("refused", text)?;
        let line = ["config", "check", file.name()];
        let (stdout, stderr, status) = run_tracker(&line, Some(&pair.host))?;
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(expected) && stderr.contains(file.name()), "{expected}: {stderr}");
    }
    Ok(())
}
