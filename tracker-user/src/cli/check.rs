//! `tracker check`: what would stop or limit an agent on this host, and the fix. It loads the kernel programs, and attaches
//! nothing.

mod programs;

use std::{
    fmt, fs,
    io::{self, Write},
};

use anyhow::{Result, bail};
use caps::{CapSet, Capability, has_cap};
use nix::sys::utsname::uname;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    agent::{
        interfaces::{
            changes::{Changes, Link},
            wanted::{Name, Wanted},
            xdp_features::has_native_xdp,
        },
        metrics,
        protect::{self, firewall::obstacles, target::Target},
        trial_load::Accepted,
    },
    kernel::{
        attach::xdp::{driver, in_the_way, xdp_program},
        btf::KernelTypes,
        ingress::{IngressChoice, IngressOptions},
        instance::Instance,
        kernel_side::links,
        kfunc,
        link_kind::LinkKind,
        preflight,
    },
    model::{
        error,
        format::{Format, Line},
    },
};

/// Without these, nothing can be loaded.
const FIRST: [&str; 2] = [KERNEL, CAPABILITIES];
const KERNEL: &str = "kernel";
const CAPABILITIES: &str = "capabilities";

/// The index of loopback, in every network namespace (include/net/net_namespace.h).
const LOOPBACK: u32 = 1;

/// Options of `tracker check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Interfaces to check, as for `tracker run` [default: all]
    #[arg(short, long = "interface", value_delimiter = ',', value_name = "NAME[,NAME]")]
    pub interfaces: Vec<Name>,
    /// Where arriving packets would be seen.
    #[command(flatten)]
    pub ingress_options: IngressOptions,
    /// Output format: one line per finding, one JSON document, or one JSON record per line
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Metrics.
    #[command(flatten)]
    pub metrics: metrics::options::Options,
    /// SYN cookies.
    #[command(flatten)]
    pub protect: protect::Options,
}

/// How it stands with something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// An agent runs, but less well, or not for all.
    Warning,
    /// An agent would refuse to start.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Finding {
    verdict: Verdict,
    /// What was looked at.
    check: &'static str,
    /// The interface that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    /// What was found and, where it is not as it should be, what to do.
    message: String,
    /// The programs that the kernel's verifier has accepted, where they were loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    programs: Vec<Accepted>,
}

impl Finding {
    fn new(verdict: Verdict, check: &'static str, message: impl Into<String>) -> Self {
        Self { verdict, check, interface: None, message: message.into(), programs: Vec::new() }
    }

    /// What is as it should be, or an agent's refusal.
    fn of(check: &'static str, found: error::Result<String>) -> Self {
        match found {
            Ok(message) => Self::new(Verdict::Ok, check, message),
            Err(error) => Self::new(Verdict::Failure, check, format!("{error:#}")),
        }
    }

    fn about(self, interface: &str) -> Self {
        Self { interface: Some(interface.to_owned()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failure => "failure",
        };
        write!(f, "{verdict:<8} {}", self.check)?;
        if let Some(interface) = &self.interface {
            write!(f, " of {interface}")?;
        }
        // What the verifier says takes lines of its own.
        write!(f, ": {}", self.message.replace('\n', "\n         "))
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Document<'a> {
    v: u32,
    findings: &'a [Finding],
}

/// Looks, loads what an agent would load, and says what it has found.
///
/// # Errors
///
/// Where an agent would not start, or stdout cannot be written.
pub async fn run(options: &Options, instance: &Instance) -> Result<()> {
    let mut findings = host(instance)?;
    let may_load = findings
        .iter()
        .all(|finding| !(FIRST.contains(&finding.check) && finding.verdict == Verdict::Failure));
    let links = Changes::subscribe()?.links().await?;
    let names = if options.interfaces.is_empty() {
        links.iter().map(|link| link.name.clone()).collect()
    } else {
        Wanted::new(&options.interfaces, false).at_start(&links)?
    };
    if may_load {
        findings.extend(programs::findings(&names, options.protect.is_wanted()));
    }
    for Link { index, name, .. } in links.iter().filter(|link| names.contains(&link.name)) {
        findings.extend(interface(instance, &options.ingress_options, *index, name).await);
    }
    if options.protect.is_wanted() {
        let protection = match options.ingress_options.check(true) {
            Ok(()) => protect::prepare(&options.protect, &names).await,
            Err(error) => Err(error),
        };
        let said = protection.map(|_| "the listeners that were named can be protected".to_owned());
        findings.push(Finding::of("protection", said));
        findings.extend(firewall(&options.protect.protect));
    }
    findings.extend(metrics(&options.metrics));

    let mut out = io::stdout().lock();
    match options.output {
        Format::Text => findings.iter().try_for_each(|finding| writeln!(out, "{finding}"))?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &Document { v: 1, findings: &findings })?;
            writeln!(out)?;
        }
        Format::Jsonl => {
            for finding in &findings {
                serde_json::to_writer(&mut out, &Line::new(finding))?;
                writeln!(out)?;
            }
        }
    }
    // Interfaces that nobody has named are no reason to fail: an agent may well take others.
    let failures = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Failure)
        .filter(|finding| finding.interface.is_none() || !options.interfaces.is_empty())
        .count();
    if failures > 0 {
        bail!("an agent would not start here: {failures} of {} checks failed", findings.len());
    }
    Ok(())
}

