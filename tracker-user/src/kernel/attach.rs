//! Loading the kernel programs and attaching them to interfaces.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        ProgramError, SchedClassifier, Xdp, XdpMode,
        links::FdLink,
        loaded_programs,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact},
        xdp::{XdpLink, XdpLinkId},
    },
};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracker_common::{config::InterfaceConfig, protect::Protection};
use zerocopy::IntoBytes;

use crate::{
    kernel::{
        instance::Instance,
        kernel_side::{
            all_filter_programs, create_private, filter_programs,
            filters::{Filter, filters},
            links, release_filter,
            slots::{Mode, Purpose, Slot},
            xdp_holder,
        },
        netlink::Netlink,
        preflight::interface_index,
        protection::Prepared,
        refusal::{self, Refusal},
        way_in::{GENERIC_ANSWERS, IngressChoice, WayIn, XdpChoice},
    },
    model::failure::Failure,
};

/// The program that sees arriving packets.
pub const INGRESS: &str = "tracker_ingress";

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Tables")]
pub struct Sizes {
    /// Maximum number of confirmed flows; more stay in the table of half-open flows
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_flows: u32,
    /// Maximum number of half-open flows; new ones evict the oldest
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_half_open: u32,
    /// Bytes of the ring buffer for reports: a power of two, and a multiple of the page size
    #[arg(long, default_value_t = 16 << 20, value_parser = ring_size)]
    pub ring_bytes: u32,
}

impl Sizes {
    /// What is said where the kernel has no memory for them.
    fn too_large(&self) -> String {
        let Self { max_flows, max_half_open, ring_bytes } = *self;
        let of = |count: u32, each| u64::from(count) * each;
        let bytes = of(max_flows, CONFIRMED_BYTES)
            + of(max_half_open, HALF_OPEN_BYTES)
            + u64::from(ring_bytes);
        format!(
            "the kernel has no memory for tables of {bytes} bytes (or this service may not use so much): --max-flows {max_flows} \
             takes {CONFIRMED_BYTES} for each, --max-half-open {max_half_open} {HALF_OPEN_BYTES}, --ring-bytes {ring_bytes}. \
             Lower --max-flows"
        )
    }
}

/// Bytes of kernel memory that a place for a confirmed flow takes, its bucket included.
const CONFIRMED_BYTES: u64 = 256;

/// The same for a half-open one.
const HALF_OPEN_BYTES: u64 = 328;

fn ring_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if size.is_power_of_two() && (4096..=1 << 30).contains(&size) {
        Ok(size)
    } else {
        Err("a power of two from 4096 to 1073741824".to_owned())
    }
}

/// How the egress program is attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum EgressChoice {
    /// tcx, or clsact on kernels before 6.6
    #[default]
    Auto,
    /// A tcx link
    Tcx,
    /// A filter on the clsact qdisc
    Clsact,
}

/// What is attached to an interface, as other commands learn it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in the agent's network namespace.
    pub ifindex: u32,
    /// Its place among the counters.
    pub slot: u32,
    /// The zone of its flows.
    pub zone: u16,
    /// False where it has gone: what follows is what it was then.
    #[serde(default = "yes")]
    pub attached: bool,
    /// `native` or `generic`; absent where XDP is not the way in, and on loopback, where every packet passes egress.
    pub xdp: Option<String>,
    /// `tcx` or `clsact`, where arriving packets are seen there; absent where XDP sees them, and on loopback.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ingress: Option<String>,
    /// `tcx` or `clsact`.
    pub egress: String,
    /// The same, for where connections are handed to listeners that SYN cookies protect; absent where none are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handover: Option<String>,
}

impl Interface {
    /// How arriving packets are seen: `native`, `generic`, `tcx` or `clsact`; `None` on loopback.
    #[must_use]
    pub fn way_in(&self) -> Option<&str> {
        self.xdp.as_deref().or(self.ingress.as_deref())
    }
}

fn yes() -> bool {
    true
}

/// The programs on one interface. They stay attached when this is dropped.
#[derive(Debug)]
pub struct Attached {
    /// What is attached.
    pub interface: Interface,
    /// The loaded object.
    pub ebpf: Ebpf,
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
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins);
    load_with(loader, object, sizes, &config, &protection)
}

