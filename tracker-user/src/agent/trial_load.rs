//! Loads the kernel programs as an agent would, for `tracker check`. Nothing is attached or pinned, and nothing is left when
//! the trial ends, however it ends.

use aya::{Ebpf, EbpfLoader};
use object::{Object, ObjectSection, ObjectSymbol};
use schemars::JsonSchema;
use serde::Serialize;
use tracker_common::config::InterfaceConfig;

use crate::{
    agent::sweeper,
    kernel::{
        kernel_side::slots::Purpose,
        kfunc::{self, Patched},
        link_kind::LinkKind,
        load::{Sizes, load_classifier, load_ingress, load_with},
        protection::Prepared,
    },
    model::error::{Context, Error, Result},
};

/// The verifier does not ask how large a table is.
const SIZES: Sizes = Sizes { max_flows: 1024, max_half_open: 1024, ring_bytes: 1 << 16 };

/// A program that the verifier accepted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, JsonSchema)]
pub struct Accepted {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
}

/// The kernel programs, with maps that are pinned nowhere.
#[derive(Clone, Debug)]
pub struct TrialLoad {
    object: Patched,
}

impl TrialLoad {
    /// A trial of an object's programs.
    ///
    /// # Errors
    ///
    /// Where it is no object of ours.
    pub fn new(object: &[u8]) -> Result<Self> {
        Ok(Self { object: unpinned(object)? })
    }

    /// Loads what an agent attaches to an interface of this kind, in the same order; with `prepared`, what protects
    /// listeners there.
    ///
    /// # Errors
    ///
    /// What the kernel says; [`Failure::Refused`](crate::model::failure::Failure::Refused) where it refuses a program.
    pub fn interface(&self, kind: LinkKind, prepared: Option<Prepared>) -> Result<Vec<Accepted>> {
        let prepared = prepared.unwrap_or_default();
        let patched = prepared
            .assign
            .map(|assign| Patched::new(self.object.bytes(), kfunc::ASSIGN_PLACEHOLDER, assign))
            .transpose()?;
        let object = patched.as_ref().unwrap_or(&self.object).bytes();
        let raw_ip = u16::from(kind == LinkKind::RawIp);
        let config = InterfaceConfig { raw_ip, shared: 1, drops: 1, ..InterfaceConfig::default() };
        let mut ebpf = load_with(EbpfLoader::new(), object, &SIZES, &config, &prepared.protection)?;
        load_classifier(&mut ebpf, Purpose::Egress)?;
        if prepared.assign.is_some() {
            load_classifier(&mut ebpf, Purpose::Handover)?;
        }
        if kind != LinkKind::Loopback {
            load_classifier(&mut ebpf, Purpose::Arrival)?;
            load_ingress(&mut ebpf)?;
        }
        accepted(&ebpf)
    }

    /// Loads what an agent sweeps its tables with.
    ///
    /// # Errors
    ///
    /// As [`TrialLoad::interface`].
    pub fn sweep(&self) -> Result<Vec<Accepted>> {
        let mut ebpf = load_with(
            EbpfLoader::new(),
            self.object.bytes(),
            &SIZES,
            &InterfaceConfig::default(),
            &Prepared::default().protection,
        )?;
        sweeper::try_programs(&mut ebpf)?;
        accepted(&ebpf)
    }
}

/// The programs of an object that are loaded, by name.
fn accepted(ebpf: &Ebpf) -> Result<Vec<Accepted>> {
    let mut accepted = Vec::new();
    for (name, program) in ebpf.programs().filter(|(_, program)| program.fd().is_ok()) {
        let info = program.info().with_context(|| format!("asking about {name}"))?;
        accepted.push(Accepted {
            name: name.to_owned(),
            verified_instructions: info.verified_instruction_count(),
        });
    }
    accepted.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(accepted)
}

/// A copy of an object whose maps are pinned nowhere. A BPF filesystem of one's own would do too, but making one takes
/// CAP_SYS_ADMIN, which an agent does not need.
fn unpinned(object: &[u8]) -> Result<Patched> {
    /// `pinning` in `struct bpf_map_def`, after type, sizes of key and value, entries, flags and id.
    const PINNING: usize = 24;
    const NONE: [u8; 4] = 0_u32.to_le_bytes();
    const BY_NAME: [u8; 4] = 1_u32.to_le_bytes();

    let file = object::File::parse(object).context("the kernel programs are no object")?;
    let maps = file.section_by_name("maps").context("the kernel programs have no maps")?;
    let (start, length) = maps.file_range().context("the kernel programs' maps have no place")?;
    let definitions: Vec<_> =
        file.symbols().filter(|symbol| symbol.section_index() == Some(maps.index())).collect();
    let mut copy = Patched::copy_of(object);
    let mut released = 0;
    for definition in definitions.iter().filter(|symbol| symbol.is_definition()) {
        if definition.address() >= length {
            return Err(Error::text("a map's definition lies outside of their section"));
        }
        let at = usize::try_from(start + definition.address())? + PINNING;
        let pinning = copy.bytes_mut().get_mut(at..at + BY_NAME.len());
        if let Some(pinning) = pinning.filter(|pinning| **pinning == BY_NAME) {
            pinning.copy_from_slice(&NONE);
            released += 1;
        }
    }
    if released == 0 {
        return Err(Error::text("the kernel programs have no map that is pinned"));
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_refused() {
        let said = |object: &[u8]| format!("{:#}", unpinned(object).expect_err("refused"));
        assert!(said(b"nothing").contains("no object"));
        // It has been done.
        let done = unpinned(crate::kernel::object::PLAIN).expect("maps");
        assert!(said(done.bytes()).contains("no map that is pinned"));
    }

    #[test]
    fn an_object_is_otherwise_the_same() {
        let copy = unpinned(crate::kernel::object::PLAIN).expect("maps");
        let (before, after) = (crate::kernel::object::PLAIN, copy.bytes());
        assert_eq!(before.len(), after.len());
        let changed: Vec<_> = before.iter().zip(after).filter(|(a, b)| a != b).collect();
        assert!(changed.iter().all(|pair| *pair == (&1, &0)));
        assert!(changed.len() > 5, "{}", changed.len());
    }
}
