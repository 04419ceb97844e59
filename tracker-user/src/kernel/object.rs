//! The kernel programs, embedded.

/// As they run in production.
pub static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracker-ebpf"));

/// The same with debug messages.
pub static WITH_LOG: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracker-ebpf-log"));