/// The same by a loader that says where maps are pinned.
pub(crate) fn load_with<'a>(
    mut loader: EbpfLoader<'a>,
    object: &[u8],
    sizes: &Sizes,
    config: &'a InterfaceConfig,
    protection: &'a Protection,
) -> Result<Ebpf> {
    loader
        .map_max_entries("CONFIRMED", sizes.max_flows)
        .map_max_entries("HALF_OPEN", sizes.max_half_open)
        .map_max_entries("EVENTS", sizes.ring_bytes)
        .override_global("INTERFACE", config.as_bytes(), true)
        .override_global("PROTECTION", protection.as_bytes(), protection.enabled != 0)
        .load(object)
        .map_err(|error| {
            let is_out_of_memory = is_errno(&error, &[libc::ENOMEM]);
            let error = refusal::of_object(error);
            if is_out_of_memory { error.context(sizes.too_large()) } else { error }
        })
}

/// Loads the program that sees packets for this purpose.
///
/// # Errors
///
/// What the kernel says; [`Refusal`] where its verifier refuses.
pub(crate) fn load_classifier(ebpf: &mut Ebpf, purpose: Purpose) -> Result<&mut SchedClassifier> {
    let classifier: &mut SchedClassifier = program(ebpf, purpose.program())?;
    classifier.load().map_err(|error| Refusal::new(purpose.program(), &error))?;
    Ok(classifier)
}

/// Loads the program that sees arriving packets.
///
/// # Errors
///
/// As [`load_classifier`].
pub(crate) fn load_ingress(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let ingress: &mut Xdp = program(ebpf, INGRESS)?;
    ingress.load().map_err(|error| Refusal::new(INGRESS, &error))?;
    Ok(ingress)
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

/// What is attached to every interface, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attaching<'a> {
    /// The object with the programs.
    pub object: &'a [u8],
    /// Whose agent this is.
    pub instance: &'a Instance,
    /// Sizes of the maps.
    pub sizes: &'a Sizes,
    /// Zone of the interfaces' flows.
    pub zone: u16,
    /// How arriving packets are seen.
    pub way_in: WayIn,
    /// How leaving packets are seen.
    pub egress: EgressChoice,
    /// What there is to protect listeners with; `None` where none are protected.
    pub protecting: Option<Prepared>,
}

