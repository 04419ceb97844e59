//! Loading the kernel programs and attaching them to interfaces.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode, loaded_programs,
        tc::{NlOptions, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
    },
};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use serde::{Deserialize, Serialize};
use tracker_common::{
    config::{InterfaceConfig, MAX_INTERFACES},
    protect::Protection,
};
use zerocopy::IntoBytes;

use crate::{
    preflight::{interface_index, kernel_at_least},
    protect::Prepared,
};

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Tables")]
pub struct Sizes {
    /// Confirmed flows at most; further ones stay in the table of half-open flows
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_flows: u32,
    /// Half-open flows at most; the oldest are evicted for new ones
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_half_open: u32,
    /// Octets of the ring buffer for reports: a power of two, and a multiple of the page size
    #[arg(long, default_value_t = 16 << 20, value_parser = ring_size)]
    pub ring_bytes: u32,
}

fn ring_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if size.is_power_of_two() && (4096..=1 << 30).contains(&size) {
        Ok(size)
    } else {
        Err("a power of two from 4096 to 1073741824".to_owned())
    }
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum XdpChoice {
    /// In the driver, or generic where it cannot
    #[default]
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the network stack
    Generic,
}

/// How the egress program is attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum EgressChoice {
    /// tcx, or clsact where the kernel is older than 6.6
    #[default]
    Auto,
    /// A tcx link
    Tcx,
    /// A filter on the clsact qdisc
    Clsact,
}

/// What is attached to an interface, as other commands learn it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in the agent's network namespace.
    pub ifindex: u32,
    /// Its place among the counters.
    pub slot: u32,
    /// The zone of its flows.
    pub zone: u16,
    /// `native` or `generic`; absent on loopback, where every packet passes egress.
    pub xdp: Option<String>,
    /// `tcx` or `clsact`.
    pub egress: String,
    /// The same, for where connections are handed to listeners that SYN cookies protect; absent where none are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handover: Option<String>,
}

/// The programs on one interface; dropping this detaches them.
#[derive(Debug)]
pub struct Attached {
    /// What is attached.
    pub interface: Interface,
    /// Keeps the links alive.
    pub ebpf: Ebpf,
    added_clsact: bool,
}

/// Parses the object and creates its maps, or opens those that are pinned in `pins` already.
///
/// # Errors
///
/// What the kernel says.
pub fn load(object: &[u8], pins: &Path, sizes: &Sizes, config: InterfaceConfig) -> Result<Ebpf> {
    load_protecting(object, pins, sizes, config, Protection::default())
}

/// As [`load`], with programs that protect listeners if `protection` says so.
///
/// # Errors
///
/// What the kernel says.
pub fn load_protecting(
    object: &[u8],
    pins: &Path,
    sizes: &Sizes,
    config: InterfaceConfig,
    protection: Protection,
) -> Result<Ebpf> {
    EbpfLoader::new()
        .default_map_pin_directory(pins)
        .map_max_entries("CONFIRMED", sizes.max_flows)
        .map_max_entries("HALF_OPEN", sizes.max_half_open)
        .map_max_entries("EVENTS", sizes.ring_bytes)
        .override_global("INTERFACE", config.as_bytes(), true)
        .override_global("PROTECTION", protection.as_bytes(), protection.enabled != 0)
        .load(object)
        .context("creating the maps")
}

