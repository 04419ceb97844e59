//! Whether programs are where they should be, as the kernel says now.

use aya::Ebpf;

use crate::{
    kernel::{
        attach::{Attached, xdp::xdp_program},
        kernel_side::{
            filters::filters,
            links,
            slots::{Mode, Purpose, Slot},
        },
    },
    model::error::{Context, Result},
};

/// A program that should be on an interface and is not.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Missing {
    /// The interface's name.
    pub interface: String,
    /// `in`, `out` or `handover`.
    pub hook: &'static str,
}

/// What is done where programs are gone from an interface that is there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum OnDetach {
    /// Attach them again
    #[default]
    Reattach,
    /// Log it, and leave them detached
    Report,
}

/// Names of hooks, where something is missing there.
pub(super) async fn missing(slot: &Slot, attached: &Attached) -> Result<Vec<&'static str>> {
    let Attached { interface, ebpf } = attached;
    let mut missing = Vec::new();
    if let Some(mode) = &interface.xdp {
        let ours = Some(program_id(ebpf, "tracker_ingress")?);
        let is_pinned = Mode::ALL
            .into_iter()
            .filter(|known| known.name() == mode)
            .map(|mode| links::open(&slot.xdp(mode)))
            .any(|link| matches!(link, Ok(Some((_, id))) if Some(id) == ours));
        if !is_pinned || xdp_program(interface.ifindex).await? != ours {
            missing.push("in");
        }
    }
    if let Some(how) = &interface.ingress
        && !is_classifier_there(slot, attached, Purpose::Arrival, how).await?
    {
        missing.push("in");
    }
    if !is_classifier_there(slot, attached, Purpose::Egress, &interface.egress).await? {
        missing.push("out");
    }
    if let Some(how) = &interface.handover
        && !is_classifier_there(slot, attached, Purpose::Handover, how).await?
    {
        missing.push("handover");
    }
    Ok(missing)
}

async fn is_classifier_there(
    slot: &Slot,
    Attached { interface, ebpf }: &Attached,
    purpose: Purpose,
    how: &str,
) -> Result<bool> {
    let ours = program_id(ebpf, purpose.program())?;
    if how == "tcx" {
        let is_pinned = links::open(&slot.tcx(purpose))?.is_some_and(|(_, id)| id == ours);
        return Ok(is_pinned && links::tcx_programs(interface.ifindex, purpose)?.contains(&ours));
    }
    let is_pinned = links::program(&slot.filter(purpose))? == Some(ours);
    let there = filters(interface.ifindex, purpose.hook()).await?;
    Ok(is_pinned && there.iter().any(|filter| filter.program == ours))
}

fn program_id(ebpf: &Ebpf, name: &str) -> Result<u32> {
    let program = ebpf.program(name).with_context(|| format!("no program {name}"))?;
    Ok(program.info().with_context(|| format!("asking about {name}"))?.id())
}
