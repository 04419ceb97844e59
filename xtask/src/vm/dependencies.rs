//! What programs need to run somewhere else: their shared libraries.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{cross::Target, host};

/// The libraries of this machine's programs, by the paths under which the loader looks for them.
pub(crate) fn own(programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut libraries = BTreeMap::new();
    for program in programs {
        // Fails for a program that is linked statically.
        let Ok(text) = host::text(Command::new("ldd").arg(program)) else { continue };
        libraries.extend(paths(&text).map(|path| (path.clone(), path)));
    }
    Ok(libraries)
}

/// The libraries of another processor's programs, which no loader here can ask for: what they name is looked for in `root`.
pub(crate) fn unpacked(
    programs: &[PathBuf],
    root: &Path,
    target: Target,
) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let own = format!("{}-linux-gnu", target.processor());
    let folders = ["usr/lib", "lib"]
        .iter()
        .flat_map(|folder| [format!("{folder}/{own}"), (*folder).to_owned()])
        .map(|folder| root.join(folder))
        .collect::<Vec<_>>();
    let mut libraries = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut waiting = programs.to_vec();
    while let Some(program) = waiting.pop() {
        let mut readelf = Command::new("readelf");
        let text = host::text(readelf.args(["-W", "-d", "-l"]).arg(&program))?;
        for name in named(&text) {
            let file = Path::new(name).file_name().unwrap_or(name.as_ref());
            if !seen.insert(file.to_owned()) {
                continue;
            }
            let path = folders
                .iter()
                .map(|folder| folder.join(file))
                .find(|path| path.is_file())
                .with_context(|| format!("{} needs {name}", program.display()))?;
            // Where the program says, or else in the one folder that every loader knows.
            let inside =
                if name.starts_with('/') { name.into() } else { Path::new("/lib").join(name) };
            libraries.insert(inside, path.clone());
            waiting.push(path);
        }
    }
    Ok(libraries)
}

/// The loader and the libraries that a program names.
fn named(readelf: &str) -> impl Iterator<Item = &str> {
    readelf.lines().filter_map(|line| {
        let (_, rest) = line
            .split_once("program interpreter: ")
            .or_else(|| line.split_once("(NEEDED)")?.1.split_once('['))?;
        rest.split(']').next()
    })
}

fn paths(ldd: &str) -> impl Iterator<Item = PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(|path| Path::new(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{named, paths};

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = paths(text).map(|path| path.display().to_string()).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let text = "      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n \
                    0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]\n \
                    0x000000000000000e (SONAME)             Library soname: [other.so]\n";
        let found: Vec<_> = named(text).collect();
        assert_eq!(found, ["/lib/ld-linux-aarch64.so.1", "libgcc_s.so.1"]);
    }
}
