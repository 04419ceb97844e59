//! Finds a Rust compiler for BPF and a linker for it, and builds kernel programs with them.
//!
//! Two kinds of compilers are known. A distribution's package (Debian's `rustc-web` with `libstd-rust-web-dev-bpf`)
//! brings `core` for `bpfel-unknown-none` with it. A rustup nightly with `rust-src` compiles `core` itself. Either way
//! bpf-linker does the rest, and must be built on an LLVM at least as new as the compiler's.

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of bpf-linker that is built where none is found.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// LLVM versions that this bpf-linker can be built on.
pub const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// Debian's packages of a Rust compiler with `core` for BPF.
pub const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

const TARGET: &str = "bpfel-unknown-none";

/// A Rust compiler that can compile for BPF.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Compiler {
    /// Where it comes from.
    pub origin: Origin,
    /// Major version of its LLVM.
    pub llvm: u32,
}

/// Where a compiler comes from, and so how it is called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// `/usr/bin/rustc` and `/usr/bin/cargo`, with `core` for BPF installed.
    Distribution,
    /// `rustup run nightly`, with `rust-src`.
    Rustup,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.origin {
            Origin::Distribution => "the distribution's Rust with core for bpfel-unknown-none",
            Origin::Rustup => "rustup's nightly with rust-src",
        };
        write!(f, "{name} (LLVM {})", self.llvm)
    }
}

impl Compiler {
    /// Whether `cargo clippy` is there for it too.
    #[must_use]
    pub fn has_clippy(&self) -> bool {
        let mut command = match self.origin {
            Origin::Distribution => {
                let mut command = clean(Command::new("/usr/bin/cargo"));
                command.env("PATH", distribution_path());
                command
            }
            Origin::Rustup => {
                let mut command = clean(Command::new("rustup"));
                command.args(["run", "nightly", "cargo"]);
                command
            }
        };
        // Without the distribution's, cargo answers with whatever clippy rustup has.
        (self.origin == Origin::Rustup || Path::new("/usr/bin/cargo-clippy").is_file())
            && capture(command.args(["clippy", "--version"])).is_some()
    }
}

/// The PATH on which the distribution's cargo finds its own clippy. It looks for its verbs in its home's `bin` first,
/// where rustup has put others of those names, unless the PATH itself says where that directory's turn is.
fn distribution_path() -> OsString {
    let mut path = OsString::from("/usr/bin:/bin");
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    if let Some(home) = home {
        path.push(":");
        path.push(home.join("bin"));
    }
    path
}

/// The distribution's cargo, with its own compiler, whatever an outer cargo is.
#[must_use]
pub fn distribution_cargo() -> Command {
    let mut command = clean(Command::new("/usr/bin/cargo"));
    command.env("RUSTC", "/usr/bin/rustc").env("PATH", distribution_path());
    command
}

/// The compilers that are ready to use, the preferred one first.
#[must_use]
pub fn compilers() -> Vec<Compiler> {
    [Origin::Distribution, Origin::Rustup]
        .into_iter()
        .filter_map(|origin| {
            let sysroot = capture(rustc(origin).args(["--print", "sysroot"]))?;
            let core = match origin {
                Origin::Distribution => format!("lib/rustlib/{TARGET}/lib"),
                Origin::Rustup => "lib/rustlib/src/rust/library/core".to_owned(),
            };
            if !Path::new(sysroot.trim()).join(core).is_dir() {
                return None;
            }
            let version = capture(rustc(origin).arg("-vV"))?;
            let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
            Some(Compiler { origin, llvm: llvm.split('.').next()?.parse().ok()? })
        })
        .collect()
}

fn rustc(origin: Origin) -> Command {
    match origin {
        Origin::Distribution => clean(Command::new("/usr/bin/rustc")),
        Origin::Rustup => {
            let mut command = clean(Command::new("rustup"));
            command.args(["run", "nightly", "rustc"]);
            command
        }
    }
}

/// A command without what an outer cargo and rustup tell their own children.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let inherited = text.starts_with("CARGO_")
            && !["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"]
                .iter()
                .any(|kept| text.starts_with(kept));
        if inherited
            || text.starts_with("RUSTC")
            || matches!(text, "CARGO" | "RUSTFLAGS" | "RUSTUP_TOOLCHAIN")
        {
            command.env_remove(&name);
        }
    }
    command
}

