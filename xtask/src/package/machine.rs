//! A machine to try the package on: Debian's minimum with systemd as its process 1, in namespaces of its own. It shares the
//! kernel, and nothing else: not the network, not the BPF filesystem, and its files are gone afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::host;

/// What the machine runs on, and what the package's check needs, besides Debian's minimum.
const PACKAGES: &str = "--include=systemd,systemd-sysv,dbus,iproute2,rpm";

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// From here on in namespaces of their own. The files are the base's ($1), and what is written goes into memory; what is to be
/// copied into /root follows.
const BOOT: &str = r#"
set -e
base=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$base,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
cp "$@" /mnt/root/root/
cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --log-target=null --show-status=no --unit=multi-user.target
"#;

/// It runs until dropped.
pub(super) struct Machine {
    unshare: Child,
    group: PathBuf,
}

impl Machine {
    /// Downloads the base into `directory`, unless it is there.
    pub(super) fn base(directory: &Path) -> Result<PathBuf> {
        let base = directory.join("debian-12-with-rpm");
        if base.exists() {
            return Ok(base);
        }
        let unfinished = directory.join("debian-12-with-rpm.unfinished");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        host::run(
            Command::new("debootstrap")
                .args(["--variant=minbase", PACKAGES, "bookworm"])
                .arg(&unfinished)
                .stdout(Stdio::null()),
            "debootstrap",
        )?;
        fs::rename(&unfinished, &base)?;
        Ok(base)
    }

    /// Starts one whose /root has copies of these files, and waits until it is up.
    pub(super) fn start(base: &Path, files: &[&Path]) -> Result<Self> {
        let group = cgroup2()?.join(format!("tracker-package-{}", std::process::id()));
        fs::create_dir(&group).with_context(|| group.display().to_string())?;
        // In a group of its own first: its namespace's root is where it is then.
        let unshare = Command::new("sh")
            .args(["-c", r#"echo $$ >"$0/cgroup.procs" && exec "$@""#])
            .arg(&group)
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"])
            .args(["--net", "--cgroup", "sh", "-c", BOOT, "boot"])
            .arg(base)
            .args(files)
            .stdin(Stdio::null())
            .spawn();
        let machine = match unshare {
            Ok(unshare) => Self { unshare, group },
            Err(error) => {
                fs::remove_dir(&group)?;
                return Err(error).context("starting sh");
            }
        };
        let start = Instant::now();
        while !machine.is_up() {
            ensure!(start.elapsed() < PATIENCE, "the machine does not come up");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(machine)
    }

    /// A command that runs in it.
    pub(super) fn command(&self, program: &str) -> Result<Command> {
        let unshare = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        let first = children.split_whitespace().next().context("the machine is down")?;
        let mut command = Command::new("nsenter");
        command.args(["--target", first, "--all", "--root"]);
        command.args(["env", "-i", "-C", "/", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", program]);
        Ok(command)
    }

    fn is_up(&self) -> bool {
        let state = self.command("systemctl").and_then(|mut command| {
            Ok(command.arg("is-system-running").stderr(Stdio::null()).output()?)
        });
        state.is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"running" | b"degraded"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its process 1 goes with it (--kill-child), and all others with that.
        let ended = self.unshare.kill().and_then(|()| self.unshare.wait());
        if let Err(error) = ended.map_err(Into::into).and_then(|_| remove_group(&self.group)) {
            eprintln!("{} may be left: {error:#}", self.group.display());
        }
    }
}

/// Removes a group and those in it, once their processes are gone.
fn remove_group(group: &Path) -> Result<()> {
    let start = Instant::now();
    while fs::read_to_string(group.join("cgroup.events"))?.contains("populated 1") {
        ensure!(start.elapsed() < PATIENCE, "processes do not end");
        thread::sleep(Duration::from_millis(50));
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    Ok(fs::remove_dir(group)?)
}

/// Where control groups of version 2 are mounted.
fn cgroup2() -> Result<PathBuf> {
    for line in fs::read_to_string("/proc/mounts")?.lines() {
        let mut words = line.split(' ');
        if let (_, Some(at), Some("cgroup2")) = (words.next(), words.next(), words.next()) {
            return Ok(at.into());
        }
    }
    bail!("no control groups of version 2 are mounted (mount -t cgroup2 cgroup2 DIRECTORY)")
}
