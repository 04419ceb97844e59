//! Directories that an agent trusts. Whoever may change one of them, or one above, can put another socket, lock or map in place of
//! the agent's: so only root may, and the user that the agent runs as.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{self, Path},
};

use nix::unistd::Uid;

use crate::model::error::{Context, Error, Result};

/// Whether others may make files of their own in the directory itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sharing {
    /// They may, where it has the sticky bit: nobody can remove what is another's.
    Sticky,
    /// They may not.
    No,
}

/// Checks a directory, as far as it is there, and all above it.
///
/// # Errors
///
/// The first that somebody else may change, and what to do about it.
pub fn check(directory: &Path, sharing: Sharing) -> Result<()> {
    let absolute =
        path::absolute(directory).with_context(|| format!("finding {}", directory.display()))?;
    let Some(there) = absolute.ancestors().find(|path| path.exists()) else { return Ok(()) };
    let real = fs::canonicalize(there).with_context(|| there.display().to_string())?;
    for path in there.ancestors().chain(real.ancestors()) {
        let about = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
        let is_itself = path == absolute || (there == absolute && path == real);
        let is_trusted = is_owner_trusted(&about)
            && (about.is_symlink() || is_closed(&about) || is_sticky(&about, sharing, is_itself));
        if !is_trusted {
            return Err(Error::text(format!(
                "{} belongs to user {} and has mode {:o}, so that others could replace what the agent keeps in {}. Make it root's, \
                 and take the others' right to write (`chown root`, `chmod go-w`), or name another directory",
                path.display(),
                about.uid(),
                about.mode() & 0o7777,
                directory.display()
            )));
        }
    }
    Ok(())
}

fn is_owner_trusted(about: &Metadata) -> bool {
    about.uid() == 0 || about.uid() == Uid::effective().as_raw()
}

/// Nobody but its owner, and root's group, may write.
fn is_closed(about: &Metadata) -> bool {
    let others = if about.gid() == 0 { 0o002 } else { 0o022 };
    about.mode() & others == 0
}

fn is_sticky(about: &Metadata, sharing: Sharing, is_itself: bool) -> bool {
    about.mode() & 0o1000 != 0 && (!is_itself || sharing == Sharing::Sticky)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        path::PathBuf,
    };

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("a directory");
            set_mode(&path, 0o755);
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn what_others_may_change_is_not_trusted() {
        let base = Directory::new("trusted");
        let inner = base.0.join("inner");
        // What is not there yet will be ours.
        assert!(check(&inner.join("run"), Sharing::No).is_ok());
        fs::create_dir(&inner).expect("a directory");
        for (mode, itself, above) in
            [(0o755, true, true), (0o777, false, false), (0o1777, false, true)]
        {
            set_mode(&inner, mode);
            assert_eq!(check(&inner, Sharing::No).is_ok(), itself, "{mode:o}");
            assert_eq!(check(&inner.join("run"), Sharing::No).is_ok(), above, "{mode:o}");
        }
        assert!(check(&inner, Sharing::Sticky).is_ok());
        // What a link leads to counts, too.
        set_mode(&inner, 0o777);
        let link = base.0.join("link");
        symlink(&inner, &link).expect("a link");
        let said = check(&link, Sharing::No).expect_err("refused").to_string();
        assert!(said.contains("inner") && said.contains("777"), "{said}");
    }
}
