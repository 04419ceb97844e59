//! The end of flows whose time is over. Begin with [`sweep`]; [`walk`] finds them where they lie.

pub mod sweep;
pub mod walk;