impl Attaching<'_> {
    /// Attaches the programs to the interface of this slot. Where a killed agent has left its programs there, these take
    /// their places, so that no packet passes without one.
    ///
    /// # Errors
    ///
    /// Where the interface does not exist, another XDP program holds it, or the kernel refuses; the message says what to
    /// do.
    pub async fn attach(&self, slot: &Slot) -> Result<Attached> {
        let name = slot.interface.as_str();
        let ifindex = interface_index(name)?;
        let kind = LinkKind::of(name)?;
        let raw_ip = u16::from(kind == LinkKind::RawIp);
        // On loopback there is no XDP, and so nothing that could answer.
        let protecting = self.protecting.filter(|_| kind != LinkKind::Loopback).unwrap_or_default();
        let config = InterfaceConfig {
            slot: slot.number,
            zone: self.zone,
            raw_ip,
            ..InterfaceConfig::default()
        };
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(self.instance.pins())
            // What was reported of flows and sources goes on with them.
            .map_pin_path("REPEATED", slot.map("REPEATED"))
            .map_pin_path("SOURCES", slot.map("SOURCES"));
        let mut ebpf = load_with(loader, self.object, self.sizes, &config, &protecting.protection)?;

        // Egress first: a connection that begins between the two would otherwise be seen from one side.
        let at_egress = self.attach_classifier(&mut ebpf, slot, ifindex, Purpose::Egress).await?;
        let mut way = Way::None;
        if kind != LinkKind::Loopback {
            way =
                self.attach_arrival(&mut ebpf, slot, ifindex, protecting.assign.is_some()).await?;
            aya::maps::HashMap::<_, u32, u32>::try_from(
                ebpf.map_mut("ATTACHED").context("no map ATTACHED")?,
            )?
            .insert(ifindex, slot.number, 0)?;
        }
        let (xdp, ingress, handover) = match way {
            Way::None => (None, None, None),
            Way::Xdp { mode, handover } => (Some(mode.name()), None, handover),
            Way::Tc(hook) => (None, Some(hook), None),
        };
        if handover.is_none() {
            // For those that XDP has accepted until now it was needed.
            self.detach_classifier(slot, ifindex, Purpose::Handover).await?;
        }
        for (name, program) in ebpf.programs() {
            if let Ok(info) = program.info() {
                let verified = info.verified_instruction_count().unwrap_or_default();
                tracing::debug!(program = name, octets = info.size_jitted(), verified, "loaded");
            }
        }
        let interface = Interface {
            name: name.to_owned(),
            ifindex,
            slot: slot.number,
            zone: self.zone,
            attached: true,
            xdp: xdp.map(str::to_owned),
            ingress: ingress.map(str::to_owned),
            egress: at_egress.to_owned(),
            handover: handover.map(str::to_owned),
        };
        Ok(Attached { interface, ebpf })
    }

    /// Attaches what sees arriving packets, and then removes what saw them in another way before.
    async fn attach_arrival(
        &self,
        ebpf: &mut Ebpf,
        slot: &Slot,
        ifindex: u32,
        hands_over: bool,
    ) -> Result<Way> {
        if self.way_in.in_stack(ifindex).await?.is_none() {
            let handover = if hands_over {
                // First: what XDP accepts must be handed over.
                Some(self.attach_classifier(ebpf, slot, ifindex, Purpose::Handover).await?)
            } else {
                None
            };
            if let Some(mode) = self.attach_xdp(ebpf, slot, ifindex).await? {
                self.detach_classifier(slot, ifindex, Purpose::Arrival).await?;
                return Ok(Way::Xdp { mode, handover });
            }
        }
        let hook = self.attach_classifier(ebpf, slot, ifindex, Purpose::Arrival).await?;
        for mode in Mode::ALL {
            links::remove(&slot.xdp(mode))?;
        }
        Ok(Way::Tc(hook))
    }

    async fn detach_classifier(&self, slot: &Slot, ifindex: u32, purpose: Purpose) -> Result<()> {
        links::remove(&slot.tcx(purpose))?;
        release_filter(slot, purpose).await?;
        self.remove_orphans(slot, &filters(ifindex, purpose.hook()).await?, purpose)
    }

    async fn attach_classifier(
        &self,
        ebpf: &mut Ebpf,
        slot: &Slot,
        ifindex: u32,
        purpose: Purpose,
    ) -> Result<&'static str> {
        let classifier = load_classifier(ebpf, purpose)?;
        let has_tcx = links::has_tcx(ifindex)
            .with_context(|| format!("asking for the programs on {}", slot.interface))?;
        let link = if has_tcx { tcx_link(slot, purpose, ifindex)? } else { None };
        let filters = filters(ifindex, purpose.hook()).await?;
        self.remove_orphans(slot, &filters, purpose)?;
        let ours = filter_programs(slot, purpose)?;
        let filter = filters.iter().find(|filter| ours.contains(&filter.program));
        let by_tcx = match self.egress {
            EgressChoice::Auto => link.is_some() || (filter.is_none() && has_tcx),
            EgressChoice::Tcx => true,
            EgressChoice::Clsact => false,
        };
        // Where the other hook was used before, its program goes afterwards: a packet that is seen twice is taken for one
        // that was sent again, and one that is not seen is missed.
        if by_tcx {
            attach_tcx(classifier, slot, purpose, link)
                .with_context(|| place(slot, purpose, "tcx"))?;
            release_filter(slot, purpose).await?;
            return Ok("tcx");
        }
        attach_filter(classifier, slot, purpose, filter)
            .with_context(|| place(slot, purpose, "clsact"))?;
        links::remove(&slot.tcx(purpose))?;
        Ok("clsact")
    }

    /// Removes those of the filters that an agent has left whose pins are gone: every packet would be counted twice.
    fn remove_orphans(&self, slot: &Slot, filters: &[Filter], purpose: Purpose) -> Result<()> {
        let known = all_filter_programs(self.instance)?;
        for filter in filters {
            if filter.name == purpose.program() && !known.contains(&filter.program) {
                filter.remove(&slot.interface, purpose.hook())?;
            }
        }
        Ok(())
    }

    /// Attaches XDP; `None` where the driver has none, and another way is to be gone.
    async fn attach_xdp(&self, ebpf: &mut Ebpf, slot: &Slot, ifindex: u32) -> Result<Option<Mode>> {
        let name = slot.interface.as_str();
        let ingress = load_ingress(ebpf)?;
        let there = xdp_program(ifindex).await?;
        for mode in Mode::ALL {
            let Some((link, program)) = links::open(&slot.xdp(mode))? else { continue };
            let is_wanted = match self.way_in.xdp {
                XdpChoice::Auto => {
                    mode == Mode::Native || self.way_in.ingress == IngressChoice::Xdp
                }
                XdpChoice::Native => mode == Mode::Native,
                XdpChoice::Generic => mode == Mode::Generic,
            };
            if there == Some(program) && is_wanted {
                ingress
                    .attach_to_link(XdpLink::try_from(link)?)
                    .with_context(|| format!("replacing the XDP program on {name}"))?;
                return Ok(Some(mode));
            }
            // The interface that it was attached to is gone, or the kernel allows no other mode beside it.
            links::remove(&slot.xdp(mode))?;
        }
        if self.way_in.xdp != XdpChoice::Generic {
            match ingress.attach_to_if_index(ifindex, XdpMode::Driver) {
                Ok(id) => return pin_xdp(ingress, id, slot, Mode::Native).map(Some),
                Err(error)
                    if self.way_in.xdp == XdpChoice::Auto
                        && is(&error, &[libc::EOPNOTSUPP, libc::EINVAL]) =>
                {
                    if self.way_in.ingress == IngressChoice::Auto {
                        tracing::info!(
                            interface = name,
                            driver = driver(name),
                            "the driver has no native XDP, or not in this configuration (MTU, offloads): arriving \
                             packets are seen by tcx"
                        );
                        return Ok(None);
                    }
                    tracing::warn!(
                        interface = name,
                        driver = driver(name),
                        "the driver has no native XDP, or not in this configuration (MTU, offloads): attaching in \
                         generic mode, which is slower than tcx"
                    );
                }
                Err(error) => return Err(self.explain(error, name, ifindex).await),
            }
        }
        if self.protecting.is_some() {
            let said = format!("{name}'s driver has no native XDP, and {GENERIC_ANSWERS}");
            return Err(Failure::BadInput(said).into());
        }
        match ingress.attach_to_if_index(ifindex, XdpMode::Skb) {
            Ok(id) => pin_xdp(ingress, id, slot, Mode::Generic).map(Some),
            Err(error) => Err(self.explain(error, name, ifindex).await),
        }
    }

    async fn explain(&self, error: ProgramError, name: &str, ifindex: u32) -> anyhow::Error {
        if !is(&error, &[libc::EBUSY, libc::EEXIST]) {
            return anyhow::Error::new(error).context(format!("attaching XDP to {name}"));
        }
        let there = xdp_program(ifindex).await;
        if let Ok(None) = there {
            return Failure::InUse(below_another(name)).into();
        }
        let there = there.ok().flatten();
        Failure::InUse(in_the_way(self.instance, name, there)).into()
    }
}

