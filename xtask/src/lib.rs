//! How the kernel programs are built: shared by `cargo xtask`, which installs what is missing, and by tracker-user's
//! build script, which says what is missing.

pub mod bpf;
