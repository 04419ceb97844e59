//! States and numbers by the names that users have for them.

use tracker_common::state::State;

use crate::model::nearest::hint;

/// What `ss` calls several states at once, and all others after `but`.
const GROUPS: [(&str, Group); 5] = [
    ("ALL", Group::But(&[])),
    ("CONNECTED", Group::But(&[State::Listen, State::Closed])),
    ("SYNCHRONIZED", Group::But(&[State::Listen, State::Closed, State::SynSent])),
    ("BUCKET", Group::These(&[State::SynReceived, State::TimeWait])),
    ("BIG", Group::But(&[State::SynReceived, State::TimeWait])),
];

enum Group {
    These(&'static [State]),
    But(&'static [State]),
}

/// The field's other spellings of a state.
const SPELLINGS: [(&str, &str); 15] = [
    ("ESTAB", "ESTABLISHED"),
    ("SYN_RECV", "SYN_RECEIVED"),
    ("SYN_RCVD", "SYN_RECEIVED"),
    ("SYN_SENT2", "SYN_SENT"),
    ("FIN_WAIT1", "FIN_WAIT_1"),
    ("FIN_WAIT2", "FIN_WAIT_2"),
    ("CLOSE", "CLOSED"),
    ("UNCONN", "CLOSED"),
    ("LISTENING", "LISTEN"),
    ("TIMEWAIT", "TIME_WAIT"),
    ("CLOSEWAIT", "CLOSE_WAIT"),
    ("LASTACK", "LAST_ACK"),
    // As tables show them.
    ("FIN_W1", "FIN_WAIT_1"),
    ("FIN_W2", "FIN_WAIT_2"),
    ("CLOSE_W", "CLOSE_WAIT"),
];

/// States by a list of names, of states and of the groups that `ss` has.
///
/// # Errors
///
/// What is no state, and the nearest that is.
pub(super) fn states(text: &str) -> Result<Vec<String>, String> {
    let all = text.split(',').map(state).collect::<Result<Vec<_>, _>>()?;
    Ok(all.concat())
}

/// The states that one name stands for.
///
/// # Errors
///
/// As [`states`].
pub(super) fn state(text: &str) -> Result<Vec<String>, String> {
    let given = text.to_ascii_uppercase().replace('-', "_");
    let spelling = SPELLINGS.iter().find(|(other, _)| *other == given);
    let name = spelling.map_or(given.as_str(), |(_, name)| name);
    if State::ALL.iter().any(|state| state.name() == name) {
        return Ok(vec![name.to_owned()]);
    }
    let Some((_, group)) = GROUPS.iter().find(|(group, _)| *group == name) else {
        let names: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
        let all = || format!("there are {}", names.join(", "));
        return Err(format!("`{text}` is no state{}", hint(text, names.iter().copied(), all)));
    };
    let is_in = |state: &State| match group {
        Group::These(these) => these.contains(state),
        Group::But(others) => !others.contains(state),
    };
    Ok(State::ALL.iter().filter(|it| is_in(it)).map(|state| state.name().to_owned()).collect())
}

/// A number of bytes, with or without a unit.
///
/// # Errors
///
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("`{text}` is no number of bytes; examples: 4096, 10k, 2G"))
}

/// An address family by its name.
///
/// # Errors
///
/// Which there are.
pub(super) fn family(text: &str) -> Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        "ipv4" | "inet" | "ip4" | "ip" | "4" => Ok("ipv4".to_owned()),
        "ipv6" | "inet6" | "ip6" | "6" => Ok("ipv6".to_owned()),
        _ => Err(format!("`{text}` is no address family; there are ipv4 and ipv6")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_units() {
        assert_eq!(bytes("10k"), Ok(10_000));
        assert_eq!(bytes("2G"), Ok(2_000_000_000));
        assert_eq!(bytes("0"), Ok(0));
        for wrong in ["", "k", "-1", "1.5M", "99999999999999999999", "18446744073709551615k"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn states_in_every_spelling() {
        let read = |text: &str| states(text).map(|states| states.join(","));
        for (text, expected) in [
            ("time-wait", "TIME_WAIT"),
            ("SYN_RECV", "SYN_RECEIVED"),
            ("ESTAB,fin-wait-1", "ESTABLISHED,FIN_WAIT_1"),
            ("listening", "LISTEN"),
            ("bucket", "SYN_RECEIVED,TIME_WAIT"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected));
        }
        let connected = states("connected").expect("a group");
        assert!(connected.len() == 9 && !connected.contains(&"LISTEN".to_owned()));
        assert!(read("open").is_err_and(|said| said.contains("there are")));
        assert!(read("establised").is_err_and(|said| said.contains("`ESTABLISHED`?")));
    }
}
