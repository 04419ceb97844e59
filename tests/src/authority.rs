//! A certificate authority of a test's own, by `openssl`.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{fault::Directory, namespace};

/// A time that is over, one that lasts, and one that is to come, as [`Authority::issue`] takes them.
pub mod validity {
    /// It is over.
    pub const PAST: [&str; 2] = ["20200101000000Z", "20210101000000Z"];
    /// It lasts.
    pub const PRESENT: [&str; 2] = ["20200101000000Z", "20990101000000Z"];
    /// It is to come.
    pub const FUTURE: [&str; 2] = ["20980101000000Z", "20990101000000Z"];
}

/// Signs certificates for 127.0.0.1 and 10.9.0.1. Its files are removed when it is dropped.
#[derive(Debug)]
pub struct Authority {
    directory: Directory,
}

impl Authority {
    /// A new one, in a directory whose name has this in it.
    ///
    /// # Errors
    ///
    /// Where `openssl` fails.
    pub fn new(name: &str) -> Result<Self> {
        let authority = Self { directory: Directory::new(name)? };
        for (file, text) in [("index.txt", ""), ("serial", "1000\n"), ("openssl.cnf", SETTINGS)] {
            fs::write(authority.directory.itself().join(file), text)?;
        }
        let subject =
            ["-subj", "/CN=authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
        authority.openssl(
            &["req", "-x509", "-config", "openssl.cnf", "-extensions", "authority"],
            &subject,
        )?;
        Ok(authority)
    }

    /// Makes `NAME.key` and `NAME.pem`, valid between these times, and returns the certificate's serial number.
    ///
    /// # Errors
    ///
    /// Where `openssl` fails.
    pub fn issue(&self, name: &str, [from, to]: [&str; 2]) -> Result<String> {
        let [key, request, certificate] =
            [".key", ".csr", ".pem"].map(|end| format!("{name}{end}"));
        self.openssl(
            &["req", "-new", "-config", "openssl.cnf", "-subj", "/CN=tracker"],
            &["-keyout", &key, "-out", &request],
        )?;
        self.run(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "openssl.cnf",
            "-startdate",
            from,
            "-enddate",
            to,
            "-in",
            &request,
            "-out",
            &certificate,
        ])?;
        let said = self.run(&["x509", "-in", &certificate, "-noout", "-serial"])?;
        Ok(said.trim().to_owned())
    }

    /// Puts another certificate and its key in the place of one.
    ///
    /// # Errors
    ///
    /// Where they cannot be renamed.
    pub fn replace(&self, name: &str, by: &str) -> Result<()> {
        for end in ["key", "pem"] {
            fs::rename(self.path(&format!("{by}.{end}"))?, self.path(&format!("{name}.{end}"))?)?;
        }
        Ok(())
    }

    /// The path of a file: `ca.pem` is the authority's certificate.
    ///
    /// # Errors
    ///
    /// Where it is not UTF-8.
    pub fn path(&self, name: &str) -> Result<String> {
        self.directory.path(name)
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.itself()
    }

    /// `openssl` with a new key, whose arguments are to make one: of P-256, or as `TRACKER_TEST_KEY` says (`rsa:4096`).
    fn openssl(&self, verb: &[&str], more: &[&str]) -> Result<String> {
        const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        let kind = env::var("TRACKER_TEST_KEY").ok();
        let kind = kind.as_deref().map(|kind| [kind]);
        let key = kind.as_ref().map_or(P256, |kind| &kind[..]);
        self.run(&[verb, &["-nodes", "-newkey"], key, more].concat())
    }

    /// What `openssl ARGUMENTS` prints, in the directory.
    ///
    /// # Errors
    ///
    /// Where it fails; the message holds what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("openssl");
        let output = command
            .args(arguments)
            .current_dir(self.directory.itself())
            .output()
            .context("starting openssl: `cargo xtask setup` installs it")?;
        namespace::text("openssl", arguments, &output)
    }
}

const SETTINGS: &str = "
[req]
distinguished_name = name
req_extensions = server
[name]
[server]
subjectAltName = IP:127.0.0.1, IP:10.9.0.1
[authority]
basicConstraints = critical, CA:TRUE
[ca]
default_ca = here
[here]
database = index.txt
new_certs_dir = .
serial = serial
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = policy
copy_extensions = copy
unique_subject = no
[policy]
commonName = supplied
";
