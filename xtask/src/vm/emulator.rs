//! QEMU: this system's, or else Debian's, unpacked beside the kernels. It is never installed: where other packages of QEMU are
//! installed from a newer suite, Debian's own would remove them.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::archive::{self, Archive};
use crate::{cross::Target, host};

/// What boots kernels.
#[derive(Debug)]
pub(crate) struct Emulator {
    /// The processor that the kernels are for.
    pub(crate) target: Target,
    /// Where it is unpacked; nowhere, where the system's own does.
    root: Option<Unpacked>,
}

/// A program that finds its parts neither in the system nor beside itself, and has to be given all of them.
#[derive(Debug)]
struct Unpacked {
    root: PathBuf,
    loader: PathBuf,
    program: PathBuf,
    /// The processor's name in folders of libraries, as in `x86_64-linux-gnu`.
    triple: String,
}

impl fmt::Display for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            None => f.write_str(program(self.target)),
            Some(unpacked) => write!(f, "{}", unpacked.program.display()),
        }
    }
}

impl Emulator {
    /// Takes the system's, or the one that is unpacked below `directory`, where it is fetched to if need be: from `archive`, or,
    /// where that is another processor's, from this one's beside it.
    ///
    /// # Errors
    ///
    /// Where it cannot be fetched.
    pub(crate) fn obtain(target: Target, directory: &Path, archive: &Archive) -> Result<Self> {
        let program = program(target);
        if host::on_path(program) {
            return Ok(Self { target, root: None });
        }
        let root = directory.join(program);
        if !root.exists() {
            eprintln!("Fetching {program}. It is unpacked in {}.", root.display());
            let here = Target::here()?;
            let of_here = Archive::new(&directory.join("kernels"), here);
            let archive = if archive.target == here { archive } else { &of_here };
            let unfinished = archive.workplace(program)?;
            archive.unpack(&archive.closure(&[package(target)])?, &unfinished)?;
            host::remove_all(&root)?;
            fs::rename(unfinished, &root)?;
        }
        let unpacked =
            Unpacked::new(root, program).with_context(|| format!("what {program} needs"))?;
        Ok(Self { target, root: Some(unpacked) })
    }

    /// Begins a command with it.
    pub(crate) fn begin(&self, command: &mut Command) {
        match &self.root {
            None => {
                command.arg(program(self.target));
            }
            Some(unpacked) => unpacked.begin(command),
        }
    }
}

impl Unpacked {
    fn new(root: PathBuf, program: &str) -> Result<Self> {
        let triple = format!("{}-linux-gnu", Target::here()?.processor());
        let libraries = format!("usr/lib/{triple}");
        let loader = fs::read_dir(root.join(&libraries))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("ld-linux-")
            })
            .context("the loader of programs")?;
        let program = archive::find(&root, &["usr/bin"], program)?;
        Ok(Self { root, loader, program, triple })
    }

    fn begin(&self, command: &mut Command) {
        let libraries = self.root.join("usr/lib").join(&self.triple);
        command
            .env("QEMU_MODULE_DIR", libraries.join("qemu"))
            .arg(&self.loader)
            .arg("--library-path")
            .arg(&libraries)
            .arg(&self.program);
        for firmware in ["qemu", "seabios"] {
            command.arg("-L").arg(self.root.join("usr/share").join(firmware));
        }
    }
}

/// What boots kernels for a processor.
const fn program(target: Target) -> &'static str {
    match target {
        Target::X86_64 => "qemu-system-x86_64",
        Target::Aarch64 => "qemu-system-aarch64",
    }
}

/// The package that has it.
const fn package(target: Target) -> &'static str {
    match target {
        Target::X86_64 => "qemu-system-x86",
        Target::Aarch64 => "qemu-system-arm",
    }
}
