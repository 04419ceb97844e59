//! What the agent may do once it is attached: only what it goes on to need.

use caps::{CapSet, Capability, CapsHashSet};

use crate::model::error::{Context, Result};

/// To attach to interfaces that come later, to load programs for them, and to read and write maps.
const NEEDED: [Capability; 3] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON];

/// Gives up every other capability, for good, and those that a program started from here could have.
///
/// Threads have capabilities of their own, so this comes before others are started; those inherit what is left.
///
/// # Errors
///
/// What the kernel says.
pub fn drop_others() -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context(GIVING_UP)?;
    let mut kept: CapsHashSet =
        NEEDED.into_iter().filter(|need| permitted.contains(need)).collect();
    if kept.len() < NEEDED.len() {
        // It stands for those that are missing (capabilities(7)).
        kept.extend(permitted.get(&Capability::CAP_SYS_ADMIN));
    }
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding).context(GIVING_UP)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).context(GIVING_UP)?;
            }
        }
    }
    keep(&kept)
}

/// Keeps the memory of this process out of core dumps, and from other processes that have no CAP_SYS_PTRACE, for good.
///
/// Cookie keys pass through it. The whole process, and not only their pages (`MADV_DONTDUMP`): they are on the stack and in
/// registers, and a page cannot be hidden from `process_vm_readv` and `/proc/PID/mem`. Its files in /proc belong to root from then
/// on, so a user without root who runs an agent cannot debug it, or list its descriptors; root can. A crash leaves a
/// message and no dump.
///
/// # Errors
///
/// What the kernel says.
pub fn hide_memory() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).context("keeping memory out of core dumps")
}

/// Gives up every capability of the calling thread, for good.
///
/// # Errors
///
/// What the kernel says.
pub fn drop_all() -> Result<()> {
    keep(&CapsHashSet::new())
}

fn keep(kept: &CapsHashSet) -> Result<()> {
    caps::clear(None, CapSet::Ambient).context(GIVING_UP)?;
    caps::clear(None, CapSet::Inheritable).context(GIVING_UP)?;
    caps::set(None, CapSet::Effective, kept).context(GIVING_UP)?;
    caps::set(None, CapSet::Permitted, kept).context(GIVING_UP)?;
    nix::sys::prctl::set_no_new_privs().context("no_new_privs")
}

const GIVING_UP: &str = "giving up capabilities that are not needed any more";
