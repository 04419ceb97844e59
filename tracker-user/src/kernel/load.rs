//! Loading the kernel programs: the object with its maps, the maps' sizes, and the verifier's check of each program.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use tracker_common::{
    config::InterfaceConfig,
    protect::{MAX_ANSWERED, Protection},
    syn_cache::CacheSettings,
};
use zerocopy::IntoBytes;

use crate::{
    kernel::{kernel_side::slots::Purpose, refusal, syn_cache},
    model::{
        error::{Context, Result},
        failure::os_code,
    },
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
    /// Maximum number of half-open flows with a record; new ones evict the oldest. Twice as many handshakes are cached
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

/// The same for a half-open one, and for the handshakes that are cached beside it.
const HALF_OPEN_BYTES: u64 = 328 + syn_cache::TIMES as u64 * syn_cache::PLACE_BYTES;

fn ring_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if size.is_power_of_two() && (4096..=1 << 30).contains(&size) {
        Ok(size)
    } else {
        Err("a power of two from 4096 to 1073741824".to_owned())
    }
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
        .map_max_entries(syn_cache::SETS, syn_cache::sets(sizes.max_half_open))
        .map_max_entries(
            syn_cache::ADDRESSES,
            CacheSettings::places(syn_cache::sets(sizes.max_half_open)),
        )
        .map_max_entries("EVENTS", sizes.ring_bytes)
        // Its memory is taken for each interface, and used where SYNs are answered.
        .map_max_entries("ANSWERED", if protection.enabled == 0 { 1 } else { MAX_ANSWERED })
        .override_global("INTERFACE", config.as_bytes(), true)
        .override_global("PROTECTION", protection.as_bytes(), protection.enabled != 0)
        .load(object)
        .map_err(|error| {
            let is_out_of_memory = os_code(&error) == Some(libc::ENOMEM);
            let error = refusal::of_object(error);
            if is_out_of_memory { error.context(sizes.too_large()) } else { error }
        })
}

/// Loads the program that sees packets for this purpose.
///
/// # Errors
///
/// What the kernel says; [`Failure::Refused`](crate::model::failure::Failure::Refused) where its verifier refuses.
pub(crate) fn load_classifier(ebpf: &mut Ebpf, purpose: Purpose) -> Result<&mut SchedClassifier> {
    let classifier: &mut SchedClassifier = program(ebpf, purpose.program())?;
    classifier.load().map_err(|error| refusal::of_program(purpose.program(), &error))?;
    Ok(classifier)
}

/// Loads the program that sees arriving packets.
///
/// # Errors
///
/// As [`load_classifier`].
pub(crate) fn load_ingress(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let ingress: &mut Xdp = program(ebpf, INGRESS)?;
    ingress.load().map_err(|error| refusal::of_program(INGRESS, &error))?;
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
