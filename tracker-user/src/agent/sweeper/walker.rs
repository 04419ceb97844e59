//! The kernel's walk over the confirmed flows, an iterator over the elements of a map (`bpf_iter`, since Linux 5.9), which
//! aya can load but not attach.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Btf, Ebpf,
    maps::{Array, Map, MapData},
    programs::Iter,
};
use tracker_common::walk::{Found, Walk};
use zerocopy::FromBytes;

use crate::{
    kernel::{bpf::descriptor, load::program, refusal, tables::take_map},
    model::error::{Context, Result},
};

const PROGRAM: &str = "tracker_walk";

/// What the kernel hands over at once: it has a buffer of eight pages.
const CHUNK: usize = 8 * 4096;

type Order = [u64; size_of::<Walk>() / 8];

/// A program that is ready to walk over one map.
pub(super) struct Walker {
    link: OwnedFd,
    order: Array<MapData, Order>,
    found: Vec<u8>,
}

impl Walker {
    /// Loads the program, for walks over `flows`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn new(ebpf: &mut Ebpf, flows: BorrowedFd<'_>) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let order = Map::Array(take_map(ebpf, "WALK")?).try_into()?;
        let program: &mut Iter = program(ebpf, PROGRAM)?;
        program.load("bpf_map_elem", &btf).map_err(|error| refusal::of_program(PROGRAM, &error))?;
        let link = bind(program.fd()?.as_fd(), flows)
            .with_context(|| format!("binding {PROGRAM} to the confirmed flows"))?;
        Ok(Self { link, order, found: vec![0; CHUNK] })
    }

    /// Walks as `walk` says, and calls `visit` with every flow that a sweep has to do with; `walk` then says what was counted.
    /// What comes and goes meanwhile may be missed or found.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn run(&mut self, walk: &mut Walk, mut visit: impl FnMut(&Found)) -> Result<()> {
        let order: Order = zerocopy::transmute!(*walk);
        self.order.set(0, order, 0).context("beginning a walk")?;
        let mut file = begin(self.link.as_fd()).context("beginning a walk")?;
        loop {
            match file.read(&mut self.found) {
                Ok(0) => break,
                Ok(count) => {
                    for found in self.found[..count].chunks_exact(size_of::<Found>()) {
                        if let Ok(found) = Found::read_from_bytes(found) {
                            visit(&found);
                        }
                    }
                }
                // It came back as it should, and has found nothing meanwhile.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("walking over the confirmed flows"),
            }
        }
        let order: Order = self.order.get(&0, 0).context("ending a walk")?;
        *walk = zerocopy::transmute!(order);
        Ok(())
    }
}

/// Binds an iterator to a map. It runs for nobody until [`begin`].
fn bind(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_TRACE_ITER: u32 = 28;

    /// `union bpf_attr`'s member `link_create` (include/uapi/linux/bpf.h).
    #[repr(C)]
    struct Attributes {
        program: i32,
        target: u32,
        attach_type: u32,
        flags: u32,
        /// `union bpf_iter_link_info`: here a map's descriptor.
        info: u64,
        info_len: u32,
        unused: u32,
    }

    let info = map.as_raw_fd();
    let attributes = Attributes {
        program: program.as_raw_fd(),
        target: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        info: (&raw const info) as u64,
        info_len: size_of_val(&info).try_into().unwrap_or_default(),
        unused: 0,
    };
    // SAFETY: what it points to outlives the call.
    unsafe { descriptor(BPF_LINK_CREATE, &attributes) }
}

/// A file that is read by walking.
fn begin(link: BorrowedFd<'_>) -> io::Result<File> {
    const BPF_ITER_CREATE: libc::c_long = 33;

    /// `union bpf_attr`'s member `iter_create`.
    #[repr(C)]
    struct Attributes {
        link: i32,
        flags: u32,
    }

    // SAFETY: it points to nothing.
    unsafe { descriptor(BPF_ITER_CREATE, &Attributes { link: link.as_raw_fd(), flags: 0 }) }
        .map(File::from)
}
