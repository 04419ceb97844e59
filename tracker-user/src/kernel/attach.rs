//! Attaching the kernel programs to an interface: in which order, and at which hooks. Programs of a killed agent are
//! replaced in place, so that no packet passes unseen.

mod classifier;
pub(crate) mod xdp;

use aya::{Ebpf, EbpfLoader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracker_common::config::InterfaceConfig;

use crate::{
    kernel::{
        ingress::IngressOptions,
        instance::Instance,
        kernel_side::{
            links,
            slots::{Mode, Purpose, Slot},
        },
        link_kind::LinkKind,
        load::{Sizes, load_with},
        preflight::interface_index,
        protection::Prepared,
    },
    model::error::{Context, Result},
};

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
    pub fn ingress_hook(&self) -> Option<&str> {
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
    pub ingress_options: IngressOptions,
    /// How leaving packets are seen.
    pub egress: EgressChoice,
    /// What there is to protect listeners with; `None` where none are protected.
    pub protecting: Option<Prepared>,
}

impl Attaching<'_> {
    /// Attaches the programs to the interface of this slot. Where a killed agent has left its programs there, these take
    /// their places, so that no packet passes without one. `drops` says whether arriving packets may be dropped there for the rules
    /// that they break.
    ///
    /// # Errors
    ///
    /// Where the interface does not exist, another XDP program holds it, or the kernel refuses; the message says what to
    /// do.
    pub async fn attach(&self, slot: &Slot, drops: bool) -> Result<Attached> {
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
            shared: u16::from(self.ingress_options.may_be_generic()),
            drops: u16::from(drops),
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
        let mut way = IngressPath::None;
        if kind != LinkKind::Loopback {
            way =
                self.attach_arrival(&mut ebpf, slot, ifindex, protecting.assign.is_some()).await?;
            aya::maps::HashMap::<_, u32, u32>::try_from(
                ebpf.map_mut("ATTACHED").context("no map ATTACHED")?,
            )?
            .insert(ifindex, slot.number, 0)?;
        }
        let (xdp, ingress, handover) = match way {
            IngressPath::None => (None, None, None),
            IngressPath::Xdp { mode, handover } => (Some(mode.name()), None, handover),
            IngressPath::Tc(hook) => (None, Some(hook), None),
        };
        if handover.is_none() {
            // For those that XDP has accepted until now it was needed.
            self.detach_classifier(slot, ifindex, Purpose::Handover).await?;
        }
        for (name, program) in ebpf.programs() {
            if let Ok(info) = program.info() {
                let verified = info.verified_instruction_count().unwrap_or_default();
                tracing::debug!(program = name, bytes = info.size_jitted(), verified, "loaded");
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
    ) -> Result<IngressPath> {
        if self.ingress_options.in_stack(ifindex).await?.is_none() {
            let handover = if hands_over {
                // First: what XDP accepts must be handed over.
                Some(self.attach_classifier(ebpf, slot, ifindex, Purpose::Handover).await?)
            } else {
                None
            };
            if let Some(mode) = self.attach_xdp(ebpf, slot, ifindex).await? {
                self.detach_classifier(slot, ifindex, Purpose::Arrival).await?;
                return Ok(IngressPath::Xdp { mode, handover });
            }
        }
        let hook = self.attach_classifier(ebpf, slot, ifindex, Purpose::Arrival).await?;
        for mode in Mode::ALL {
            links::remove(&slot.xdp(mode))?;
        }
        Ok(IngressPath::Tc(hook))
    }
}

/// How arriving packets of an interface are seen.
enum IngressPath {
    /// They are not: every packet of loopback passes egress.
    None,
    /// By XDP; with the hook at which accepted connections are handed over.
    Xdp { mode: Mode, handover: Option<&'static str> },
    /// In the host's stack, at this hook.
    Tc(&'static str),
}
