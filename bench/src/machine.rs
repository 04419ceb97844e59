//! The machine, for the readers of a table.

use std::fs;

/// Processor, cores, kernel and load average, as far as they are known.
pub(crate) fn describe() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        cpus.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let model = value("model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let is_virtual = value("flags")
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What follows is the builder's own.
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    format!(
        "{model}, {cores} cores{}, Linux {kernel}, load average {load} before the run",
        if is_virtual { " of a virtual machine" } else { "" }
    )
}
