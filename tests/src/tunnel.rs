//! Two tun devices whose packets this process carries from one to the other.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// `struct ifreq` of linux/if.h, as `TUNSETIFF` reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes a tun device in either namespace, with the name given, brings both up, and carries packets between them until this process
/// ends.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn tunnel(one: (&Namespace, &str), other: (&Namespace, &str)) -> Result<()> {
    let [near, far] = [open(one)?, open(other)?];
    for (namespace, name) in [one, other] {
        namespace.run("ip", &["link", "set", name, "up"])?;
    }
    carry(near.try_clone()?, far.try_clone()?);
    carry(far, near);
    Ok(())
}

fn open((namespace, name): (&Namespace, &str)) -> Result<File> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI).try_into()?,
        rest: [0; 22],
    };
    ensure!(name.len() < request.name.len(), "{name} is too long");
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // The device comes to be in the namespace of who opens the file.
    namespace.enter(|| {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let file = file.context("opening /dev/net/tun")?;
        // SAFETY: the call reads a request of that form, which lives until it returns.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        ensure!(result == 0, "making {name}: {}", std::io::Error::last_os_error());
        Ok(file)
    })
}

fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut packet = vec![0; 70_000];
        while let Ok(length) = from.read(&mut packet) {
            // A device that is down refuses it, and another packet may come.
            let _ = to.write(&packet[..length]);
        }
    });
}
