//! Rules of this host that connections by SYN cookies may fail at: their SYN is answered before the host's firewall sees it, so the
//! first segment that the firewall sees is an acknowledgment.

use std::{fmt, fs, io};

use super::target::Target;
use crate::{
    kernel::nftables::{Place, Rule, rules, state},
    model::error::{Context, Result},
};

const LOOSE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";

/// Something that is in the way, or may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Obstacle {
    /// A rule translates the address of a protected port.
    Translates(Place),
    /// A rule drops what conntrack calls new and has no SYN.
    DropsWithoutSyn(Place),
    /// conntrack calls the first segment INVALID, and a rule drops that.
    DropsInvalid(Place),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Translates(place) => write!(
                f,
                "{place} may translate the address of a protected port, and then resets what a cookie opens: protect the \
                 translated listener where it is"
            ),
            Self::DropsWithoutSyn(place) => write!(
                f,
                "{place} may drop the first segment that it sees of a connection which a cookie opens, because that has no SYN: \
                 except the protected ports from it"
            ),
            Self::DropsInvalid(place) => write!(
                f,
                "{place} drops what conntrack calls INVALID, and so every connection that a cookie opens: `sysctl -w \
                 net.netfilter.nf_conntrack_tcp_loose=1`"
            ),
        }
    }
}

/// What this host's rules have against the protection of these ports. Rules of iptables-legacy are not seen.
///
/// # Errors
///
/// What the kernel says.
pub fn obstacles(targets: &[Target]) -> Result<Vec<Obstacle>> {
    let rules = rules().context("reading the rules of nftables")?;
    let is_loose = match fs::read_to_string(LOOSE) {
        Ok(text) => text.trim() != "0",
        // Nothing tracks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).context(LOOSE),
    };
    Ok(found(&rules, is_loose, |port| targets.iter().any(|target| target.has_port(port))))
}

fn found(rules: &[Rule], is_loose: bool, is_protected: impl Fn(u16) -> bool) -> Vec<Obstacle> {
    let meant =
        |rule: &&Rule| rule.ports.is_empty() || rule.ports.iter().any(|port| is_protected(*port));
    let obstacle = |rule: &Rule| {
        let place = || rule.place.clone();
        if rule.translates {
            return Some(Obstacle::Translates(place()));
        }
        if !rule.drops {
            return None;
        }
        if rule.looks_at_flags && rule.states & state::NEW != 0 {
            return Some(Obstacle::DropsWithoutSyn(place()));
        }
        (!is_loose && rule.states & state::INVALID != 0).then(|| Obstacle::DropsInvalid(place()))
    };
    rules.iter().filter(meant).filter_map(obstacle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_decides_is_an_obstacle() {
        let drops = |states| Rule { drops: true, states, ..Rule::default() };
        let is_80 = |port| port == 80;
        let found = |rule: Rule, is_loose| found(&[rule], is_loose, is_80).pop();
        let place = Place::default;
        assert_eq!(found(drops(0), false), None);
        assert_eq!(found(drops(state::NEW), false), None);
        assert_eq!(found(drops(state::INVALID), true), None);
        assert_eq!(found(drops(state::INVALID), false), Some(Obstacle::DropsInvalid(place())));
        let without_syn = Rule { looks_at_flags: true, ..drops(state::NEW) };
        let said = Some(Obstacle::DropsWithoutSyn(place()));
        assert_eq!(found(without_syn.clone(), true), said);
        assert_eq!(found(Rule { ports: vec![22], ..without_syn.clone() }, true), None);
        assert_eq!(found(Rule { ports: vec![22, 80], ..without_syn }, true), said);
        let translates = Rule { translates: true, ports: vec![80], ..Rule::default() };
        assert_eq!(found(translates.clone(), true), Some(Obstacle::Translates(place())));
        assert_eq!(found(Rule { ports: vec![8080], ..translates }, true), None);
    }
}
