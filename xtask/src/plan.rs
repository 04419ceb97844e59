//! Decides what to do about missing pieces. Everything about the machine comes in from outside.

use std::{collections::BTreeSet, fmt, path::Path};

use xtask::bpf::{
    BPF_LINKER_LLVM, BPF_LINKER_VERSION, Compiler, DEBIAN_COMPILER, Origin, linker_root,
};

pub(crate) use crate::purpose::Purpose;

use crate::{debian::INSTALL, environment};

/// How it stands with a compiler's linker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Linker {
    /// It is there and can be run.
    Works,
    /// It is there and cannot be run.
    Broken,
    /// It is not there.
    Missing,
}

/// The compiler that a build takes, which is the first that has a linker, or else the one to build a linker for.
pub(crate) fn choose(candidates: &[(Compiler, Linker)]) -> Option<&(Compiler, Linker)> {
    candidates
        .iter()
        .find(|(_, linker)| *linker != Linker::Missing)
        .or_else(|| {
            candidates.iter().find(|(compiler, _)| BPF_LINKER_LLVM.contains(&compiler.llvm))
        })
        .or(candidates.first())
}

/// A missing piece. It is displayed with what it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Missing {
    /// A Rust compiler for BPF.
    Compiler,
    /// bpf-linker for that compiler.
    Linker {
        /// The compiler.
        compiler: Compiler,
        /// There is one, but it cannot be run.
        broken: bool,
    },
    /// Programs that tests and the demonstration start.
    Programs(Vec<&'static str>),
    /// A server of others that some tests send records to. Those that lack it fail, and nothing else does.
    Receiver(&'static str),
    /// The same, as packages for Python: the name of their environment.
    Environment(&'static str),
    /// A compiler for C++.
    Cxx,
    /// clippy for the compiler that comes from there.
    BpfClippy(Origin),
    /// A rustup component of the toolchain that runs this command.
    Component(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler => {
                f.write_str("a Rust compiler with core for BPF: the kernel programs are compiled with it")
            }
            Self::Linker { compiler, broken } => {
                let how = if *broken { "that can be run " } else { "" };
                write!(
                    f,
                    "a bpf-linker {how}for {compiler}: it makes the object that the kernel loads from what the \
                     compiler leaves, so it has to be built on the same LLVM"
                )
            }
            Self::Programs(programs) => write!(
                f,
                "{}: the tests, the demonstration and the benchmarks set up network namespaces and compare with the \
                 kernel's own answers by it",
                programs.join(" and ")
            ),
            Self::Receiver(server) => write!(f, "{server}: tests send records to it"),
            Self::Environment(name) => {
                write!(f, "receivers of {name} in target/tools: tests send records to them")
            }
            Self::Cxx => f.write_str("a C++ compiler: libFuzzer is built with it"),
            Self::BpfClippy(_) => {
                f.write_str("clippy for the BPF compiler: `cargo xtask lint` checks the kernel programs with it")
            }
            Self::Component(component) => {
                write!(f, "{component} for the cargo that runs this: `cargo xtask lint` needs it")
            }
        }
    }
}

/// What the plan has to know about the machine.
pub(crate) struct Machine<'a> {
    /// Whether packages can be installed: apt, and root to run it.
    pub(crate) may_install: bool,
    /// Whether apt could install a package.
    pub(crate) offers: &'a dyn Fn(&str) -> bool,
    /// Whether a package is installed.
    pub(crate) has: &'a dyn Fn(&str) -> bool,
    /// Whether there is a compiler for C and one for C++.
    pub(crate) has_cc: bool,
    /// rustup's name of the toolchain that runs this command, if it is one of rustup's.
    pub(crate) rustup_toolchain: Option<&'a str>,
    /// The repository's root.
    pub(crate) workspace: &'a Path,
}

/// What to do about the missing pieces.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Plan {
    /// What apt is to install.
    pub(crate) packages: BTreeSet<String>,
    /// After that: the LLVM to build bpf-linker on.
    pub(crate) linker: Option<u32>,
    /// What has to be typed; nothing is installed where there is something.
    pub(crate) by_hand: Vec<String>,
    /// What has to be typed for another purpose than this one.
    pub(crate) advice: Vec<String>,
}

