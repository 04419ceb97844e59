//! Files with secrets: keys of cookies, the private key of the metrics' certificate, their token.

use std::{
    fs::OpenOptions,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::Uid;
use zeroize::Zeroizing;

use crate::model::error::{Error, Result};

/// Reads a file of at most `most` bytes that only its owner may read, who is root or this user. What was read is wiped when
/// dropped. `renewal` says what to do about a secret that others may know.
///
/// # Errors
///
/// Where it cannot be read, is no file, is longer, or others may read it.
pub fn read(path: &Path, most: u64, renewal: &str) -> Result<Zeroizing<Vec<u8>>> {
    // A pipe that nobody writes to must not stop the agent.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(Error::text("this is no file"));
    }
    let is_ours = about.uid() == 0 || about.uid() == Uid::effective().as_raw();
    if !is_ours || about.mode() & 0o077 != 0 {
        return Err(Error::text(format!(
            "others may read it: the file belongs to user {} and has mode {:o}; give it to root (`chown root`) and take away \
             the others' rights (`chmod 600`), and {renewal}",
            about.uid(),
            about.mode() & 0o7777
        )));
    }
    if about.len() > most {
        return Err(Error::text(format!("{} bytes are too many: {most} are at most", about.len())));
    }
    // Room for all of it, so that no part stays behind in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(most)?));
    file.take(most).read_to_end(&mut text)?;
    Ok(text)
}
