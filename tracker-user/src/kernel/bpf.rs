//! Commands of the `bpf` system call that aya lacks.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
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
