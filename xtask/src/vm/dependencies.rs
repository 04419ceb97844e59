//! What programs need to run somewhere else: their shared libraries.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::host;

/// The libraries of programs, by the paths under which the loader looks for them.
pub(crate) fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        // Fails for a program that is linked statically.
        let Ok(text) = host::text(Command::new("ldd").arg(program)) else { continue };
        libraries.extend(paths(&text));
    }
    Ok(libraries)
}

fn paths(ldd: &str) -> impl Iterator<Item = PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(|path| Path::new(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::paths;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = paths(text).map(|path| path.display().to_string()).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
