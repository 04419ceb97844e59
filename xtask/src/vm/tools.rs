//! What runs inside a machine beside the programs of tests: the host's own tools, or Debian's for another processor.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    archive::{self, Archive},
    dependencies,
};
use crate::{cross::Target, host};

/// What tests start, and what the machine's first process needs. busybox has the rest.
pub(crate) const TOOLS: [&str; 12] = [
    "ip", "ss", "tc", "nft", "nstat", "nsenter", "unshare", "setpriv", "setsid", "mount", "umount",
    "bridge",
];

/// The packages that have them, and the libraries that the programs of tests need.
const PACKAGES: [&str; 6] =
    ["busybox-static", "iproute2", "libgcc-s1", "mount", "nftables", "util-linux"];

/// Where they have them.
const FOLDERS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// The tools for a processor.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) target: Target,
    /// Where packages are unpacked; nowhere, where the host's own tools do.
    root: Option<PathBuf>,
}

impl Tools {
    /// Takes the tools from `directory`, and fetches them where they are not there.
    ///
    /// # Errors
    ///
    /// Where they cannot be fetched.
    pub(crate) fn obtain(archive: &Archive, directory: &Path, refresh: bool) -> Result<Self> {
        let target = archive.target;
        if target == Target::here()? {
            return Ok(Self { target, root: None });
        }
        if refresh || !directory.exists() {
            eprintln!("Fetching the tools that run inside.");
            let unfinished = archive.workplace("tools")?;
            archive.unpack(&archive.closure(&PACKAGES)?, &unfinished)?;
            host::remove_all(directory)?;
            std::fs::rename(unfinished, directory)?;
        }
        Ok(Self { target, root: Some(directory.to_owned()) })
    }

    /// The program of that name.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub(crate) fn find(&self, tool: &str) -> Result<PathBuf> {
        match &self.root {
            None => host::find(tool).with_context(|| format!("there is no {tool} on the PATH")),
            Some(root) => archive::find(root, &FOLDERS, tool),
        }
    }

    /// The libraries of programs: where the loader looks for each inside, and where it is here.
    ///
    /// # Errors
    ///
    /// Where one is missing.
    pub(crate) fn libraries(&self, programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>> {
        match &self.root {
            None => dependencies::own(programs),
            Some(root) => dependencies::unpacked(programs, root, self.target),
        }
    }
}
