//! The batch commands of the `bpf` system call, which aya lacks: thousands of entries a call, and a walk over a hash
//! map that goes bucket by bucket, so that entries which come and go meanwhile do not restart it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::maps::{MapData, MapType};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// `union bpf_attr`'s member `batch` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the attributes live until the call returns, and the callers below point them at buffers that hold what
    // the command reads and writes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A walk over all entries of a hash or array map.
#[derive(Debug)]
pub struct Walk<'fd> {
    map: BorrowedFd<'fd>,
    key_size: usize,
    value_size: usize,
    capacity: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// The kernel's place in the walk: a bucket's number, or a key where that is larger.
    place: Option<Vec<u8>>,
    done: bool,
}

impl<'fd> Walk<'fd> {
    /// A walk in steps of `capacity` entries, over a map whose keys and values have these sizes in bytes.
    ///
    /// # Errors
    ///
    /// Where they have others, or there are values for each CPU.
    pub fn new(
        map: &'fd MapData,
        key_size: usize,
        value_size: usize,
        capacity: usize,
    ) -> io::Result<Self> {
        let kinds = [MapType::Hash, MapType::LruHash, MapType::Array];
        check(map, &kinds, key_size, value_size)?;
        Ok(Self {
            map: map.fd().as_fd(),
            key_size,
            value_size,
            capacity,
            keys: vec![0; capacity * key_size],
            values: vec![0; capacity * value_size],
            place: None,
            done: false,
        })
    }

    /// The next entries, as consecutive keys and values; `None` at the end.
    ///
    /// # Errors
    ///
    /// What the kernel says. A bucket with more entries than fit is no error: the step grows.
    pub fn step(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        while !self.done {
            let mut next = vec![0; self.key_size.max(8)];
            let mut attributes = Attributes {
                in_batch: self.place.as_ref().map_or(0, |place| place.as_ptr() as u64),
                out_batch: next.as_mut_ptr() as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(self.capacity).unwrap_or(u32::MAX),
                map_fd: self.map.as_raw_fd().cast_unsigned(),
                ..Attributes::default()
            };
            match bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
                Ok(()) => self.place = Some(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.done = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    self.capacity *= 2;
                    self.keys.resize(self.capacity * self.key_size, 0);
                    self.values.resize(self.capacity * self.value_size, 0);
                    continue;
                }
                Err(error) => return Err(error),
            }
            let count = attributes.count as usize;
            if count > 0 {
                return Ok(Some((
                    &self.keys[..count * self.key_size],
                    &self.values[..count * self.value_size],
                )));
            }
        }
        Ok(None)
    }
}

/// The kernel reads and writes as much memory as the map says, and asks nobody.
fn check(map: &MapData, kinds: &[MapType], key: usize, value: usize) -> io::Result<()> {
    let info = map.info().map_err(io::Error::other)?;
    let is_right = info.map_type().is_ok_and(|kind| kinds.contains(&kind))
        && (info.key_size() as usize, info.value_size() as usize) == (key, value);
    if is_right {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the map is of another kind, or its keys or values have another size",
        ))
    }
}

/// Writes the first `values.len() / value_size` entries of an array map.
///
/// # Errors
///
/// What the kernel says, or that the map's values have another size.
pub fn write_array(map: &MapData, values: &[u8], value_size: usize) -> io::Result<()> {
    check(map, &[MapType::Array], size_of::<u32>(), value_size)?;
    let count = u32::try_from(values.len() / value_size).unwrap_or(u32::MAX);
    let keys: Vec<u32> = (0..count).collect();
    let mut attributes = Attributes {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        ..Attributes::default()
    };
    bpf(BPF_MAP_UPDATE_BATCH, &mut attributes)
}

/// Reads the first entries of an array map into `values`.
///
/// # Errors
///
/// What the kernel says, or that the map's values have another size.
pub fn read_array(map: &MapData, values: &mut [u8], value_size: usize) -> io::Result<()> {
    check(map, &[MapType::Array], size_of::<u32>(), value_size)?;
    let count = u32::try_from(values.len() / value_size).unwrap_or(u32::MAX);
    let mut keys = vec![0u32; count as usize];
    let mut place = 0u64;
    let mut attributes = Attributes {
        out_batch: (&raw mut place) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        ..Attributes::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) {
        // The array's end.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}