/// What is said of an XDP program that has an interface already, and what to do about it; `program` is its id, where that is
/// known.
pub(crate) fn in_the_way(instance: &Instance, name: &str, program: Option<u32>) -> String {
    match program.and_then(|id| xdp_holder(instance, id).ok().flatten()) {
        Some(holder) => match holder.pid() {
            Some(pid) => format!(
                "{name} has an XDP program already: that of the agent named `{0}` (pid {pid}). It was left alone. Stop \
                 that agent: `kill {pid}`",
                holder.name()
            ),
            None => format!(
                "{name} has an XDP program already: that of an agent named `{0}`, which was killed. It was left alone. \
                 Run an agent of that name, or remove what it has left: `tracker --instance {0} detach`",
                holder.name()
            ),
        },
        None => {
            let program = match program {
                Some(id) => format!("`{}` (program id {id})", program_name(id)),
                None => "another program".to_owned(),
            };
            format!(
                "{name} has an XDP program already: {program}. It was left alone. Stop who has attached it, or detach \
                 it with `ip link set dev {name} xdp off`"
            )
        }
    }
}

/// What is said where the kernel refuses an interface that has no XDP program: `dev_xdp_attach()` looks above it.
fn below_another(name: &str) -> String {
    format!(
        "{name} is a port of an interface that has an XDP program, or has one on top of it (bridge, bond, VLAN, macvlan); the \
         kernel attaches none below. Start the agent with both interfaces at once, which attaches to {name} first, or detach \
         that program: `ip -details link show` shows it"
    )
}

/// Where something is attached, for errors.
fn place(slot: &Slot, purpose: Purpose, how: &str) -> String {
    let hook = if purpose == Purpose::Egress { "egress" } else { "ingress" };
    format!("attaching to the {hook} of {} by {how}", slot.interface)
}

/// The pinned tcx link, if it is on the interface that has the slot's name now: that may be another one since.
fn tcx_link(slot: &Slot, purpose: Purpose, ifindex: u32) -> Result<Option<FdLink>> {
    let Some((link, id)) = links::open(&slot.tcx(purpose))? else { return Ok(None) };
    let programs = links::tcx_programs(ifindex, purpose)
        .with_context(|| format!("asking for the programs on {}", slot.interface))?;
    Ok(programs.contains(&id).then_some(link))
}

