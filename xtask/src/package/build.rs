//! Builds the command for a package: for this processor or another one, and so that it needs glibc or nothing.

use std::{
    collections::BTreeSet,
    env::consts::ARCH,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use xtask::bpf::distribution_cargo;

use crate::{debian, host};

/// A processor that packages are built for, all of them with Linux and glibc.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Target {
    const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// This machine's.
    pub(super) fn here() -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|target| target.processor() == ARCH)
            .with_context(|| format!("packages are built on x86_64 and aarch64; this is {ARCH}"))
    }

    const fn processor(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's name of it.
    pub(super) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// How Debian's packages of cross compilers call it.
    const fn cross(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// How `readelf` calls it.
    const fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "Advanced Micro Devices X86-64",
            Self::Aarch64 => "AArch64",
        }
    }

    /// A program of the GNU tools for it, as in `aarch64-linux-gnu-strip`.
    pub(super) fn tool(self, name: &str) -> Result<Command> {
        let is_here = self == Self::here()?;
        let program = if is_here {
            name.to_owned()
        } else {
            format!("{}-linux-gnu-{name}", self.processor())
        };
        Ok(Command::new(program))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-unknown-linux-gnu", self.processor())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|target| target.to_string() == text).ok_or_else(|| {
            let known = Self::ALL.map(|target| target.to_string());
            format!("one of {}", known.join(", "))
        })
    }
}

/// What is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Build {
    /// For which processor.
    pub(super) target: Target,
    /// With glibc inside.
    pub(super) is_static: bool,
}

impl Build {
    /// Builds the command, and returns it: not stripped yet.
    ///
    /// # Errors
    ///
    /// Where something is missing that cannot be installed from here, or it does not compile.
    pub(super) fn run(self) -> Result<PathBuf> {
        let directory = host::target_dir()?;
        let Self { target, is_static } = self;
        let is_here = target == Target::here()?;
        let mut flags = Vec::new();
        if is_static {
            flags.push("-Ctarget-feature=+crt-static".to_owned());
        }
        let mut command = if is_here {
            host::cargo()
        } else {
            install_cross(target)?;
            match foreign_std(target, &directory.join("tools"))? {
                Std::OfThisCargo => host::cargo(),
                Std::OfDebian { sysroot } => {
                    flags.push(format!("--sysroot={}", sysroot.display()));
                    distribution_cargo()
                }
            }
        };
        command
            .current_dir(host::workspace())
            .args([
                "build",
                "--release",
                "--locked",
                "--package",
                "tracker-user",
                "--bin",
                "tracker",
            ])
            .arg("--target-dir")
            .arg(&directory);
        let name = target.to_string();
        let mut built = directory;
        // Build scripts and macros are for this machine, and get none of the flags, where a target is named.
        if !is_here || is_static {
            command.args(["--target", &name]).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
            built.push(&name);
        }
        if !is_here {
            let linker = name.to_uppercase().replace('-', "_");
            command.env(format!("CARGO_TARGET_{linker}_LINKER"), target.tool("gcc")?.get_program());
        }
        host::run(&mut command, "cargo build")?;
        let program = built.join("release/tracker");
        self.check(&program)?;
        Ok(program)
    }

    /// Whether a program is what was to be built.
    fn check(self, program: &Path) -> Result<()> {
        let mut readelf = Command::new("readelf");
        let output = readelf
            .args(["--wide", "--file-header", "--program-headers"])
            .arg(program)
            .env("LC_ALL", "C")
            .output()
            .context("starting readelf, of binutils")?;
        let headers = String::from_utf8_lossy(&output.stdout);
        let machine = self.target.machine();
        ensure!(headers.contains(machine), "{} is not for {machine}", program.display());
        let needs_linker = headers.lines().any(|line| line.trim_start().starts_with("INTERP"));
        ensure!(needs_linker != self.is_static, "{} is linked in the other way", program.display());
        Ok(())
    }
}

/// Where a standard library for another processor is.
enum Std {
    /// rustup has installed one for the cargo that runs this.
    OfThisCargo,
    /// Debian's, unpacked, for Debian's compiler.
    OfDebian { sysroot: PathBuf },
}

/// Finds a standard library for `target`, or fetches Debian's into `tools`.
fn foreign_std(target: Target, tools: &Path) -> Result<Std> {
    let libraries = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", &target.to_string()])
        .output()
        .context("starting rustc")?;
    let libraries = String::from_utf8(libraries.stdout)?;
    if fs::read_dir(libraries.trim()).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(Std::OfThisCargo);
    }
    let compiler = "rustc-web";
    if !debian::is_here() || !debian::has(compiler) {
        bail!("there is no standard library for {target}; type\n    rustup target add {target}");
    }
    let version = debian::version(compiler)?;
    let place = tools.join(format!("rust-std-{version}-{}", target.debian()));
    let sysroot = place.join("usr");
    if !sysroot.exists() {
        eprintln!(
            "Missing: the standard library of {compiler} {version} for {target}. Debian's is unpacked in {}; no other \
             architecture is added to this system's packages.",
            place.display()
        );
        let package = format!("libstd-rust-web-dev={version}");
        debian::unpack_foreign(&package, target.debian(), &place)?;
    }
    Ok(Std::OfDebian { sysroot })
}

/// Installs what links for another processor.
fn install_cross(target: Target) -> Result<()> {
    let packages =
        [format!("gcc-{}", target.cross()), format!("libc6-dev-{}-cross", target.debian())];
    if host::on_path(&target.tool("gcc")?.get_program().to_string_lossy())
        && packages.iter().all(|package| !debian::is_here() || debian::has(package))
    {
        return Ok(());
    }
    let packages: BTreeSet<String> =
        packages.into_iter().filter(|name| !debian::has(name)).collect();
    let names = Vec::from_iter(packages.iter().map(String::as_str)).join(" ");
    eprintln!("Missing: what links for {target}: {names}.");
    if !debian::is_here() {
        bail!("install a GNU cross compiler for {target}, with its C library");
    }
    if !host::is_root() {
        bail!("type\n    sudo apt-get {} {names}", debian::INSTALL.join(" "));
    }
    debian::update();
    debian::install(&packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_targets() {
        for (name, debian) in
            [("x86_64-unknown-linux-gnu", "amd64"), ("aarch64-unknown-linux-gnu", "arm64")]
        {
            let target: Target = name.parse().expect(name);
            assert_eq!((target.to_string().as_str(), target.debian()), (name, debian));
        }
        let said = "riscv64gc-unknown-linux-gnu".parse::<Target>().expect_err("unknown");
        assert_eq!(said, "one of x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu");
    }

    #[test]
    fn what_was_built_is_looked_at() -> Result<()> {
        // This program is for this machine, and needs glibc.
        let program = std::env::current_exe()?;
        let here = Target::here()?;
        Build { target: here, is_static: false }.check(&program)?;
        let other = Target::ALL.into_iter().find(|target| *target != here).context("another")?;
        for wrong in
            [Build { target: other, is_static: false }, Build { target: here, is_static: true }]
        {
            ensure!(wrong.check(&program).is_err(), "{wrong:?}");
        }
        Ok(())
    }
}
