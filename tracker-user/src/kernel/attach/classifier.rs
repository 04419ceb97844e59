//! Classifiers: attaching by a tcx link or by a filter on the clsact qdisc, replacing what a killed agent has left, and
//! removing filters that nobody owns.

use std::fs;

use aya::{
    Ebpf,
    programs::{
        SchedClassifier,
        links::FdLink,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact},
    },
};

use crate::{
    kernel::{
        attach::{Attaching, EgressChoice},
        kernel_side::{
            all_filter_programs, create_private, filter_programs,
            filters::{Filter, filters},
            links, release_filter,
            slots::{Purpose, Slot},
        },
        load::load_classifier,
    },
    model::error::{Context, Result},
};

impl Attaching<'_> {
    pub(super) async fn detach_classifier(
        &self,
        slot: &Slot,
        ifindex: u32,
        purpose: Purpose,
    ) -> Result<()> {
        links::remove(&slot.tcx(purpose))?;
        release_filter(slot, purpose).await?;
        self.remove_orphans(slot, &filters(ifindex, purpose.hook()).await?, purpose)
    }

    pub(super) async fn attach_classifier(
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
