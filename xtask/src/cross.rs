//! Builds for this processor or another one.

use std::{
    collections::BTreeSet,
    env::consts::ARCH,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use xtask::bpf::distribution_cargo;

use crate::{debian, host};

/// A processor that programs are built for, all of them with Linux and glibc.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Target {
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// This machine's.
    pub(crate) fn here() -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|target| target.processor() == ARCH)
            .with_context(|| format!("programs are built on x86_64 and aarch64; this is {ARCH}"))
    }

    /// The name that the kernel, Rust and QEMU have for it.
    pub(crate) const fn processor(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's name of it.
    pub(crate) const fn debian(self) -> &'static str {
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
    pub(crate) const fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "Advanced Micro Devices X86-64",
            Self::Aarch64 => "AArch64",
        }
    }

    /// A program of the GNU tools for it, as in `aarch64-linux-gnu-strip`.
    pub(crate) fn tool(self, name: &str) -> Result<Command> {
        let is_here = self == Self::here()?;
        let program = if is_here {
            name.to_owned()
        } else {
            format!("{}-linux-gnu-{name}", self.processor())
        };
        Ok(Command::new(program))
    }

    /// Returns a cargo that runs `verb` for this processor, with `flags` for its compiler, and the directory that it
    /// builds in. Installs or fetches the cross compiler and the standard library that are missing.
    ///
    /// # Errors
    ///
    /// Where something is missing that cannot be installed from here.
    pub(crate) fn cargo(self, verb: &str, flags: &[&str]) -> Result<(Command, PathBuf)> {
        let directory = host::target_dir()?;
        let is_here = self == Self::here()?;
        let mut flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut command = if is_here {
            host::cargo()
        } else {
            install_cross(self)?;
            match foreign_std(self, &directory.join("tools"))? {
                Std::OfThisCargo => host::cargo(),
                Std::OfDebian { sysroot } => {
                    flags.push(format!("--sysroot={}", sysroot.display()));
                    distribution_cargo()
                }
            }
        };
        command.current_dir(host::workspace()).arg(verb).arg("--target-dir").arg(&directory);
        let name = self.to_string();
        let mut built = directory;
        // Build scripts and macros are for this machine, and get none of the flags, where a target is named.
        if !is_here || !flags.is_empty() {
            command.args(["--target", &name]).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
            built.push(&name);
        }
        if !is_here {
            let linker = name.to_uppercase().replace('-', "_");
            command.env(format!("CARGO_TARGET_{linker}_LINKER"), self.tool("gcc")?.get_program());
        }
        Ok((command, built))
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
    use super::Target;

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
}