fn capture(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where bpf-linker is put when it is built for `compiler`, below the workspace.
#[must_use]
pub fn linker_root(workspace: &Path, llvm: u32) -> PathBuf {
    workspace.join(format!("target/tools/bpf-linker-{BPF_LINKER_VERSION}-llvm-{llvm}"))
}

/// A bpf-linker that can take what `compiler` produces: the one built for it, or for rustup's compiler, whose LLVM a
/// released bpf-linker carries, one on the PATH.
#[must_use]
pub fn linker(workspace: &Path, compiler: &Compiler) -> Option<PathBuf> {
    let built = linker_root(workspace, compiler.llvm).join("bin/bpf-linker");
    if built.is_file() {
        return Some(built);
    }
    if compiler.origin == Origin::Distribution {
        return None;
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

/// Why the kernel programs cannot be built.
#[derive(Debug)]
pub enum Error {
    /// Neither kind of compiler is complete.
    NoCompiler,
    /// There is no linker for the compiler.
    NoLinker(Compiler),
    /// cargo said no; its own words went to stderr.
    Cargo,
    /// So did llvm-strip.
    Strip,
    /// Something could not be started or written.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCompiler => write!(
                f,
                "no Rust compiler for BPF was found. `cargo xtask setup` installs one. By hand, on Debian:\n    \
                 apt-get install {}\nand elsewhere:\n    rustup toolchain install nightly --component rust-src\n    \
                 cargo xtask setup",
                DEBIAN_COMPILER.join(" "),
            ),
            Self::NoLinker(compiler) => {
                write!(f, "no bpf-linker for {compiler} was found. `cargo xtask setup` builds one.")
            }
            Self::Cargo => {
                f.write_str("the kernel programs could not be compiled; cargo's messages are above")
            }
            Self::Strip => f.write_str("llvm-strip failed; its message is above"),
            Self::Io(error) => write!(f, "building the kernel programs: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A compiler and its linker.
#[derive(Clone, Debug)]
pub struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    workspace: PathBuf,
}

impl Toolchain {
    /// Finds a complete toolchain.
    ///
    /// # Errors
    ///
    /// [`Error::NoCompiler`] or [`Error::NoLinker`].
    pub fn find(workspace: &Path) -> Result<Self, Error> {
        let compilers = compilers();
        for compiler in &compilers {
            if let Some(linker) = linker(workspace, compiler) {
                return Ok(Self {
                    compiler: compiler.clone(),
                    linker,
                    workspace: workspace.to_owned(),
                });
            }
        }
        Err(compilers.into_iter().next().map_or(Error::NoCompiler, Error::NoLinker))
    }

    /// The compiler.
    #[must_use]
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// cargo for BPF, for one of the workspace's packages: `verb` is `build` or `clippy`.
    #[must_use]
    pub fn cargo(&self, verb: &str, package: &str, target_dir: &Path) -> Command {
        let mut command = match self.compiler.origin {
            Origin::Distribution => {
                let mut command = distribution_cargo();
                // `asm!` for BPF is unstable, and this compiler is a stable one.
                command.env("RUSTC_BOOTSTRAP", "1");
                command.arg(verb);
                command
            }
            Origin::Rustup => {
                let mut command = clean(Command::new("rustup"));
                command.args(["run", "nightly", "cargo", verb, "-Zbuild-std=core"]);
                command
            }
        };
        let flags = [
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            // Else clearing and moving small structures are calls to loops over bytes.
            "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
            // Blocks in the order of the source: before about Linux 6.7 the verifier refuses a loop into whose head an instruction
            // other than a jump falls through.
            "-Clink-arg=--llvm-args=-disable-block-placement".to_owned(),
            "-Cdebuginfo=2".to_owned(),
            // Version 3 has 32-bit jumps and atomics; kernels know it since 5.12.
            "-Ctarget-cpu=v3".to_owned(),
        ];
        command
            .current_dir(&self.workspace)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args(["--profile", "bpf", "--package", package])
            .args(["--target", TARGET, "--target-dir"])
            .arg(target_dir);
        command
    }

    /// Builds the kernel programs of a package into `target_dir` and copies the object, which is named like the package,
    /// to `to`.
    ///
    /// # Errors
    ///
    /// [`Error::Cargo`] where they do not compile.
    pub fn build(
        &self,
        package: &str,
        target_dir: &Path,
        features: &[&str],
        to: &Path,
    ) -> Result<(), Error> {
        let mut command = self.cargo("build", package, target_dir);
        if !features.is_empty() {
            command.args(["--features", &features.join(",")]);
        }
        if !command.status()?.success() {
            return Err(Error::Cargo);
        }
        self.strip(&target_dir.join(TARGET).join("bpf").join(package), to)
    }

    /// Copies an object without the debugging information that no kernel is given (DWARF): three quarters of it. Types and
    /// lines of source, which the verifier shows, are elsewhere (BTF, BTF.ext) and stay. Where there is no llvm-strip the
    /// copy is as it was.
    fn strip(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let Some(strip) = self.llvm_strip() else {
            fs::copy(from, to)?;
            return Ok(());
        };
        let status =
            Command::new(strip).arg("--strip-debug").arg(from).arg("-o").arg(to).status()?;
        if status.success() { Ok(()) } else { Err(Error::Strip) }
    }

    /// The llvm-strip of the compiler's LLVM, or one on the PATH.
    fn llvm_strip(&self) -> Option<PathBuf> {
        const NAME: &str = "llvm-strip";
        let own = match self.compiler.origin {
            Origin::Distribution => {
                Some(PathBuf::from(format!("/usr/lib/llvm-{}/bin/{NAME}", self.compiler.llvm)))
            }
            // rustup's component llvm-tools.
            Origin::Rustup => capture(rustc(Origin::Rustup).args(["--print", "target-libdir"]))
                .and_then(|libraries| {
                    Some(Path::new(libraries.trim()).parent()?.join("bin").join(NAME))
                }),
        };
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path = env::split_paths(&path).map(|directory| directory.join(NAME));
        own.into_iter().chain(on_path).find(|candidate| candidate.is_file())
    }
}
