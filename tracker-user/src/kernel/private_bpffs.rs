//! A BPF filesystem that nobody else sees: the maps are declared as pinned, and here the pins go with the process,
//! however it ends.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use crate::model::error::{Context, Result};

/// include/uapi/linux/mount.h
const FSOPEN_CLOEXEC: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
const FSMOUNT_CLOEXEC: libc::c_long = 1;

/// A mounted BPF filesystem without a place in the directory tree. It is gone when this is dropped; maps that are open
/// stay.
#[derive(Debug)]
pub struct PrivateBpffs {
    mount: OwnedFd,
}

impl PrivateBpffs {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses: this takes CAP_SYS_ADMIN.
    pub fn new() -> Result<Self> {
        // SAFETY: the name is a C string.
        let context =
            unsafe { opened(libc::SYS_fsopen, c"bpf".as_ptr() as libc::c_long, FSOPEN_CLOEXEC) }
                .context("opening a BPF filesystem")?;
        let fd = libc::c_long::from(context.as_raw_fd());
        // SAFETY: takes numbers only.
        let created =
            unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, 0, 0, 0) };
        if created < 0 {
            return Err(io::Error::last_os_error()).context("creating a BPF filesystem");
        }
        // SAFETY: takes numbers only.
        let mount = unsafe { opened(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC) }
            .context("mounting a BPF filesystem")?;
        Ok(Self { mount })
    }

    /// Its root directory, to this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.mount.as_raw_fd()).into()
    }
}

/// A system call of two or three arguments, the last one 0, that opens something.
///
/// # Safety
///
/// What the arguments point at must be what the call reads.
unsafe fn opened(number: libc::c_long, a: libc::c_long, b: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { libc::syscall(number, a, b, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