/// What an agent would refuse or warn of, where it is to serve metrics.
fn metrics(options: &metrics::options::Options) -> Vec<Finding> {
    const CHECK: &str = "metrics";
    let Some(at) = &options.at else { return Vec::new() };
    let access = match metrics::prepare(options) {
        Ok(access) => access,
        Err(error) => return vec![Finding::new(Verdict::Failure, CHECK, format!("{error:#}"))],
    };
    let warnings: Vec<_> = access
        .warnings(at)
        .into_iter()
        .map(|warning| Finding::new(Verdict::Warning, CHECK, warning))
        .collect();
    if warnings.is_empty() {
        vec![Finding::new(Verdict::Ok, CHECK, format!("{at}, {}", access.words()))]
    } else {
        warnings
    }
}

/// The kernel, and what this process may do.
fn host(instance: &Instance) -> Result<Vec<Finding>> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let mut findings = vec![
        Finding::of(
            KERNEL,
            preflight::check_kernel_here().map(|()| format!("Linux {release}, with BTF")),
        ),
        Finding::of(
            CAPABILITIES,
            preflight::check_capabilities_here().map(|()| "this user may attach".to_owned()),
        ),
        bpf_filesystem(instance),
        jit(),
    ];
    // Who may not ask is answered by the release.
    let has_tcx = match links::has_tcx(LOOPBACK) {
        Ok(has_tcx) => has_tcx,
        Err(_) => preflight::kernel_at_least((6, 6))?,
    };
    findings.push(if has_tcx {
        Finding::new(Verdict::Ok, "egress", "tcx")
    } else {
        Finding::new(
            Verdict::Warning,
            "egress",
            "this kernel has no tcx (Linux 6.6): a filter on the clsact qdisc takes its place, and who replaces qdiscs \
             removes it",
        )
    });
    let hands_over =
        KernelTypes::of_this_kernel().is_ok_and(|types| types.function(kfunc::ASSIGN).is_some());
    findings.push(if hands_over {
        Finding::new(Verdict::Ok, "SYN cookies", "with window scale, SACK, timestamps and ECN")
    } else {
        Finding::new(
            Verdict::Warning,
            "SYN cookies",
            format!(
                "this kernel has no {} (Linux 6.9): --protect works with net.ipv4.tcp_syncookies=2 only, and keeps only \
                 the maximum segment size",
                kfunc::ASSIGN
            ),
        )
    });
    findings.push(match instance.pid() {
        None => Finding::new(
            Verdict::Ok,
            "agent",
            format!("none named `{}` is running", instance.name()),
        ),
        Some(pid) => Finding::new(
            Verdict::Warning,
            "agent",
            format!(
                "one named `{}` is running (pid {}); another one needs another name, by --instance",
                instance.name(),
                pid.trim()
            ),
        ),
    });
    Ok(findings)
}

