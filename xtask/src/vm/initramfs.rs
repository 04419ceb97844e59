//! The file system of a virtual machine: an archive with the programs, the same for all kernels, and one with a kernel's
//! modules. The kernel unpacks both, one after the other.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{
    kernel::Kernel,
    machine,
    suite::{Built, Selection},
    tools::{TOOLS, Tools},
};
use crate::host;

/// Makes the archive with the programs.
///
/// # Errors
///
/// Where a program is missing, or something cannot be written.
pub(crate) fn payload(
    directory: &Path,
    programs: &[Built],
    selection: &Selection,
    tools: &Tools,
) -> Result<PathBuf> {
    let target = tools.target;
    let root = directory.join("payload");
    reset(&root)?;
    for folder in
        ["bin", "busybox", "dev", "etc", "proc", "root", "run", "suite", "sys", "tmp", "usr/bin"]
    {
        fs::create_dir_all(root.join(folder))?;
    }
    let mut sources = Vec::new();
    for tool in TOOLS {
        let path = tools.find(tool)?;
        copy(&path, &root.join("usr/bin").join(tool))?;
        sources.push(path);
    }
    copy(&tools.find("busybox")?, &root.join("busybox/busybox"))?;
    for program in programs {
        let to = root.join("suite").join(&program.name);
        copy(&program.path, &to)?;
        host::run(target.tool("strip")?.arg(&to), "strip")?;
        sources.push(program.path.clone());
    }
    for (to, library) in tools.libraries(&sources)? {
        copy(&library, &root.join(to.strip_prefix("/").unwrap_or(&to)))?;
    }
    // Tests find them beside the project, where it was built.
    for folder in ["captures", "cases"] {
        let shared = host::workspace().join("../shared").join(folder);
        if let Ok(shared) = shared.canonicalize() {
            let beside = host::workspace().parent().context("the project has a parent")?;
            let beside = beside.strip_prefix("/").unwrap_or(beside);
            let to = root.join(beside).join("shared").join(folder);
            fs::create_dir_all(to.parent().context("it has a parent")?)?;
            host::text(Command::new("cp").arg("-rL").arg(&shared).arg(&to))?;
        }
    }
    // `../` of a path needs the folders before it.
    for folder in ["tests", "tracker-user"] {
        let here = host::workspace().join(folder);
        fs::create_dir_all(root.join(here.strip_prefix("/").unwrap_or(&here)))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/busybox/sh\nnobody:x:65534:65534::/:/busybox/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    symlink("/busybox/busybox", root.join("bin/sh"))?;
    let init = root.join("init");
    let begin = BEGIN.replace("TERMINAL", machine::terminal(target));
    fs::write(&init, format!("{begin}{}{END}", selection.script()))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = directory.join("payload.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// Makes the archive that a kernel boots with, and returns it.
///
/// # Errors
///
/// Where it cannot be written.
pub(crate) fn for_kernel(payload: &Path, kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("modules").join(&kernel.name);
    reset(&root)?;
    let modules = root.join("modules");
    fs::create_dir_all(&modules)?;
    for module in &kernel.modules {
        fs::copy(module, modules.join(module.file_name().context("a module has a name")?))?;
    }
    fs::write(root.join("kernel"), &kernel.name)?;
    let small = directory.join(format!("modules-{}.cpio", kernel.name));
    pack(&root, &small)?;
    let whole = directory.join(format!("initrd-{}.cpio", kernel.name));
    let mut to = File::create(&whole)?;
    for part in [payload, &small] {
        std::io::copy(&mut File::open(part)?, &mut to)?;
    }
    to.flush()?;
    fs::remove_file(&small)?;
    fs::remove_dir_all(&root)?;
    Ok(whole)
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let list = host::text(Command::new("find").args([".", "-mindepth", "1"]).current_dir(root))?;
    let mut child = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(archive)?)
        .spawn()
        .context("starting cpio")?;
    child.stdin.take().context("it is piped")?.write_all(list.as_bytes())?;
    ensure!(child.wait()?.success(), "cpio failed");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it has a parent")?)?;
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn reset(root: &Path) -> Result<()> {
    host::remove_all(root)?;
    Ok(fs::create_dir_all(root)?)
}

/// The first process. What tests say goes to the second serial line, apart from what the kernel says.
const BEGIN: &str = r#"#!/busybox/busybox sh
/busybox/busybox --install -s /busybox
export PATH=/usr/bin:/suite:/bin:/busybox HOME=/root LC_ALL=C.UTF-8 RUST_BACKTRACE=0
/busybox/mount -t devtmpfs dev /dev
/busybox/mkdir -p /dev/pts /dev/shm
/busybox/mount -t devpts pts /dev/pts
/busybox/mount -t proc proc /proc
/busybox/mount -t sysfs sys /sys
/busybox/mount -t bpf bpf /sys/fs/bpf
/busybox/mount -t tmpfs tmp /tmp
/busybox/mount -t tmpfs run /run
/busybox/ln -s /proc/self/fd /dev/fd
exec >/dev/TERMINAL 2>&1
/busybox/stty -F /dev/TERMINAL raw
for module in /modules/*; do
    /busybox/insmod "$module" || echo "@@ module $module"
done
KERNEL=$(/busybox/cat /kernel)
/usr/bin/ip link set lo up
echo "@@ release $(/busybox/uname -r)"
ulimit -n 65536
"#;

/// And its end.
const END: &str = "echo '@@ done'\n/busybox/sync\n/busybox/poweroff -f\n";
