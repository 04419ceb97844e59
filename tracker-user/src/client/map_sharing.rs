//! Map sharing with commands of other users: only root may open pins, but any process that holds a map's descriptor may
//! read it (bpf(2), since Linux 5.19 whatever `kernel.unprivileged_bpf_disabled` says). These descriptors are read-only.

use std::{
    ffi::CString,
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
    time::Duration,
};

use aya::maps::MapData;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tracker_common::config::MAX_INTERFACES;

use crate::{
    client::request::{DeleteAnswer, DeleteResult, MapRequest},
    kernel::{flow_violations, instance::Instance, syn_cache},
    model::error::{Context, Error, Result},
};

/// What the commands that only look have use for. Keys of cookies are not among them.
const SHARED: [&str; 13] = [
    "CONFIRMED",
    "HALF_OPEN",
    syn_cache::SETS,
    syn_cache::ADDRESSES,
    "PACKETS",
    "VIOLATIONS",
    "DROPS",
    "TALLIES",
    "REMOVALS",
    "CONFIG",
    "LISTENERS",
    "LISTENER_STATES",
    "COOKIES",
];

/// Maps at most that are shared at once: each interface has one that the others do not share.
const MOST: usize = MAX_INTERFACES as usize;

const _: () = assert!(SHARED.len() <= MOST);

/// How long an agent may take to answer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

const SILENT: &str = "the agent does not answer";

/// What comes with the descriptors: their maps' names, in the same order.
#[derive(Deserialize, Serialize)]
struct MapNames {
    v: u32,
    #[serde(rename = "lent")]
    names: Vec<String>,
}

/// Sends the maps that are asked for, of those that are pinned in a directory, over a socket that is ready for it.
///
/// # Errors
///
/// Where one cannot be opened, or not sent.
pub fn share(pins: &Path, request: &MapRequest, to: BorrowedFd<'_>) -> io::Result<()> {
    let (names, maps) = if request.repeated { repeated(pins)? } else { tables(pins)? };
    let answer = MapNames { v: 1, names };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    let descriptors: Vec<_> = maps.iter().map(AsRawFd::as_raw_fd).collect();
    let sent = sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(&line)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent < line.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}

fn tables(pins: &Path) -> io::Result<(Vec<String>, Vec<OwnedFd>)> {
    let maps = SHARED.iter().map(|name| read_only(&pins.join(name)));
    Ok((SHARED.map(str::to_owned).to_vec(), maps.collect::<io::Result<_>>()?))
}

/// What the programs of each interface remember of broken rules.
fn repeated(pins: &Path) -> io::Result<(Vec<String>, Vec<OwnedFd>)> {
    let paths = flow_violations::pins(pins).map_err(io::Error::other)?;
    let maps = paths.iter().map(|path| read_only(path)).collect::<io::Result<Vec<_>>>()?;
    Ok((vec![flow_violations::MAP.to_owned(); maps.len()], maps))
}

/// Maps, with their names.
#[derive(Debug)]
pub struct SharedMaps(Vec<(String, OwnedFd)>);

impl SharedMaps {
    /// Asks an agent for its tables.
    ///
    /// # Errors
    ///
    /// Where none is running, this user may not ask it, or it is of another version.
    pub fn ask(instance: &Instance) -> Result<Self> {
        Self::request(instance, &MapRequest { v: 1, lend: true, repeated: false })
    }

    /// Asks an agent for what it remembers of broken rules.
    ///
    /// # Errors
    ///
    /// As [`SharedMaps::ask`].
    pub fn ask_for_repeated(instance: &Instance) -> Result<Vec<MapData>> {
        let mut shared = Self::request(instance, &MapRequest { v: 1, lend: true, repeated: true })?;
        let names: Vec<_> = shared.0.iter().map(|(name, _)| name.clone()).collect();
        names.iter().map(|name| shared.take(name)).collect()
    }

    fn request(instance: &Instance, request: &MapRequest) -> Result<Self> {
        const OTHER: &str = "the agent is of another version";
        let mut stream = UnixStream::connect(instance.socket()).map_err(|e| instance.refused(e))?;
        stream.set_read_timeout(Some(LONGEST_WAIT))?;
        stream.set_write_timeout(Some(LONGEST_WAIT))?;
        let mut asked = serde_json::to_vec(request)?;
        asked.push(b'\n');
        stream.write_all(&asked).context(SILENT)?;
        let mut line = [0; 1024];
        let mut descriptors = Vec::new();
        let length = {
            let mut space = nix::cmsg_space!([std::os::fd::RawFd; MOST]);
            let mut into = [IoSliceMut::new(&mut line)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut space), flags)
                .context(SILENT)?;
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    // SAFETY: the kernel has just made them, for us alone.
                    descriptors.extend(fds.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
                }
            }
            message.bytes
        };
        let mut first = Vec::new();
        BufReader::new(&line[..length]).read_until(b'\n', &mut first)?;
        if let Ok(DeleteAnswer { result: DeleteResult::Error(error), .. }) =
            serde_json::from_slice(&first)
        {
            return Err(Error::text(error));
        }
        let answer: MapNames = serde_json::from_slice(&first).context(OTHER)?;
        if answer.names.len() != descriptors.len() {
            return Err(Error::text(OTHER));
        }
        // An older agent ignores `repeated`, and shares its tables.
        if request.repeated && answer.names.iter().any(|name| name != flow_violations::MAP) {
            return Err(Error::text(OTHER));
        }
        Ok(Self(answer.names.into_iter().zip(descriptors).collect()))
    }

    /// Whether a map of this name is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(shared, _)| shared == name)
    }

    /// Takes one of them.
    ///
    /// # Errors
    ///
    /// Where the agent has not shared it, or it cannot be used.
    pub fn take(&mut self, name: &str) -> Result<MapData> {
        let place = self.0.iter().position(|(shared, _)| shared == name);
        let place = place.with_context(|| format!("the agent shares no map {name}"))?;
        let (_, map) = self.0.swap_remove(place);
        MapData::from_fd(map).with_context(|| format!("using the map {name} that the agent shared"))
    }
}

/// Opens a pinned map so that it can only be read.
fn read_only(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_F_RDONLY: u32 = 1 << 3;

    /// The beginning of `union bpf_attr` for this command (include/uapi/linux/bpf.h).
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }

    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes { path: path.as_ptr() as u64, fd: 0, flags: BPF_F_RDONLY };
    // SAFETY: the path outlives the call.
    unsafe { crate::kernel::bpf::descriptor(BPF_OBJ_GET, &attributes) }
}
