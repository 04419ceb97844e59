//! What differs between the kernel and the host: shared integers, and help for the verifier; and a hash.

pub mod cell;
pub mod forget;
pub(crate) mod siphash;
