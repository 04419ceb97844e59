//! Kernels: which there are, where Debian packages them, and what a machine needs of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use crate::host;

/// The kernels that the documentation promises, oldest first.
pub(crate) const SUPPORTED: [&str; 5] = ["6.1", "6.12", "6.16", "6.18", NEWEST];
/// Those of another processor that are booted, in emulation.
pub(crate) const EMULATED: [&str; 2] = ["6.12", NEWEST];
/// Those that every run of the tests boots.
pub(crate) const TESTED: [&str; 3] = ["6.1", "6.12", NEWEST];

const NEWEST: &str = "newest";

/// What the tests need and these kernels may have as modules; what a kernel has built in, or not at all, is not loaded.
const MODULES: [&str; 33] = [
    "virtio_pci",
    "virtio_net",
    "vmxnet3",
    "e1000e",
    "veth",
    "dummy",
    "bridge",
    "br_netfilter",
    "macvlan",
    "vrf",
    "8021q",
    "bonding",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "sch_netem",
    "sch_fq",
    "sch_tbf",
    "ifb",
    "inet_diag",
    "tcp_diag",
    "nf_conntrack",
    "nf_tables",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_chain_nat",
    "nft_synproxy",
    "nft_compat",
    "nft_limit",
    "nft_log",
    "nfnetlink",
    "nft_reject_inet",
];

/// A version: the numbers of a release, compared one after the other.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Version(Vec<u64>);

impl Version {
    /// Reads the numbers at the beginning of a release, such as 6.12.118 of `6.12.118+deb13-cloud-amd64`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let numbers = text[..end].split('.').map(str::parse).collect::<Result<Vec<_>, _>>().ok()?;
        (numbers.len() >= 2).then_some(Self(numbers))
    }

    fn belongs_to(&self, name: &str) -> bool {
        Self::parse(name).is_some_and(|prefix| self.0.starts_with(&prefix.0))
    }
}

/// A kernel that is ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What it was asked for by.
    pub(crate) name: String,
    /// What it calls itself.
    pub(crate) release: String,
    /// Its version.
    pub(crate) version: Version,
    /// Its image.
    pub(crate) image: PathBuf,
    /// Its modules in the order in which they are loaded, not compressed.
    pub(crate) modules: Vec<PathBuf>,
}

/// Takes the kernels of these names from `directory`, and fetches what is not there.
///
/// # Errors
///
/// Where there is no such kernel, or it cannot be fetched.
pub(crate) fn obtain(
    names: &[String],
    archive: &Archive,
    directory: &Path,
    refresh: bool,
) -> Result<Vec<Kernel>> {
    names
        .iter()
        .map(|name| {
            let home = directory.join(name);
            if refresh || !home.join("release").is_file() {
                fetch(archive, name, &home)?;
            }
            read(name, &home)
        })
        .collect()
}