/// Makes the plan. It covers what can be known now: a compiler that is yet to be installed decides on its linker.
pub(crate) fn plan(missing: &[Missing], purpose: Purpose, machine: &Machine<'_>) -> Plan {
    let mut plan = Plan::default();
    let (mut for_sudo, mut for_sudo_later) = (BTreeSet::new(), BTreeSet::new());
    for piece in missing {
        let needed = purpose.needs(piece);
        let absent = packages(piece, machine)
            .map(|all| {
                all.into_iter().filter(|package| !(machine.has)(package)).collect::<Vec<_>>()
            })
            .filter(|absent| absent.iter().all(|package| (machine.offers)(package)));
        match absent {
            Some(absent) if machine.may_install || absent.is_empty() => {
                if absent.is_empty() && matches!(piece, Missing::Environment(_)) {
                    plan.advice.extend(commands(piece, machine));
                }
                plan.packages.extend(absent);
                if let Missing::Linker { compiler, .. } = piece {
                    plan.linker = Some(compiler.llvm);
                }
            }
            Some(absent) if needed => for_sudo.extend(absent),
            Some(absent) => for_sudo_later.extend(absent),
            None if needed => plan.by_hand.extend(commands(piece, machine)),
            None => plan.advice.extend(commands(piece, machine)),
        }
    }
    let (packages, typed) = if for_sudo.is_empty() {
        (for_sudo_later, &mut plan.advice)
    } else {
        for_sudo.append(&mut for_sudo_later);
        (for_sudo, &mut plan.by_hand)
    };
    if !packages.is_empty() {
        let packages = Vec::from_iter(packages).join(" ");
        let install = format!("sudo apt-get {} {packages}", INSTALL.join(" "));
        typed.splice(0..0, ["sudo apt-get update".to_owned(), install]);
    }
    plan
}

/// Debian's packages of a piece, where there are such.
fn packages(piece: &Missing, machine: &Machine<'_>) -> Option<Vec<String>> {
    let packages = match piece {
        Missing::Compiler => DEBIAN_COMPILER.map(str::to_owned).into(),
        Missing::Linker { compiler: Compiler { llvm, .. }, .. } => {
            if !BPF_LINKER_LLVM.contains(llvm) {
                return None;
            }
            let mut packages = vec![
                format!("llvm-{llvm}-dev"),
                format!("libpolly-{llvm}-dev"),
                "libzstd-dev".to_owned(),
                "zlib1g-dev".to_owned(),
            ];
            if !machine.has_cc {
                packages.push("build-essential".to_owned());
            }
            packages
        }
        Missing::Programs(programs) => {
            packages_with(programs).into_iter().map(str::to_owned).collect()
        }
        Missing::Receiver(server) => vec![(*server).to_owned()],
        Missing::Environment(_) => vec!["python3-venv".to_owned()],
        Missing::Cxx => vec!["g++".to_owned()],
        Missing::BpfClippy(Origin::Distribution) => vec!["rust-web-clippy".to_owned()],
        Missing::BpfClippy(Origin::Rustup) => return None,
        Missing::Component(_) if machine.rustup_toolchain.is_some() => return None,
        Missing::Component("rustfmt") => vec!["rustfmt-web".to_owned()],
        Missing::Component(_) => vec!["rust-web-clippy".to_owned()],
    };
    Some(packages)
}

