//! What a target has reached, by names that do not depend on the compiler.
//!
//! `cargo xtask fuzz` runs each target over its corpus alone, and compares these names with the list in `expected/TARGET`. A corpus
//! or a target that comes to nothing any more is noticed in that way.

use std::{
    collections::BTreeSet,
    env,
    fs::File,
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
};

/// Names the file that names are written to, one a line.
const VARIABLE: &str = "TRACKER_FUZZ_REACHED";

struct Reached {
    file: File,
    names: BTreeSet<String>,
}

/// Where the standard library draws the keys of its hash tables from, which decide on the edges that a look-up takes. Here they
/// are the same in each run, so that a run can be repeated.
///
/// # Safety
///
/// `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> usize {
    // SAFETY: as the caller promises.
    unsafe { buffer.write_bytes(0x5a, length) };
    length
}

/// The number of this process, of which names of temporary files are made: the same in each run, too.
#[unsafe(no_mangle)]
extern "C" fn getpid() -> i32 {
    1
}

static REACHED: OnceLock<Option<Mutex<Reached>>> = OnceLock::new();

fn open() -> Option<Mutex<Reached>> {
    let path = env::var_os(VARIABLE)?;
    let file = File::create(path).expect("the file for what was reached");
    Some(Mutex::new(Reached { file, names: BTreeSet::new() }))
}

/// Notes that something happened. The name is made only where somebody wants it.
///
/// # Panics
///
/// Where the names cannot be written.
pub fn reached<T: ToString>(name: impl FnOnce() -> T) {
    let Some(reached) = REACHED.get_or_init(open) else { return };
    let name = name().to_string();
    let mut reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
    if !reached.names.contains(&name) {
        writeln!(reached.file, "{name}").expect("the file for what was reached");
        reached.names.insert(name);
    }
}