/// The program of this name and kind, checked by the kernel's verifier.
///
/// # Errors
///
/// What the verifier says.
pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// Attaches the programs to the interface `name`, as number `slot` of this agent's.
///
/// # Errors
///
/// Where the interface does not exist, another XDP program holds it, or the kernel refuses; the message says what to
/// do.
#[allow(clippy::too_many_arguments)] // each is one choice of the user's
pub async fn attach(
    object: &[u8],
    pins: &Path,
    sizes: &Sizes,
    name: &str,
    slot: u32,
    zone: u16,
    xdp: XdpChoice,
    egress: EgressChoice,
    protecting: Option<Prepared>,
) -> Result<Attached> {
    if slot >= MAX_INTERFACES {
        bail!(
            "one agent attaches to {MAX_INTERFACES} interfaces at most; start another with --instance"
        );
    }
    let ifindex = interface_index(name)?;
    let kind = LinkKind::of(name)?;
    let raw_ip = u16::from(kind == LinkKind::RawIp);
    // On loopback there is no XDP, and so nothing that could answer.
    let protecting = protecting.filter(|_| kind != LinkKind::Loopback).unwrap_or_default();
    let mut ebpf = load_protecting(
        object,
        pins,
        sizes,
        InterfaceConfig { slot, zone, raw_ip, ..InterfaceConfig::default() },
        protecting.protection,
    )?;

    // Egress first: a connection that begins between the two would otherwise be seen from one side.
    let (at_egress, mut added_clsact) =
        attach_classifier(&mut ebpf, "tracker_egress", name, TcAttachType::Egress, egress)?;
    // Before XDP too: what is accepted there must be handed over.
    let handover = if protecting.assign.is_some() {
        let (hook, added) =
            attach_classifier(&mut ebpf, "tracker_handover", name, TcAttachType::Ingress, egress)?;
        added_clsact |= added;
        Some(hook.to_owned())
    } else {
        if at_egress == "clsact" {
            // What a killed agent has left. An error means that there is nothing.
            let _ = qdisc_detach_program(name, TcAttachType::Ingress, "tracker_handover");
        }
        None
    };
    let mode = if kind == LinkKind::Loopback {
        None
    } else {
        let mode = attach_xdp(&mut ebpf, name, ifindex, xdp).await?;
        aya::maps::HashMap::<_, u32, u32>::try_from(
            ebpf.map_mut("ATTACHED").context("no map ATTACHED")?,
        )?
        .insert(ifindex, slot, 0)?;
        Some(mode.to_owned())
    };
    for (name, program) in ebpf.programs() {
        if let Ok(info) = program.info() {
            let verified = info.verified_instruction_count().unwrap_or_default();
            tracing::debug!(program = name, octets = info.size_jitted(), verified, "loaded");
        }
    }
    let interface = Interface {
        name: name.to_owned(),
        ifindex,
        slot,
        zone,
        xdp: mode,
        egress: at_egress.to_owned(),
        handover,
    };
    Ok(Attached { interface, ebpf, added_clsact })
}

impl Attached {
    /// Detaches. The clsact qdisc is removed if this agent added it.
    pub async fn detach(self) {
        let Self { interface, ebpf, added_clsact } = self;
        drop(ebpf);
        if added_clsact && let Err(error) = remove_clsact(interface.ifindex).await {
            tracing::warn!(interface = interface.name, "removing the clsact qdisc: {error:#}");
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LinkKind {
    Ethernet,
    Loopback,
    RawIp,
}

impl LinkKind {
    /// By the ARPHRD number that sysfs gives (include/uapi/linux/if_arp.h).
    fn of(name: &str) -> Result<Self> {
        // sysfs shows the namespace it was mounted in; ask the socket layer where that is another one.
        let path = format!("/sys/class/net/{name}/type");
        let number = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(_) => return hardware_type(name).map(Self::from_number)?,
        };
        Self::from_number(number)
    }

    fn from_number(number: u16) -> Result<Self> {
        match number {
            1 => Ok(Self::Ethernet),
            772 => Ok(Self::Loopback),
            // ARPHRD_NONE (tun, WireGuard), ARPHRD_RAWIP, ARPHRD_PPP, ARPHRD_TUNNEL and its siblings.
            0xfffe | 519 | 512 | 768 | 769 | 776 | 778 => Ok(Self::RawIp),
            other => bail!("frames of link type {other} (see linux/if_arp.h) are not understood"),
        }
    }
}

/// ARPHRD number by SIOCGIFHWADDR.
fn hardware_type(name: &str) -> Result<u16> {
    use std::os::fd::AsRawFd;
    // Any socket will do. Loopback may be down, and has no address then.
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))
        .or_else(|_| std::net::UdpSocket::bind(("::", 0)))
        .context("opening a socket to ask for link types")?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    // SAFETY: the request lives until the call returns, and is what this ioctl reads and writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("asking for the link type of {name}"));
    }
    // SAFETY: the ioctl has filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

