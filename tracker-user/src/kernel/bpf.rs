//! Commands of the `bpf` system call that aya lacks.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Does a command that makes a descriptor.
///
/// # Errors
///
/// What the kernel says.
///
/// # Safety
///
/// What the attributes point to must be as the command wants it.
pub unsafe fn descriptor<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attributes of commands on an element of a map (`union bpf_attr` in include/uapi/linux/bpf.h).
#[repr(C)]
struct Element {
    map: i32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads a value to where it is to be, and nowhere else: aya's maps return it, which leaves copies.
///
/// # Errors
///
/// What the kernel says.
///
/// # Safety
///
/// The map must have keys and values of these sizes, and any bytes must be a value.
pub unsafe fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<()> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_mut(value) as u64);
    // SAFETY: as the caller promises.
    unsafe { on_element(BPF_MAP_LOOKUP_ELEM, map, key, value) }
}

/// Writes a value from where it is.
///
/// # Errors
///
/// What the kernel says.
///
/// # Safety
///
/// The map must have keys and values of these sizes.
pub unsafe fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_ref(value) as u64);
    // SAFETY: as the caller promises.
    unsafe { on_element(BPF_MAP_UPDATE_ELEM, map, key, value) }
}

/// # Safety
///
/// Key and value must be addresses of what the command reads and writes.
unsafe fn on_element(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: u64,
    value: u64,
) -> io::Result<()> {
    let attributes = Element { map: map.as_raw_fd(), reserved: 0, key, value, flags: 0 };
    let size = size_of::<Element>();
    // SAFETY: as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes, size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
