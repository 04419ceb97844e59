//! What `ss` says: the kernel's own word on the states of its sockets.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// States by (local, remote) address and port as `ss` prints them, listeners left out.
///
/// # Errors
///
/// Where `ss` fails, or prints a line that is not understood.
pub fn states(namespace: &Namespace) -> Result<BTreeMap<(String, String), String>> {
    let text = namespace.run("ss", &["-H", "-t", "-a", "-n"])?;
    let mut states = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let state = words.next().context("a state")?;
        let (local, remote) =
            (words.nth(2).context("a local address")?, words.next().context("a remote address")?);
        if state != "LISTEN" {
            states.insert((local.to_owned(), remote.to_owned()), rfc_name(state).to_owned());
        }
    }
    Ok(states)
}

/// RFC 9293's name for a state of `ss`.
fn rfc_name(state: &str) -> &str {
    match state {
        "ESTAB" => "ESTABLISHED",
        "SYN-SENT" => "SYN_SENT",
        "SYN-RECV" => "SYN_RECEIVED",
        "FIN-WAIT-1" => "FIN_WAIT_1",
        "FIN-WAIT-2" => "FIN_WAIT_2",
        "TIME-WAIT" => "TIME_WAIT",
        "UNCONN" => "CLOSED",
        "CLOSE-WAIT" => "CLOSE_WAIT",
        "LAST-ACK" => "LAST_ACK",
        "CLOSING" => "CLOSING",
        other => other,
    }
}
