//! What must be true before anything is loaded, each with what to do where it is not.

use std::{fs, path::Path};

use nix::{
    net::if_::{if_nameindex, if_nametoindex},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        utsname::uname,
    },
};

use crate::model::{
    error::{Context, Error, Result},
    failure::Failure,
};

/// The oldest kernel whose helpers and verifier the programs are written for.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Checks the kernel and this process's capabilities.
///
/// # Errors
///
/// The first thing that is missing.
pub fn check() -> Result<()> {
    check_for("attaching to an interface", &ATTACHING)?;
    check_clock_here()
}

/// The kernel's part of [`check`].
///
/// # Errors
///
/// Where it is too old, or has no BTF.
pub fn check_kernel_here() -> Result<()> {
    check_kernel(&uname()?.release().to_string_lossy(), Path::new("/sys/kernel/btf/vmlinux"))
}

/// The part of [`check`] that asks what this process may do.
///
/// # Errors
///
/// What it may not.
pub fn check_capabilities_here() -> Result<()> {
    check_own("attaching to an interface", &ATTACHING)
}

/// As [`check`], for running the programs on a capture's packets.
///
/// # Errors
///
/// The first thing that is missing.
pub fn check_replay() -> Result<()> {
    check_for("running the kernel programs on a capture", &REPLAYING)
}

/// As [`check`], for removing what was attached.
///
/// # Errors
///
/// The first thing that is missing.
pub fn check_for_detaching() -> Result<()> {
    check_for("detaching", &ATTACHING)
}

/// Capabilities, by their bits.
type Needed = [(u64, &'static str)];

const SYS_ADMIN: u64 = 1 << 21;
const ATTACHING: [(u64, &str); 3] =
    [(1 << 12, "CAP_NET_ADMIN"), (1 << 38, "CAP_PERFMON"), (1 << 39, "CAP_BPF")];
/// One more: a BPF filesystem is mounted for the maps.
const REPLAYING: [(u64, &str); 2] = [(1 << 12, "CAP_NET_ADMIN"), (SYS_ADMIN, "CAP_SYS_ADMIN")];

fn check_for(what: &str, needed: &Needed) -> Result<()> {
    check_kernel_here()?;
    check_own(what, needed)
}

fn check_own(what: &str, needed: &Needed) -> Result<()> {
    check_capabilities(
        &fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?,
        what,
        needed,
    )
}

/// Whether this kernel is of the given version or a newer one.
///
/// # Errors
///
/// Where the kernel does not say.
pub fn kernel_at_least(version: (u32, u32)) -> Result<bool> {
    Ok(kernel_version(&uname()?.release().to_string_lossy()) >= version)
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn check_kernel(release: &str, btf: &Path) -> Result<()> {
    if kernel_version(release) < OLDEST_KERNEL {
        let (here, oldest) = (kernel_version(release), OLDEST_KERNEL);
        return Err(Error::text(format!(
            "Linux {}.{} is older than {}.{}, the oldest that tracker supports; this is {release}",
            here.0, here.1, oldest.0, oldest.1
        )));
    }
    if !btf.exists() {
        return Err(Error::text(format!(
            "Linux {release} has no BTF ({} is missing); use one built with CONFIG_DEBUG_INFO_BTF=y, as distributions \
             ship it",
            btf.display()
        )));
    }
    Ok(())
}

fn check_capabilities(status: &str, what: &str, needed: &Needed) -> Result<()> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .context("no CapEff in /proc/self/status")?;
    let missing: Vec<_> = needed
        .iter()
        .filter(|(bit, name)| {
            effective & bit == 0 && (*name == "CAP_NET_ADMIN" || effective & SYS_ADMIN == 0)
        })
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let said = format!("{what} needs root (missing: {missing}); run this with sudo");
        return Err(Failure::NotPermitted(said).into());
    }
    Ok(())
}

/// Raises the limit of open files to what this process may have: each client of the agent takes some.
///
/// # Errors
///
/// What the kernel says.
pub fn raise_open_files() -> Result<()> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("asking for the limit of open files")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .context("raising the limit of open files")?;
    }
    Ok(())
}

/// Refuses a time namespace whose clock is not the one that kernel programs read.
///
/// # Errors
///
/// That it is one.
pub fn check_clock_here() -> Result<()> {
    // Kernels without time namespaces have no such file.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    check_clock(&offsets)
}

fn check_clock(offsets: &str) -> Result<()> {
    let monotonic = offsets.lines().find_map(|line| line.strip_prefix("monotonic"));
    let is_shifted =
        monotonic.is_some_and(|offset| offset.split_whitespace().any(|number| number != "0"));
    if is_shifted {
        return Err(Error::text(
            "this process is in a time namespace whose monotonic clock is shifted (/proc/self/timens_offsets): kernel \
             programs read the host's, so every date and timeout would be wrong; start it outside of that namespace",
        ));
    }
    Ok(())
}

/// The index of an interface.
///
/// # Errors
///
/// Where there is none of that name; the message names those there are.
pub fn interface_index(name: &str) -> Result<u32> {
    if let Ok(index) = if_nametoindex(name) {
        return Ok(index);
    }
    let mut names: Vec<_> = if_nameindex()?
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let said = format!("there is no interface named `{name}`; there are: {}", names.join(", "));
    Err(Failure::BadInput(said).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<()>) -> String {
        format!("{:#}", result.expect_err("refused"))
    }

    #[test]
    fn kernels() {
        let here = Path::new("/");
        assert!(check_kernel("6.1.0-13-amd64", here).is_ok());
        assert!(check_kernel("7.0-rc1", here).is_ok());
        assert_eq!(
            message(check_kernel("5.15.0-91-generic", here)),
            "Linux 5.15 is older than 6.1, the oldest that tracker supports; this is 5.15.0-91-generic"
        );
        for (release, said) in [
            ("6.0.19", "Linux 6.0 is older"),
            ("5.14.0-503.el9.x86_64", "Linux 5.14 is older"),
            ("4.19", "Linux 4.19 is older"),
            ("nonsense", "Linux 0.0 is older"),
        ] {
            assert!(message(check_kernel(release, here)).starts_with(said), "{release}");
        }
        let without = check_kernel("6.18.0-cloud", Path::new("/nonexistent"));
        assert!(message(without).starts_with("Linux 6.18.0-cloud has no BTF (/nonexistent"));
    }

    #[test]
    fn clocks() {
        assert!(check_clock("").is_ok());
        assert!(
            check_clock("monotonic           0         0\nboottime           99         0\n")
                .is_ok()
        );
        for shifted in ["monotonic     1         0\nboottime 0 0\n", "monotonic    -5         0\n"]
        {
            assert!(message(check_clock(shifted)).contains("time namespace"));
        }
    }

    #[test]
    fn capabilities() {
        let check = |effective: &str| {
            check_capabilities(&format!("CapEff:\t{effective}\n"), "it", &ATTACHING)
        };
        assert!(check("000001ffffffffff").is_ok());
        assert!(check("000000c000001000").is_ok());
        assert!(message(check("0000000000001000")).contains("missing: CAP_PERFMON, CAP_BPF"));
        assert!(message(check("0000000000000000")).contains("sudo"));
        let replay = check_capabilities("CapEff:\t000000c000001000\n", "it", &REPLAYING);
        assert!(message(replay).contains("it needs root (missing: CAP_SYS_ADMIN)"));
    }
}
