//! An image of containers, by podman: the static program and nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::{cross::Target, host};

/// Builds an image from the archive's program in `directory`, and returns it, as an archive that podman and docker load.
///
/// # Errors
///
/// Where podman is missing, or says why not.
pub(super) fn build(target: Target, directory: &Path) -> Result<PathBuf> {
    let (version, architecture) = (env!("CARGO_PKG_VERSION"), target.debian());
    let archive = directory.join(format!("tracker-{version}-{architecture}.image.tar"));
    let mut podman = Command::new("podman");
    podman
        .args(["build", "--quiet", "--arch", architecture, "--file", "packaging/Containerfile"])
        .args(["--tag", &format!("tracker:{version}"), "--tag", "tracker:latest", "."])
        .current_dir(host::workspace());
    host::run(&mut podman, "podman build, of the package podman")?;
    host::remove_all(&archive)?;
    let mut save = Command::new("podman");
    save.args(["save", "--quiet", "--multi-image-archive", "--output"]).arg(&archive);
    host::run(save.args([&format!("tracker:{version}"), "tracker:latest"]), "podman save")?;
    Ok(archive)
}

/// Runs it by podman in namespaces of its own.
///
/// # Errors
///
/// Where it does not do what it should.
pub(super) fn check(image: &Path) -> Result<()> {
    ensure!(host::is_root(), "the check makes namespaces: run it as root");
    let root = host::workspace();
    host::run(
        Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(root.join("packaging/check-image.sh"))
            .arg(image)
            .arg(root.join("packaging/seccomp.json")),
        "packaging/check-image.sh",
    )?;
    println!("the image is as it should be");
    Ok(())
}