fn attach_classifier(
    ebpf: &mut Ebpf,
    program_name: &str,
    name: &str,
    hook: TcAttachType,
    choice: EgressChoice,
) -> Result<(&'static str, bool)> {
    let classifier: &mut SchedClassifier = program(ebpf, program_name)?;
    classifier.load().with_context(|| format!("the verifier refused {program_name}"))?;
    let place = if hook == TcAttachType::Ingress { "ingress" } else { "egress" };
    let tcx = match choice {
        EgressChoice::Auto => kernel_at_least((6, 6))?,
        EgressChoice::Tcx => true,
        EgressChoice::Clsact => false,
    };
    if tcx {
        let order = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
        classifier
            .attach_with_options(name, hook, order)
            .with_context(|| format!("attaching to the {place} of {name} by tcx"))?;
        return Ok(("tcx", false));
    }
    // What a killed agent has left there would count every packet a second time. An error means that there is nothing.
    let _ = qdisc_detach_program(name, hook, program_name);
    // An error means that it is there already, or the next call says more.
    let added = qdisc_add_clsact(name).is_ok();
    classifier
        .attach_with_options(name, hook, TcAttachOptions::Netlink(NlOptions::default()))
        .with_context(|| format!("attaching to the {place} of {name} by clsact"))?;
    Ok(("clsact", added))
}

async fn attach_xdp(
    ebpf: &mut Ebpf,
    name: &str,
    ifindex: u32,
    choice: XdpChoice,
) -> Result<&'static str> {
    let ingress: &mut Xdp = program(ebpf, "tracker_ingress")?;
    ingress.load().context("the verifier refused tracker_ingress")?;
    if choice != XdpChoice::Generic {
        match ingress.attach_to_if_index(ifindex, XdpMode::Driver) {
            Ok(_) => return Ok("native"),
            Err(error)
                if choice == XdpChoice::Auto && is(&error, &[libc::EOPNOTSUPP, libc::EINVAL]) =>
            {
                tracing::warn!(
                    interface = name,
                    driver = driver(name),
                    "the driver has no native XDP, or not in this configuration (MTU, offloads): attaching in generic \
                     mode, which is slower"
                );
            }
            Err(error) => return Err(explain(error, name, ifindex).await),
        }
    }
    match ingress.attach_to_if_index(ifindex, XdpMode::Skb) {
        Ok(_) => Ok("generic"),
        Err(error) => Err(explain(error, name, ifindex).await),
    }
}

fn is(error: &ProgramError, numbers: &[i32]) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return numbers.contains(&number);
        }
        source = error.source();
    }
    false
}

fn driver(name: &str) -> String {
    fs::read_link(format!("/sys/class/net/{name}/device/driver"))
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

async fn explain(error: ProgramError, name: &str, ifindex: u32) -> anyhow::Error {
    if is(&error, &[libc::EBUSY, libc::EEXIST]) {
        let holder = match xdp_program(ifindex).await {
            Ok(Some(id)) => format!("`{}` (program id {id})", program_name(id)),
            _ => "another program".to_owned(),
        };
        return anyhow!(
            "{name} has an XDP program already: {holder}. It was left alone. If another agent of tracker holds it, stop \
             that one; otherwise detach it with `ip link set dev {name} xdp off`"
        );
    }
    anyhow::Error::new(error).context(format!("attaching XDP to {name}"))
}

fn program_name(id: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "?".to_owned())
}

/// The id of the XDP program on an interface.
async fn xdp_program(ifindex: u32) -> Result<Option<u32>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let link = handle.link().get().match_index(ifindex).execute().try_next().await?;
    connection.abort();
    let mut ids =
        link.into_iter().flat_map(|link| link.attributes).filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => xdp.into_iter().find_map(|part| match part {
                LinkXdp::ProgId(id)
                | LinkXdp::DrvProgId(id)
                | LinkXdp::SkbProgId(id)
                | LinkXdp::HwProgId(id)
                    if id != 0 =>
                {
                    Some(id)
                }
                _ => None,
            }),
            _ => None,
        });
    Ok(ids.next_back())
}

async fn remove_clsact(ifindex: u32) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut request = handle.qdisc().del(ifindex.cast_signed());
    let message = request.message_mut();
    message.header.parent = rtnetlink::packet_route::tc::TcHandle::CLSACT;
    let result = request.execute().await;
    connection.abort();
    Ok(result?)
}
