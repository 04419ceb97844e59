//! Builds the benchmarks' kernel programs from source, for `programs.rs` to embed.

use std::{env, path::PathBuf, process::exit};

use xtask::bpf::Toolchain;

fn main() {
    let variable = |name| PathBuf::from(env::var_os(name).expect("cargo sets it"));
    let workspace = variable("CARGO_MANIFEST_DIR").join("..");
    let out = variable("OUT_DIR");
    for path in ["bench-ebpf", "tracker-common", "xtask/src/bpf.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    // Not this build's own target directory: that one is locked.
    let target = out.ancestors().nth(3).expect("OUT_DIR is deep").join("bpf");
    let package = "tracker-bench-ebpf";
    let result = Toolchain::find(&workspace)
        .and_then(|toolchain| toolchain.build(package, &target, &[], &out.join(package)));
    if let Err(error) = result {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    }
}
