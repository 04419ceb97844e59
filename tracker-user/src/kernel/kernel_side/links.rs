//! Pinned links and programs: what they are, and the links' end.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::programs::{
    ProgramInfo,
    links::{FdLink, PinnedLink},
};

use crate::{
    kernel::kernel_side::slots::Purpose,
    model::error::{Context, Result},
};

/// include/uapi/linux/bpf.h
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// `union bpf_attr`'s member for objects that are pinned.
#[repr(C)]
#[derive(Default)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
    path_fd: i32,
    reserved: u32,
}

/// The same for what is attached somewhere.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    reserved: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the programs that are attached to an interface by tcx. (aya asks for the programs themselves, which needs
/// CAP_SYS_ADMIN.)
///
/// # Errors
///
/// What the kernel says.
pub fn tcx_programs(ifindex: u32, purpose: Purpose) -> io::Result<Vec<u32>> {
    // No more may be attached (BPF_MPROG_MAX).
    let mut ids = [0_u32; 64];
    let mut query = QueryAttributes {
        ifindex,
        attach_type: match purpose {
            Purpose::Egress => BPF_TCX_EGRESS,
            Purpose::Arrival | Purpose::Handover => BPF_TCX_INGRESS,
        },
        program_ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..QueryAttributes::default()
    };
    // SAFETY: there is room for as many ids as the query says.
    unsafe { bpf(BPF_PROG_QUERY, &mut query) }?;
    Ok(ids[..usize::try_from(query.count).unwrap_or_default().min(64)].to_vec())
}

/// Whether this kernel attaches by tcx (Linux 6.6, CONFIG_NET_XGRESS), asked for an interface that exists.
///
/// # Errors
///
/// What the kernel says.
pub fn has_tcx(ifindex: u32) -> io::Result<bool> {
    match tcx_programs(ifindex, Purpose::Egress) {
        Ok(_) => Ok(true),
        // It knows no such place.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The link that is pinned there, and the id of its program; `None` where there is none.
///
/// # Errors
///
/// What the kernel says.
pub fn open(pin: &Path) -> Result<Option<(FdLink, u32)>> {
    if !exists(pin)? {
        return Ok(None);
    }
    let link = match PinnedLink::from_pin(pin) {
        // It has gone meanwhile, as another agent's may.
        Err(_) if !exists(pin)? => return Ok(None),
        link => FdLink::from(link.with_context(|| format!("opening {}", pin.display()))?),
    };
    let info = link.info().with_context(|| format!("asking about {}", pin.display()))?;
    Ok(Some((link, info.program_id())))
}

/// The id of the program that is pinned there; `None` where there is none.
///
/// # Errors
///
/// What the kernel says.
pub fn program(pin: &Path) -> Result<Option<u32>> {
    if !exists(pin)? {
        return Ok(None);
    }
    match ProgramInfo::from_pin(pin) {
        Err(_) if !exists(pin)? => Ok(None),
        info => Ok(Some(info.with_context(|| format!("opening {}", pin.display()))?.id())),
    }
}

/// Detaches the link that is pinned there, whoever else has it open, and removes the pin; false where there was none.
///
/// # Errors
///
/// What the kernel says.
pub fn remove(pin: &Path) -> Result<bool> {
    if !exists(pin)? {
        return Ok(false);
    }
    // The last reference would do too, but a pin gives its one up some time after it was removed.
    detach(pin).with_context(|| format!("detaching {}", pin.display()))?;
    fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
    Ok(true)
}

fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut object = ObjectAttributes { path: path.as_ptr() as u64, ..ObjectAttributes::default() };
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut object) }?;
    // SAFETY: just opened, and owned by nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut fd = link.as_raw_fd();
    // SAFETY: takes a number only.
    unsafe { bpf(BPF_LINK_DETACH, &mut fd) }.map(drop)
}

/// # Safety
///
/// What the attributes point at must be what the command reads and writes.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes live until the call returns; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// Whether there is such a pin.
///
/// # Errors
///
/// Where that cannot be seen.
pub fn exists(pin: &Path) -> Result<bool> {
    pin.try_exists().with_context(|| format!("looking for {}", pin.display()))
}
