//! Where somebody else says something else, and why.

/// A difference that is as it should be.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    /// The capture.
    pub path: &'static str,
    /// What it is about, as [`super::claims::Subject`] is written.
    pub subject: &'static str,
    /// What of it.
    pub field: &'static str,
    /// What they say.
    pub theirs: &'static str,
    /// What we say.
    pub ours: &'static str,
    /// Why.
    pub why: &'static str,
}

/// All of them. A difference that is not here is a failure, and so is one that is here and does not occur.
pub const EXPLAINED: &[Explained] = &[];
