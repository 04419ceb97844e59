//! Debian's packages for a machine, by an apt with folders of its own: the host's lists, settings and packages stay as they
//! are, and know no other architecture.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{cross::Target, host};

/// Suites of Debian that have kernels, and the names that their archives give them.
const SUITES: [(&str, &str); 5] = [
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
    ("debian", "trixie"),
    ("debian-security", "trixie-security"),
    ("debian", "trixie-backports"),
];

/// The packages of one architecture.
#[derive(Debug)]
pub(crate) struct Archive {
    directory: PathBuf,
    /// Whose packages they are.
    pub(crate) target: Target,
    has_lists: Cell<bool>,
}

impl Archive {
    /// An archive that keeps its lists in `directory`. The first question to it fetches them.
    pub(crate) fn new(directory: &Path, target: Target) -> Self {
        Self { directory: directory.join("apt"), target, has_lists: Cell::new(false) }
    }

    /// Debian's name of the architecture.
    pub(crate) const fn architecture(&self) -> &'static str {
        self.target.debian()
    }

    /// An empty directory to unpack packages in.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub(crate) fn workplace(&self, name: &str) -> Result<PathBuf> {
        let place = self.directory.join("unpacked").join(name);
        host::remove_all(&place)?;
        fs::create_dir_all(&place)?;
        Ok(place)
    }

    /// Runs a program of apt's, and returns what it wrote on stdout.
    ///
    /// # Errors
    ///
    /// Where it fails.
    pub(crate) fn text(&self, program: &str, arguments: &[&str]) -> Result<String> {
        host::text(self.command(program)?.args(arguments))
    }

    /// Fetches packages, and unpacks them into `root`.
    ///
    /// # Errors
    ///
    /// Where there is no such package.
    pub(crate) fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let files = self.workplace("packages")?;
        host::text(
            self.command("apt-get")?.args(["-q", "download"]).args(packages).current_dir(&files),
        )?;
        fs::create_dir_all(root)?;
        for entry in fs::read_dir(&files)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                host::text(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
            }
        }
        host::remove_all(&files)
    }

    /// Packages with all that they depend on: what a system without any package would install.
    ///
    /// # Errors
    ///
    /// Where there is no such package.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<String>> {
        let install = ["-q", "--simulate", "--no-install-recommends", "install"];
        let text = self.text("apt-get", &[&install, packages].concat())?;
        Ok(installed(&text).map(str::to_owned).collect())
    }

    /// A program of apt's, with lists to read.
    fn command(&self, program: &str) -> Result<Command> {
        if !self.has_lists.get() {
            self.fetch_lists()?;
            self.has_lists.set(true);
        }
        Ok(self.bare(program))
    }

    fn fetch_lists(&self) -> Result<()> {
        let directory = &self.directory;
        ensure!(
            host::on_path("apt-get"),
            "kernels are taken from Debian's packages, which needs apt-get; with what another machine has beside {}, \
             this one needs none",
            directory.display()
        );
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        fs::write(directory.join("status"), "")?;
        let sources = SUITES
            .map(|(archive, suite)| {
                format!(
                    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                     http://deb.debian.org/{archive} {suite} main\n"
                )
            })
            .concat();
        fs::write(directory.join("sources.list"), sources)?;
        eprintln!("Reading Debian's lists of packages for {}.", self.architecture());
        host::text(self.bare("apt-get").args(["-q", "update"]))?;
        Ok(())
    }

    fn bare(&self, program: &str) -> Command {
        let here = self.directory.display();
        let architecture = self.architecture();
        let mut command = Command::new(program);
        command
            .args(["-o", &format!("APT::Architecture={architecture}")])
            .args(["-o", &format!("APT::Architectures={architecture}")])
            .args(["-o", &format!("Dir::State::Lists={here}/lists")])
            .args(["-o", &format!("Dir::State::Status={here}/status")])
            .args(["-o", &format!("Dir::Etc::SourceList={here}/sources.list")])
            .args(["-o", "Dir::Etc::SourceParts=/dev/null"])
            .args(["-o", &format!("Dir::Cache={here}/cache")])
            .args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}

/// The packages that a simulated installation names.
fn installed(simulation: &str) -> impl Iterator<Item = &str> {
    simulation.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
}

/// The first of these folders of `root` that has a file of its own called `name`: an absolute link would lead to the host's.
///
/// # Errors
///
/// Where none has it.
pub(crate) fn find(root: &Path, folders: &[&str], name: &str) -> Result<PathBuf> {
    folders
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.symlink_metadata().is_ok_and(|file| file.is_file()))
        .with_context(|| format!("there is no {name} in {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::installed;

    #[test]
    fn a_simulation_names_packages() {
        let text = "NOTE: This is only a simulation!\nInst libmnl0 (1.0.5-3 Debian:13/stable [arm64])\n\
                    Conf libmnl0 (1.0.5-3 Debian:13/stable [arm64])\n";
        assert_eq!(installed(text).collect::<Vec<_>>(), ["libmnl0"]);
    }
}
