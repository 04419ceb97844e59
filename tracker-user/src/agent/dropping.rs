//! Packets that break chosen rules are dropped: what the settings mean for the kernel programs.

use std::{collections::BTreeSet, path::Path, str::FromStr};

use tracker_common::{
    dropping::{DropMode, MAX_EXEMPT},
    violation::{Rule, Rules},
};

use crate::{
    agent::interfaces::wanted::Name,
    kernel::exempt::ExemptMap,
    model::{
        error::Result,
        failure::Failure,
        filter::Prefix,
        nearest::nearest,
        network::{Network, masked, network},
    },
};

/// A rule that packets can be dropped for, or all of these.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// One rule.
    Rule(Rule),
    /// `invalid`: [`Rules::droppable`].
    Invalid,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "invalid" {
            return Ok(Self::Invalid);
        }
        let Some(rule) = Rule::from_name(text) else {
            let names: Vec<_> = Rule::droppable().map(Rule::name).collect();
            let near = nearest(text, names.iter().copied().chain(["invalid"]));
            let near = near.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
            return Err(format!(
                "`{text}` is no rule; {near}There are `invalid`, for all that packets can be dropped for, and {}",
                names.join(", ")
            ));
        };
        match rule.kept_because() {
            None => Ok(Self::Rule(rule)),
            Some(why) => Err(format!("packets cannot be dropped for {}: {why}", rule.name())),
        }
    }
}

/// Options of `tracker run` on what is dropped.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Dropping")]
// A group of `tracker run` has this name already.
#[group(skip)]
pub struct Options {
    /// Drop arriving packets that break these rules; `invalid` means every rule that lawful traffic cannot break
    #[arg(long, value_delimiter = ',', value_name = "RULE[,RULE]")]
    pub drop: Vec<Choice>,
    /// Drop nothing: only count and report what --drop would drop
    #[arg(long, requires = "drop")]
    pub drop_dry_run: bool,
    /// Never drop packets from these addresses or networks
    #[arg(long, value_delimiter = ',', value_name = "NET[,NET]", requires = "drop")]
    pub drop_exempt: Vec<Prefix>,
    /// Interfaces where packets are dropped, by name or pattern [default: all of them]
    #[arg(long, value_delimiter = ',', value_name = "NAME[,NAME]", requires = "drop")]
    pub drop_on: Vec<Name>,
}

impl Options {
    /// The rules that packets are dropped for.
    pub(super) fn rules(&self) -> Rules {
        self.drop.iter().fold(Rules::default(), |rules, choice| match choice {
            Choice::Rule(rule) => rules.with(*rule),
            Choice::Invalid => Rule::droppable().fold(rules, Rules::with),
        })
    }

    /// What becomes of packets that break them.
    pub(super) fn mode(&self) -> DropMode {
        match (self.drop.is_empty(), self.drop_dry_run) {
            (true, _) => DropMode::Off,
            (false, true) => DropMode::Count,
            (false, false) => DropMode::Drop,
        }
    }

    /// Refuses interfaces that the agent does not attach to, which `is_attached` knows, and more networks than the kernel
    /// programs have room for.
    pub(super) fn check(&self, is_attached: impl Fn(&str) -> bool) -> Result<()> {
        let plain = self.drop_on.iter().filter_map(Name::plain);
        if let Some(stranger) = plain.into_iter().find(|name| !is_attached(name)) {
            let said = format!(
                "--drop-on {stranger}: the agent does not attach to it; add --interface {stranger}, or correct the name"
            );
            return Err(Failure::BadInput(said).into());
        }
        let count = self.drop_exempt.len();
        if count <= MAX_EXEMPT as usize {
            return Ok(());
        }
        let said = format!(
            "--drop-exempt has {count} networks, and {MAX_EXEMPT} are at most: name wider ones"
        );
        Err(Failure::BadInput(said).into())
    }

    /// Makes the kernel programs know the networks that are exempt, those of before no more.
    pub(super) fn exempt(&self, pins: &Path) -> Result<()> {
        let wanted: BTreeSet<_> = self.drop_exempt.iter().map(key).collect();
        let mut map = ExemptMap::from_pins(pins)?;
        let known = map.networks()?;
        for network in wanted.difference(&known) {
            map.add(*network)?;
        }
        for network in known.difference(&wanted) {
            map.remove(*network)?;
        }
        Ok(())
    }

    /// Says what is dropped.
    pub(super) fn say(&self) {
        let rules = self.rules();
        let names: Vec<_> =
            Rule::droppable().filter(|rule| rules.has(*rule)).map(Rule::name).collect();
        match self.mode() {
            DropMode::Off => {}
            DropMode::Count => {
                tracing::info!(
                    rules = names.join(","),
                    "packets that break these rules are counted, and pass"
                );
            }
            DropMode::Drop => {
                tracing::info!(
                    rules = names.join(","),
                    "packets that break these rules are dropped"
                );
            }
        }
    }
}

/// A network as the kernel programs have it: with IPv4 mapped, and no bits behind its length.
fn key(prefix: &Prefix) -> Network {
    let (address, length) = network((prefix.address(), prefix.length()));
    (masked(address, length), length)
}

#[cfg(test)]
mod tests {
    use tracker_common::key::mapped;

    use super::*;

    fn options(drop: &[&str]) -> Result<Options, String> {
        let drop = drop.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        Ok(Options { drop, ..Options::default() })
    }

    #[test]
    fn rules_that_are_dropped() {
        let some = options(&["syn_fin", "rst_out_of_window"]).expect("two rules");
        let rules = Rules::default().with(Rule::SynFin).with(Rule::RstOutOfWindow);
        assert_eq!((some.rules(), some.mode()), (rules, DropMode::Drop));
        let all = options(&["invalid"]).expect("all");
        assert_eq!(all.rules(), Rules::droppable());
        assert_eq!(Options { drop_dry_run: true, ..all }.mode(), DropMode::Count);
        assert_eq!(Options::default().mode(), DropMode::Off);
    }

    #[test]
    fn what_lawful_traffic_breaks_is_refused() {
        for (name, why) in [
            ("syn_in_established", "restarted"),
            ("retransmission", "nothing is wrong"),
            ("rst_inexact", "lawful traffic"),
            ("port_scan", "no single packet"),
            ("syn_fim", "did you mean `syn_fin`"),
            ("invalidd", "did you mean `invalid`"),
        ] {
            let refusal = options(&[name]).expect_err(name);
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn too_many_networks_are_refused() {
        let networks = |count| vec!["192.0.2.0/24".parse().expect("a network"); count];
        let most = MAX_EXEMPT as usize;
        for (count, is_right) in [(most, true), (most + 1, false)] {
            let options = Options { drop_exempt: networks(count), ..Options::default() };
            assert_eq!(options.check(|_| true).is_ok(), is_right);
        }
    }

    #[test]
    fn networks_as_the_programs_have_them() {
        let of = |text: &str| key(&text.parse().expect(text));
        assert_eq!(of("192.0.2.77/24"), (mapped([192, 0, 2, 0]), 120));
        assert_eq!(of("0.0.0.0/0"), (mapped([0; 4]), 96));
        assert_eq!(of("::1/0"), ([0; 16], 0));
        let mut expected = [0; 16];
        expected[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        assert_eq!(of("2001:db8::1/32"), (expected, 32));
    }
}
