//! What differs between the kernel and the host: shared integers, and help for the verifier.

pub mod cell;
pub mod forget;