/// Attaches by tcx, in the place of the program of `link` where there is one.
fn attach_tcx(
    classifier: &mut SchedClassifier,
    slot: &Slot,
    purpose: Purpose,
    link: Option<FdLink>,
) -> Result<()> {
    if let Some(link) = link {
        classifier.attach_to_link(SchedClassifierLink::try_from(link)?)?;
        return Ok(());
    }
    let pin = slot.tcx(purpose);
    links::remove(&pin)?;
    let order = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
    let id = classifier.attach_with_options(&slot.interface, purpose.hook(), order)?;
    FdLink::try_from(classifier.take_link(id)?)?
        .pin(&pin)
        .with_context(|| format!("pinning {}", pin.display()))?;
    Ok(())
}

/// Attaches by clsact, in the place of `filter` where there is one.
fn attach_filter(
    classifier: &mut SchedClassifier,
    slot: &Slot,
    purpose: Purpose,
    filter: Option<&Filter>,
) -> Result<()> {
    let (interface, hook) = (slot.interface.as_str(), purpose.hook());
    // The pins say which filters are ours, so they come first, whatever happens in between.
    let (pin, next) = (slot.filter(purpose), slot.next_filter(purpose));
    if links::exists(&next)? {
        // Whichever of the two programs is attached, one name is enough for it.
        let is_next = filter.map(|filter| filter.program) == links::program(&next)?;
        if is_next { fs::rename(&next, &pin)? } else { fs::remove_file(&next)? }
    }
    classifier.pin(&next).with_context(|| format!("pinning {}", next.display()))?;
    let id = match filter {
        Some(filter) => classifier.attach_to_link(filter.link(interface, hook)?)?,
        None => {
            // An error means that it is there already, or the next call says more.
            if qdisc_add_clsact(interface).is_ok() && !links::exists(&slot.qdisc())? {
                create_private(&slot.qdisc())?;
            }
            let options = TcAttachOptions::Netlink(NlOptions::default());
            classifier.attach_with_options(interface, hook, options)?
        }
    };
    // Dropped, it would remove the filter.
    std::mem::forget(classifier.take_link(id)?);
    fs::rename(&next, &pin).with_context(|| format!("renaming {}", next.display()))
}

fn pin_xdp(ingress: &mut Xdp, id: XdpLinkId, slot: &Slot, mode: Mode) -> Result<Mode> {
    let pin = slot.xdp(mode);
    FdLink::try_from(ingress.take_link(id)?)?
        .pin(&pin)
        .with_context(|| format!("pinning {}", pin.display()))?;
    Ok(mode)
}

/// How arriving packets of an interface are seen.
enum Way {
    /// They are not: every packet of loopback passes egress.
    None,
    /// By XDP; with the hook at which accepted connections are handed over.
    Xdp { mode: Mode, handover: Option<&'static str> },
    /// In the host's stack, at this hook.
    Tc(&'static str),
}

/// What frames of an interface begin with.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LinkKind {
    /// An Ethernet header.
    Ethernet,
    /// An Ethernet header too, and what leaves arrives.
    Loopback,
    /// The IP header.
    RawIp,
}

impl LinkKind {
    /// By the ARPHRD number (include/uapi/linux/if_arp.h). Not from sysfs, which shows the network namespace that it was
    /// mounted in.
    pub(crate) fn of(name: &str) -> Result<Self> {
        Self::from_number(hardware_type(name)?)
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
        // Signed on some processors, and not on others.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the request lives until the call returns, and is what this ioctl reads and writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("asking for the link type of {name}"));
    }
    // SAFETY: the ioctl has filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

fn is(error: &ProgramError, numbers: &[i32]) -> bool {
    is_errno(error, numbers)
}

/// Whether an error comes from a system call that failed with one of these numbers.
fn is_errno(error: &(dyn std::error::Error + 'static), numbers: &[i32]) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return numbers.contains(&number);
        }
        source = error.source();
    }
    false
}

pub(crate) fn driver(name: &str) -> String {
    fs::read_link(format!("/sys/class/net/{name}/device/driver"))
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn program_name(id: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "?".to_owned())
}

/// The id of the XDP program on an interface.
pub(crate) async fn xdp_program(ifindex: u32) -> Result<Option<u32>> {
    let netlink = Netlink::open()?;
    let link = netlink.handle().link().get().match_index(ifindex).execute().try_next().await?;
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
