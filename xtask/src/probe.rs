//! Looks for what is missing. Nothing is concluded from a file's name where the program itself can be asked.

use std::process::Command;

use xtask::bpf::{self, Compiler};

use crate::{
    environment, host,
    plan::{Linker, Missing, Purpose, choose},
};

/// What is missing for a purpose, and the compiler that the kernel programs are built with.
pub(crate) fn probe(purpose: Purpose) -> (Vec<Missing>, Option<Compiler>) {
    let candidates = bpf::compilers()
        .into_iter()
        .map(|compiler| {
            let linker = linker(&compiler);
            (compiler, linker)
        })
        .collect::<Vec<_>>();
    let chosen = choose(&candidates);

    let mut missing = Vec::new();
    match chosen {
        None => missing.push(Missing::Compiler),
        Some((_, Linker::Works)) => {}
        Some((compiler, linker)) => missing.push(Missing::Linker {
            compiler: compiler.clone(),
            broken: *linker == Linker::Broken,
        }),
    }
    if purpose.runs() {
        let rivals = purpose.measures().then_some("iptables");
        let machines = ["busybox", "cpio", "depmod", "modprobe", "xz", "zstd", "strip"];
        let mut programs = ["ip", "ss", "nft", "conntrack", "jq", "curl", "openssl", "groff"]
            .into_iter()
            .chain(rivals)
            .chain(machines.into_iter().filter(|_| purpose.boots()))
            .chain(purpose.exports().then_some("rpmbuild"))
            .filter(|program| !host::on_path(program))
            .collect::<Vec<_>>();
        // Debian's own interpreter, because only that finds Debian's modules.
        let reads_yaml =
            || host::succeeds(Command::new("/usr/bin/python3").args(["-c", "import yaml"]));
        programs.extend((purpose.exports() && !reads_yaml()).then_some("python3-yaml"));
        if !programs.is_empty() {
            missing.push(Missing::Programs(programs));
        }
        let receivers = RECEIVERS.iter().filter(|_| purpose.exports());
        let missing_ones = receivers.filter(|(program, _)| !host::on_path(program));
        missing.extend(missing_ones.map(|(_, package)| Missing::Receiver(package)));
        let environments = ENVIRONMENTS.iter().filter(|_| purpose.exports());
        let missing_ones = environments.filter(|name| !environment::is_made(name));
        missing.extend(missing_ones.map(|name| Missing::Environment(name)));
    }
    if purpose.fuzzes() && !host::on_path("c++") {
        missing.push(Missing::Cxx);
    }
    if purpose.lints() {
        if let Some((compiler, _)) = chosen
            && !compiler.has_clippy()
        {
            missing.push(Missing::BpfClippy(compiler.origin));
        }
        for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
            if !host::succeeds(host::cargo().args([verb, "--version"])) {
                missing.push(Missing::Component(component));
            }
        }
    }
    (missing, chosen.map(|(compiler, _)| compiler.clone()))
}

fn linker(compiler: &Compiler) -> Linker {
    match bpf::linker(host::workspace(), compiler) {
        None => Linker::Missing,
        // One that was built here outlives the LLVM library that it was built on.
        Some(path) if host::succeeds(Command::new(&path).arg("--version")) => Linker::Works,
        Some(_) => Linker::Broken,
    }
}

/// Receivers that are packages for Python (tests/receivers).
const ENVIRONMENTS: [&str; 2] = ["kafka", "otlp"];

/// Programs that tests send records to, and the packages that have them.
const RECEIVERS: [(&str, &str); 4] = [
    ("clickhouse-server", "clickhouse-server"),
    ("ipfixDump", "libfixbuf-tools"),
    ("nfcapd", "nfdump"),
    ("nfacctd", "pmacct"),
];
