//! Public captures with known answers, replayed through the kernel programs: what Zeek, Suricata, Arkime and tcpdump say
//! about them, what `tracker replay` says, and why the two differ where they do.
//!
//! Everything that somebody else says is a [`Claim`]. Ours is compared with it as text; a difference is a failure unless
//! it is in the table [`explained::EXPLAINED`].

pub mod answers;
pub mod claims;
pub mod classes;
pub mod corpus;
pub mod explained;
pub mod page;
pub mod replay;
pub mod situations;
pub mod statements;

pub use claims::Claim;