/// The packages that have these programs, by the names that most systems give them.
fn packages_with(programs: &[&'static str]) -> BTreeSet<&'static str> {
    programs
        .iter()
        .map(|program| match *program {
            "nft" => "nftables",
            "conntrack" => "conntrack",
            "jq" => "jq",
            "curl" => "curl",
            "openssl" => "openssl",
            "groff" => "groff-base",
            "iptables" => "iptables",
            "busybox" => "busybox-static",
            "cpio" => "cpio",
            "depmod" | "modprobe" => "kmod",
            "xz" => "xz-utils",
            "zstd" => "zstd",
            "strip" => "binutils",
            "rpmbuild" => "rpm",
            "python3-yaml" => "python3-yaml",
            _ => "iproute2",
        })
        .collect()
}

/// What to type for a piece that no package can be installed for.
fn commands(piece: &Missing, machine: &Machine<'_>) -> Vec<String> {
    match piece {
        Missing::Compiler => vec![NIGHTLY.to_owned()],
        Missing::Linker { compiler: Compiler { llvm, origin }, .. } => {
            let released = match origin {
                Origin::Rustup => vec!["cargo binstall bpf-linker".to_owned()],
                Origin::Distribution => Vec::new(),
            };
            if BPF_LINKER_LLVM.contains(llvm) {
                let either = if released.is_empty() { "" } else { ", or instead of it" };
                let mut commands = released;
                commands.push(format!(
                    "# with the development files of LLVM {llvm} and its Polly, of zstd and of zlib, and a C++ \
                     compiler{either}:"
                ));
                commands.push(format!(
                    "LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo {}",
                    linker_arguments(*llvm, machine.workspace).join(" ")
                ));
                commands
            } else {
                let known = BPF_LINKER_LLVM.map(|llvm| llvm.to_string()).join(", ");
                let mut commands = vec![format!(
                    "# bpf-linker {BPF_LINKER_VERSION} can be built on LLVM {known}, and not on {llvm}; take another \
                     compiler{}:",
                    if released.is_empty() {
                        ""
                    } else {
                        ", or the linker as its authors built it"
                    }
                )];
                commands.push(NIGHTLY.to_owned());
                commands.extend(released);
                commands
            }
        }
        Missing::Programs(programs) => vec![format!(
            "# install {}, which most systems have in {}",
            programs.join(" and "),
            Vec::from_iter(packages_with(programs)).join(" and ")
        )],
        Missing::Receiver(server) => vec![format!(
            "# install {server}, which Debian 12 has; the program of tests that needs it fails without"
        )],
        Missing::Environment(name) => {
            environment::commands(machine.workspace, name).map(|line| line.join(" ")).into()
        }
        Missing::Cxx => vec!["# install a C++ compiler, so that `c++` runs it".to_owned()],
        Missing::BpfClippy(Origin::Distribution) => {
            vec!["# install clippy from where /usr/bin/cargo is from".to_owned()]
        }
        Missing::BpfClippy(Origin::Rustup) => {
            vec!["rustup component add --toolchain nightly clippy".to_owned()]
        }
        Missing::Component(component) => vec![machine.rustup_toolchain.map_or_else(
            || format!("# install {component} from where this cargo is from"),
            |toolchain| format!("rustup component add --toolchain {toolchain} {component}"),
        )],
    }
}

const NIGHTLY: &str = "rustup toolchain install nightly --component rust-src";

/// Returns cargo's arguments to build bpf-linker.
pub(crate) fn linker_arguments(llvm: u32, workspace: &Path) -> Vec<String> {
    [
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER_VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
        "--root",
        &linker_root(workspace, llvm).display().to_string(),
    ]
    .map(str::to_owned)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISTRIBUTION: Compiler = Compiler { origin: Origin::Distribution, llvm: 22 };
    const RUSTUP: Compiler = Compiler { origin: Origin::Rustup, llvm: 23 };

    fn no_linker(compiler: Compiler) -> Missing {
        Missing::Linker { compiler, broken: false }
    }

    fn debian() -> Machine<'static> {
        Machine {
            may_install: true,
            offers: &|_| true,
            has: &|_| false,
            has_cc: true,
            rustup_toolchain: Some("stable"),
            workspace: Path::new("/workspace"),
        }
    }

    fn elsewhere() -> Machine<'static> {
        Machine { may_install: false, offers: &|_| false, ..debian() }
    }

    fn packages_of(plan: &Plan) -> Vec<&str> {
        plan.packages.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_bare_debian_gets_the_compiler_first() {
        let missing = [Missing::Compiler, Missing::Programs(vec!["ip", "ss"])];
        let plan = plan(&missing, Purpose::Run, &debian());
        assert_eq!(
            packages_of(&plan),
            ["cargo-web", "iproute2", "libstd-rust-web-dev-bpf", "rustc-web"]
        );
        assert_eq!((plan.linker, plan.by_hand.len()), (None, 0));
    }

    #[test]
    fn programs_come_from_the_packages_that_have_them() {
        for (programs, packages) in [
            (vec!["ip", "ss"], vec!["iproute2"]),
            (vec!["nft"], vec!["nftables"]),
            (vec!["ss", "nft"], vec!["iproute2", "nftables"]),
            (vec!["iptables"], vec!["iptables"]),
            (vec!["busybox", "modprobe"], vec!["busybox-static", "kmod"]),
        ] {
            let missing = [Missing::Programs(programs)];
            assert_eq!(packages_of(&plan(&missing, Purpose::Run, &debian())), packages);
            let by_hand = plan(&missing, Purpose::Run, &elsewhere()).by_hand;
            assert!(by_hand[0].ends_with(&packages.join(" and ")), "{by_hand:?}");
        }
    }

    #[test]
    fn a_linker_is_built_on_its_compilers_llvm() {
        let machine = Machine { has_cc: false, ..debian() };
        let plan = plan(&[no_linker(DISTRIBUTION)], Purpose::Run, &machine);
        assert_eq!(
            packages_of(&plan),
            ["build-essential", "libpolly-22-dev", "libzstd-dev", "llvm-22-dev", "zlib1g-dev"]
        );
        assert_eq!((plan.linker, plan.by_hand.len()), (Some(22), 0));
    }

    #[test]
    fn a_linker_needs_no_root_where_its_packages_are_installed() {
        let machine = Machine { has: &|_| true, ..elsewhere() };
        let plan = plan(&[no_linker(DISTRIBUTION)], Purpose::Run, &machine);
        assert_eq!(plan, Plan { linker: Some(22), ..Plan::default() });
    }

    #[test]
    fn without_root_the_absent_packages_are_asked_for_at_once() {
        let machine =
            Machine { may_install: false, has: &|package| package == "libzstd-dev", ..debian() };
        let missing = [
            no_linker(DISTRIBUTION),
            Missing::Programs(vec!["ss"]),
            Missing::BpfClippy(Origin::Distribution),
        ];
        let plan = plan(&missing, Purpose::Everything, &machine);
        assert_eq!(
            plan.by_hand,
            [
                "sudo apt-get update",
                "sudo apt-get install -y --no-install-recommends --no-remove iproute2 libpolly-22-dev llvm-22-dev \
                 rust-web-clippy zlib1g-dev",
            ]
        );
        assert_eq!((plan.packages.len(), plan.linker, plan.advice.len()), (0, None, 0));
    }

    #[test]
    fn without_debians_compiler_it_is_rustups() {
        let plan = plan(&[Missing::Compiler], Purpose::Run, &elsewhere());
        assert_eq!(plan.by_hand, [NIGHTLY]);
        // One package of three is not enough either: an older Debian has no core for BPF.
        let machine = Machine { offers: &|package| package == "rustc-web", ..debian() };
        let plan = super::plan(&[Missing::Compiler], Purpose::Run, &machine);
        assert_eq!((plan.by_hand, plan.packages.len()), (vec![NIGHTLY.to_owned()], 0));
    }

    #[test]
    fn rustups_compiler_can_have_a_released_linker() {
        let plan = plan(&[no_linker(RUSTUP)], Purpose::Run, &elsewhere());
        assert_eq!(plan.by_hand[0], "cargo binstall bpf-linker");
        assert_eq!(
            plan.by_hand[2],
            "LLVM_PREFIX=/usr/lib/llvm-23 cargo install bpf-linker --version 0.13.0 --locked --no-default-features \
             --features llvm-23 --root /workspace/target/tools/bpf-linker-0.13.0-llvm-23"
        );
        let distribution = super::plan(&[no_linker(DISTRIBUTION)], Purpose::Run, &elsewhere());
        assert!(!distribution.by_hand.iter().any(|line| line.contains("binstall")));
    }

    #[test]
    fn an_llvm_that_the_linker_does_not_know_is_named() {
        let old = Compiler { llvm: 19, ..DISTRIBUTION };
        let plan = plan(&[no_linker(old)], Purpose::Run, &debian());
        assert!(plan.by_hand[0].contains("LLVM 21, 22, 23, and not on 19"), "{:?}", plan.by_hand);
        assert_eq!((plan.packages.len(), plan.linker), (0, None));
    }

    #[test]
    fn a_server_that_no_package_has_stops_nothing() {
        let missing = [Missing::Receiver("clickhouse-server")];
        assert_eq!(packages_of(&plan(&missing, Purpose::Test, &debian())), ["clickhouse-server"]);
        let machine = Machine { offers: &|_| false, ..debian() };
        let plan = plan(&missing, Purpose::Test, &machine);
        assert_eq!((plan.by_hand.len(), plan.packages.len(), plan.advice.len()), (0, 0, 1));
        assert!(!Purpose::Test.needs(&missing[0]));
    }

    #[test]
    fn an_environment_needs_venv_only() {
        let missing = [Missing::Environment("otlp")];
        assert_eq!(packages_of(&plan(&missing, Purpose::Test, &debian())), ["python3-venv"]);
        let has_it = plan(&missing, Purpose::Test, &Machine { has: &|_| true, ..debian() });
        assert_eq!((has_it.packages.len(), has_it.advice.len()), (0, 2));
        let typed = plan(&missing, Purpose::Test, &elsewhere());
        assert_eq!(typed.advice[0], "python3 -m venv --clear /workspace/target/tools/otlp");
        assert_eq!((typed.advice.len(), typed.by_hand.len()), (2, 0));
    }

    #[test]
    fn what_only_lint_needs_stops_only_lint() {
        let missing = [Missing::BpfClippy(Origin::Rustup), Missing::Component("rustfmt")];
        let typed = [
            "rustup component add --toolchain nightly clippy",
            "rustup component add --toolchain stable rustfmt",
        ];
        assert_eq!(plan(&missing, Purpose::Lint, &debian()).by_hand, typed);
        let everything = plan(&missing, Purpose::Everything, &debian());
        assert_eq!(
            (everything.by_hand.len(), everything.advice),
            (0, typed.map(str::to_owned).into())
        );
    }

    #[test]
    fn debians_own_cargo_has_debians_components() {
        let machine = Machine { rustup_toolchain: None, ..debian() };
        let missing = [
            Missing::BpfClippy(Origin::Distribution),
            Missing::Component("rustfmt"),
            Missing::Component("clippy"),
        ];
        let plan = plan(&missing, Purpose::Lint, &machine);
        assert_eq!(packages_of(&plan), ["rust-web-clippy", "rustfmt-web"]);
    }

    #[test]
    fn a_compiler_with_a_linker_is_chosen() {
        let old = Compiler { llvm: 19, ..DISTRIBUTION };
        for (candidates, expected) in [
            (vec![], None),
            (vec![(DISTRIBUTION, Linker::Works), (RUSTUP, Linker::Works)], Some(0)),
            (vec![(DISTRIBUTION, Linker::Missing), (RUSTUP, Linker::Works)], Some(1)),
            (vec![(DISTRIBUTION, Linker::Broken), (RUSTUP, Linker::Works)], Some(0)),
            (vec![(DISTRIBUTION, Linker::Missing), (RUSTUP, Linker::Missing)], Some(0)),
            (vec![(old.clone(), Linker::Missing), (RUSTUP, Linker::Missing)], Some(1)),
            (vec![(old, Linker::Missing)], Some(0)),
        ] {
            assert_eq!(choose(&candidates), expected.map(|index: usize| &candidates[index]));
        }
    }
}