fn bpf_filesystem(instance: &Instance) -> Finding {
    const CHECK: &str = "BPF filesystem";
    match instance.has_bpffs() {
        Ok(true) => Finding::new(Verdict::Ok, CHECK, format!("at {}", instance.bpffs().display())),
        Ok(false)
            if has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) =>
        {
            let said = format!("none at {}: the agent mounts it", instance.bpffs().display());
            Finding::new(Verdict::Ok, CHECK, said)
        }
        Ok(false) => Finding::new(
            Verdict::Failure,
            CHECK,
            format!(
                "none at {0}, and this user may not mount it (CAP_SYS_ADMIN): `mount -t bpf bpf {0}` as root",
                instance.bpffs().display()
            ),
        ),
        Err(error) => Finding::new(Verdict::Warning, CHECK, format!("{error:#}")),
    }
}

/// The host's rules that connections by SYN cookies may fail at.
fn firewall(targets: &[Target]) -> Vec<Finding> {
    const CHECK: &str = "firewall";
    match obstacles(targets) {
        Ok(obstacles) if obstacles.is_empty() => {
            let said = "no rule of nftables is known to stand in the way of SYN cookies";
            vec![Finding::new(Verdict::Ok, CHECK, said)]
        }
        Ok(obstacles) => obstacles
            .iter()
            .map(|obstacle| Finding::new(Verdict::Warning, CHECK, obstacle.to_string()))
            .collect(),
        Err(error) => vec![Finding::new(Verdict::Warning, CHECK, format!("{error:#}"))],
    }
}

fn jit() -> Finding {
    const CHECK: &str = "JIT compiler";
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) if text.trim() == "0" => Finding::new(
            Verdict::Warning,
            CHECK,
            "off: the kernel interprets the programs, which takes several times as long. `sysctl -w \
             net.core.bpf_jit_enable=1`",
        ),
        Ok(_) => Finding::new(Verdict::Ok, CHECK, "on"),
        // Another network namespace than the first has none of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::new(Verdict::Ok, CHECK, "as the host has it")
        }
        Err(error) => Finding::new(
            Verdict::Warning,
            CHECK,
            format!("net.core.bpf_jit_enable cannot be read: {error}"),
        ),
    }
}

/// What there is to say of an interface.
async fn interface(
    instance: &Instance,
    ingress_options: &IngressOptions,
    index: u32,
    name: &str,
) -> Vec<Finding> {
    let kind = match LinkKind::of(name) {
        Ok(kind) => kind,
        Err(error) => {
            return vec![
                Finding::new(Verdict::Failure, "link type", format!("{error:#}")).about(name),
            ];
        }
    };
    if kind == LinkKind::Loopback {
        let said = "every packet passes egress, so no XDP is needed";
        return vec![Finding::new(Verdict::Ok, "XDP", said).about(name)];
    }
    match ingress_options.in_stack(index).await {
        Ok(Some(why)) => {
            let said = format!("in the network stack: {why}");
            return vec![Finding::new(Verdict::Ok, "way in", said).about(name)];
        }
        Ok(None) => {}
        Err(error) => {
            return vec![
                Finding::new(Verdict::Failure, "way in", format!("{error:#}")).about(name),
            ];
        }
    }
    let there = match xdp_program(index).await {
        Ok(None) => Finding::new(Verdict::Ok, "place for XDP", "free"),
        Ok(there) => {
            Finding::new(Verdict::Failure, "place for XDP", in_the_way(instance, name, there))
        }
        Err(error) => Finding::new(Verdict::Failure, "place for XDP", format!("{error:#}")),
    };
    let native = match has_native_xdp(index) {
        Ok(Some(true)) => Finding::new(Verdict::Ok, "driver", "native XDP"),
        Ok(Some(false)) if ingress_options.ingress == IngressChoice::Xdp => Finding::new(
            Verdict::Warning,
            "driver",
            format!("no native XDP ({}): generic mode, which is slower", driver(name)),
        ),
        Ok(Some(false)) => Finding::new(
            Verdict::Ok,
            "driver",
            format!(
                "no native XDP ({}): arriving packets are seen in the network stack",
                driver(name)
            ),
        ),
        Ok(None) => Finding::new(
            Verdict::Ok,
            "driver",
            format!("{}; this kernel does not say whether it has native XDP", driver(name)),
        ),
        Err(error) => Finding::new(Verdict::Warning, "driver", format!("{error:#}")),
    };
    vec![there.about(name), native.about(name)]
}
