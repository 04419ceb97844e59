//! Builds the kernel programs from source, once without and once with debug messages, for `object.rs` to embed.

use std::{env, path::PathBuf, process::exit};

use xtask::bpf::Toolchain;

/// Names the target directory of the kernel programs.
const TARGET_DIR: &str = "TRACKER_BPF_TARGET_DIR";

fn main() {
    let variable = |name| PathBuf::from(env::var_os(name).expect("cargo sets it"));
    let workspace = variable("CARGO_MANIFEST_DIR").join("..");
    let out = variable("OUT_DIR");
    for path in [
        "tracker-ebpf",
        "tracker-common/src",
        "tracker-common/Cargo.toml",
        "xtask/src/bpf.rs",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    // Not this build's own target directory: that one is locked. Builds of other profiles may name that of an earlier one, and find
    // everything built.
    println!("cargo::rerun-if-env-changed={TARGET_DIR}");
    let target = env::var_os(TARGET_DIR).map_or_else(
        || out.ancestors().nth(3).expect("OUT_DIR is deep").join("bpf"),
        PathBuf::from,
    );
    let result = Toolchain::find(&workspace).and_then(|toolchain| {
        toolchain.build("tracker-ebpf", &target, &[], &out.join("tracker-ebpf"))?;
        toolchain.build("tracker-ebpf", &target, &["kernel-log"], &out.join("tracker-ebpf-log"))
    });
    if let Err(error) = result {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    }
}
