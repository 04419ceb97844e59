//! Which way in the agents of the tests take: the same tests run by each.

use std::env;

/// The environment variable that names it: `xdp`, or `tcx`.
pub const VARIABLE: &str = "TRACKER_TEST_INGRESS";

/// Whether arriving packets are seen in the host's stack, and not by XDP.
#[must_use]
pub fn is_tcx() -> bool {
    env::var_os(VARIABLE).is_some_and(|way| way == "tcx")
}

/// Options of `tracker run`, with a way in where they name none. XDP is native then: generic XDP would hide what drivers do. An
/// option that says how XDP is attached gives way to tcx.
pub(crate) fn with_way_in(options: &[&str]) -> Vec<String> {
    let mut chosen: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    if is_tcx()
        && let Some(at) = chosen.iter().position(|option| option == "--xdp")
    {
        chosen.drain(at..(at + 2).min(chosen.len()));
    }
    if !chosen.iter().any(|option| option == "--xdp" || option == "--ingress") {
        chosen.extend(["--ingress", if is_tcx() { "tcx" } else { "xdp" }].map(str::to_owned));
    }
    chosen
}