fn read(name: &str, home: &Path) -> Result<Kernel> {
    let release = fs::read_to_string(home.join("release"))
        .with_context(|| format!("reading the kernel in {}", home.display()))?;
    let version = Version::parse(&release).with_context(|| format!("`{release}` is no release"))?;
    let mut modules = fs::read_dir(home.join("modules"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    modules.sort();
    Ok(Kernel { name: name.to_owned(), release, version, image: home.join("vmlinuz"), modules })
}

/// The image package of a kernel: of its version the newest, with the small flavour that clouds boot.
fn package(archive: &Archive, name: &str) -> Result<String> {
    let pattern = format!("^linux-image-[0-9].*-cloud-{}$", archive.architecture());
    let found = archive.text("apt-cache", &["search", "--names-only", &pattern])?;
    newest(found.lines().filter_map(|line| line.split(" - ").next()), name)
        .with_context(|| format!("Debian has no kernel {name} for {}", archive.architecture()))
}

fn fetch(archive: &Archive, name: &str, home: &Path) -> Result<()> {
    let package = package(archive, name)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    eprintln!("Fetching Linux {release}.");
    // Newer packages are shells whose files are in others.
    let mut packages = vec![package.clone()];
    let depends = archive.text("apt-cache", &["depends", &package])?;
    packages.extend(
        depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
            .map(str::to_owned),
    );
    let root = archive.workplace(name)?;
    archive.unpack(&packages, &root)?;
    // Newer packages have them below /usr only, and depmod looks for them in /lib.
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    let image = ["boot", "usr/lib/modules", "lib/modules"]
        .iter()
        .flat_map(|folder| {
            let folder = root.join(folder);
            [folder.join(format!("vmlinuz-{release}")), folder.join(&release).join("vmlinuz")]
        })
        .find(|path| path.is_file())
        .with_context(|| format!("there is no image in {}", packages.join(", ")))?;
    host::remove_all(home)?;
    let modules = home.join("modules");
    fs::create_dir_all(&modules)?;
    fs::copy(image, home.join("vmlinuz"))?;
    copy_modules(&root, &release, &modules)?;
    // Last: what has it is whole.
    fs::write(home.join("release"), release)?;
    host::remove_all(&root)
}

/// The newest image package of a kernel's version.
fn newest<'a>(packages: impl Iterator<Item = &'a str>, name: &str) -> Option<String> {
    packages
        .filter_map(|package| {
            let release = package.strip_prefix("linux-image-")?;
            // 6.1.0-56 is Debian's 56th of 6.1.
            let version = Version::parse(release)?;
            let build = release.split('-').nth(1).and_then(|number| number.parse::<u64>().ok());
            (name == NEWEST || version.belongs_to(name))
                .then(|| ((version, build), package.to_owned()))
        })
        .max()
        .map(|(_, package)| package)
}

/// Copies what [`MODULES`] names, and what that needs, numbered in the order of loading.
fn copy_modules(root: &Path, release: &str, to: &Path) -> Result<()> {
    host::text(Command::new("depmod").arg("-b").arg(root).arg(release))?;
    let mut paths = Vec::new();
    for module in MODULES {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(root).args(["-S", release, "--show-depends", module]);
        // Fails where the kernel has no such module: a test that needs it says so.
        let Ok(text) = host::text(&mut command) else { continue };
        for path in text.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = PathBuf::from(path.split_whitespace().next().unwrap_or(path));
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    if paths.is_empty() {
        bail!("Linux {release} has none of the modules that tests need");
    }
    for (index, path) in paths.iter().enumerate() {
        let file =
            path.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
        let plain = to
            .join(format!("{index:03}-{}", file.trim_end_matches(".xz").trim_end_matches(".zst")));
        let output = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => host::output(Command::new("xz").arg("-dc").arg(path))?,
            Some("zst") => host::output(Command::new("zstd").arg("-qdc").arg(path))?,
            _ => fs::read(path)?,
        };
        fs::write(plain, output)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Version, newest};

    const PACKAGES: [&str; 6] = [
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12.9+deb13-cloud-amd64",
        "linux-image-6.12.118+deb13-cloud-amd64",
        "linux-image-7.2.13+deb14-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
    ];

    #[test]
    fn a_name_is_the_newest_of_its_version() {
        let of = |name| newest(PACKAGES.into_iter(), name).expect("there is one");
        assert_eq!(of("6.1"), PACKAGES[1]);
        assert_eq!(of("6.12"), PACKAGES[3]);
        assert_eq!(of("newest"), PACKAGES[5]);
        assert_eq!(newest(PACKAGES.into_iter(), "5.10"), None);
        assert_eq!(newest(PACKAGES.into_iter(), "six"), None);
    }

    #[test]
    fn versions_are_numbers() {
        let version = |text| Version::parse(text).expect("a version");
        assert!(version("6.9") < version("6.12.1+deb13"));
        assert!(version("6.1.0-56-cloud-amd64") < version("6.9"));
        assert_eq!(Version::parse("newest"), None);
        assert_eq!(Version::parse("6"), None);
    }
}
