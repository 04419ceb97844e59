//! A virtual machine: QEMU, with the host's own virtualization where there is one, and emulation for another processor.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{emulator::Emulator, kernel::Kernel};
use crate::cross::Target;

/// Memory of a machine, in MiB.
pub(crate) const MEMORY: u64 = 2048;

/// A machine that is about to run.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// What it runs in.
    pub(crate) emulator: &'a Emulator,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initrd: PathBuf,
    /// Where its logs go.
    pub(crate) directory: PathBuf,
    /// How long it may take.
    pub(crate) minutes: u64,
}

impl Machine<'_> {
    /// What the tests print.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("tests.log")
    }

    fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// Boots the machine, waits until it has turned itself off, and returns what the tests printed.
    ///
    /// # Errors
    ///
    /// Where QEMU cannot be started, or the machine does not end in time.
    pub(crate) fn run(&self) -> Result<String> {
        fs::create_dir_all(&self.directory)?;
        for log in [self.log(), self.console()] {
            fs::write(log, "")?;
        }
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.directory.join("qemu.log"))?)
            .spawn()
            .with_context(|| format!("starting {}", self.emulator))?;
        let until = Instant::now() + Duration::from_secs(self.minutes * 60);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                child.kill()?;
                child.wait()?;
                bail!(
                    "it did not end within {} minutes; what it was doing is at the end of {} and {}",
                    self.minutes,
                    self.log().display(),
                    self.console().display()
                );
            }
            // There is no event of a child's end that has a deadline.
            thread::sleep(Duration::from_millis(100));
        };
        let text = String::from_utf8_lossy(&fs::read(self.log())?).into_owned();
        if !status.success() || !text.lines().any(|line| line == "@@ done") {
            bail!(
                "it ended early ({status}); the kernel's last words, the tests' and QEMU's are in {}",
                self.directory.display()
            );
        }
        Ok(text)
    }

    fn command(&self) -> Command {
        // A cable with several queues is a bridge, in a network namespace that goes with the machine.
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", CABLE, "sh"]);
        self.emulator.begin(&mut command);
        let target = self.emulator.target;
        let is_native = target == Target::X86_64 && has_virtualization();
        let accelerator = if is_native { "kvm" } else { "tcg,thread=multi" };
        let (machine, console, tests): (&[_], _, _) = match target {
            Target::X86_64 => (&["-cpu", "max"], "ttyS0", ["-serial", "chardev:tests"]),
            // Emulating the signatures of pointers in full takes most of the time that loading takes.
            Target::Aarch64 => (
                &["-M", "virt", "-cpu", "max,pauth-impdef=on"],
                "ttyAMA0",
                ["-device", "pci-serial,chardev=tests"],
            ),
        };
        command
            .args(machine)
            .args(["-accel", accelerator, "-smp", "2", "-m", &MEMORY.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &format!("console={console} quiet panic=-1 mitigations=off")])
            .args(["-serial", &format!("file:{}", self.console().display())])
            .args(["-chardev", &format!("file,id=tests,path={}", self.log().display())])
            .args(tests);
        for (index, pair) in CARDS.iter().enumerate() {
            for (end, model) in pair.iter().enumerate() {
                let id = format!("card{index}{end}");
                command.args(["-netdev", &format!("hubport,id={id},hubid={index}")]).args([
                    "-device",
                    &format!("{model},netdev={id},romfile=,mac=52:54:00:00:0{index}:0{end}"),
                ]);
            }
        }
        for end in 0..2 {
            let tap = "queues=2,script=no,downscript=no,vhost=off";
            let mac = format!("52:54:00:00:0{QUEUES}:0{end}");
            command.args(["-netdev", &format!("tap,id=queues{end},ifname=end{end},{tap}")]).args([
                "-device",
                &format!("virtio-net-pci,netdev=queues{end},romfile=,mq=on,vectors=6,mac={mac}"),
            ]);
        }
        command
    }
}

/// What the line that tests write to is called inside.
pub(crate) const fn terminal(target: Target) -> &'static str {
    match target {
        Target::X86_64 => "ttyS1",
        // The first line has another driver.
        Target::Aarch64 => "ttyS0",
    }
}

/// Whether the processor runs virtual machines, and this process may have it do so. A `/dev/kvm` alone tells nothing: there
/// are hosts that offer one without the processor's help, on which no stock kernel boots.
fn has_virtualization() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = flags
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")));
    has && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Pairs of network cards on a cable. Nothing boots by them: without a ROM, they need no package that has it.
/// The last two numbers of their addresses are the pair and the end.
const CARDS: [[&str; 2]; 2] = [["virtio-net-pci", "virtio-net-pci"], ["vmxnet3", "virtio-net-pci"]];

/// The pair of cards with two queues.
const QUEUES: usize = CARDS.len();

/// Makes the cable of that pair, then becomes QEMU.
const CABLE: &str = r#"set -e
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add cable type bridge
for end in 0 1; do
    ip tuntap add dev "end$end" mode tap multi_queue vnet_hdr
    ip link set dev "end$end" master cable up
done
ip link set dev cable up
exec "$@""#;
