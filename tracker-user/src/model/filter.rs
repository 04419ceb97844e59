//! Filters, the same on every command: as options, and in the words that users of `ss` and `tcpdump` type.

mod answer;
mod ends;
mod expression;
mod names;
mod ports;
mod prefix;
mod tokens;
mod words;

use std::fmt;

use tracker_common::violation::Rule;

use self::expression::{Expression, Side, Test};
pub use self::{names::bytes, ports::Ports, prefix::Prefix};
use crate::model::{event::Event, record::Record, scope::Scope};

/// FilterOptions that say which flows. Every one that is given must hold.
#[derive(Clone, Debug, Default, Eq, PartialEq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct FilterOptions {
    /// Address or prefix of the end that opened the connection
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',', aliases = ["orig-src", "saddr"])]
    pub src: Vec<Prefix>,
    /// Address or prefix of the other end
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',', aliases = ["orig-dst", "daddr"])]
    pub dst: Vec<Prefix>,
    /// Address or prefix of either end
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',', aliases = ["host", "net"])]
    pub addr: Vec<Prefix>,
    /// Port of the end that opened the connection; each is a number, a range or a service
    #[arg(long, value_name = "PORT[,PORT]", alias = "orig-port-src")]
    pub sport: Vec<Ports>,
    /// Port of the other end: `443`, `80,443`, `8000-8100`, `https`
    #[arg(long, value_name = "PORT[,PORT]", alias = "orig-port-dst")]
    pub dport: Vec<Ports>,
    /// Port of either end
    #[arg(long, value_name = "PORT[,PORT]")]
    pub port: Vec<Ports>,
    /// State of either end: `ESTABLISHED`, `time-wait`; a name of `ss` for several works, too: `connected`
    #[arg(long, value_name = "STATE[,STATE]", value_parser = names::states)]
    pub state: Vec<Vec<String>>,
    /// Address family: `ipv4` or `ipv6`
    #[arg(long, value_name = "FAMILY", value_parser = names::family)]
    pub family: Option<String>,
    /// IPv4 only
    #[arg(short = '4', long)]
    pub ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Interface that saw the connection's first packet
    #[arg(
        short,
        long,
        value_name = "NAME",
        value_delimiter = ',',
        id = "filter_interface",
        alias = "dev"
    )]
    pub interface: Vec<String>,
    /// Minimum bytes of both ends together, IP headers included; `k`, `M` and `G` are powers of 1000
    #[arg(long, value_name = "N", value_parser = bytes)]
    pub min_bytes: Option<u64>,
    /// Invert the filter: everything that does not match
    #[arg(long)]
    pub not: bool,
    /// Numbers instead of names, which is always so: no lookups
    #[arg(short, long)]
    pub numeric: bool,
}

impl FilterOptions {
    /// What they ask together, before `--not`.
    fn tests(&self) -> Vec<Test> {
        let address = |side, prefixes: &[Prefix]| {
            (!prefixes.is_empty()).then(|| Test::Address(side, prefixes.to_vec()))
        };
        let port = |side, ports: &[Ports]| Ports::union(ports).map(|ports| Test::Port(side, ports));
        let family = |name: &str| Test::Family(name.to_owned());
        let version = match (self.ipv4, self.ipv6) {
            (true, false) => Some(family("ipv4")),
            (false, true) => Some(family("ipv6")),
            _ => None,
        };
        let (state, interface) = (self.state.concat(), &self.interface);
        [
            address(Side::Src, &self.src),
            address(Side::Dst, &self.dst),
            address(Side::Either, &self.addr),
            port(Side::Src, &self.sport),
            port(Side::Dst, &self.dport),
            port(Side::Either, &self.port),
            (!state.is_empty()).then_some(Test::State(state)),
            self.family.as_deref().map(family),
            version,
            (!interface.is_empty()).then(|| Test::Interface(interface.clone())),
            self.min_bytes.map(Test::MinBytes),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Which flows match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// `None` where all do.
    expression: Option<Expression>,
}

/// A filter in words: `state established and ( dport 443 or sport gt :1024 )`.
///
/// # Errors
///
/// What is wrong, in a line.
pub fn words(text: &str) -> Result<Filter, String> {
    Ok(Filter { expression: words::read(text)? })
}

/// Whether a filter may begin with this, be it mistyped; not where it looks like the name of a file.
#[must_use]
pub fn may_begin(text: &str) -> bool {
    answer::may_begin(text)
}

impl fmt::Display for Filter {
    /// In the words that [`words`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.as_ref().map_or(Ok(()), |expression| expression.fmt(f))
    }
}

impl Filter {
    /// What options, rules and words ask for together.
    ///
    /// # Errors
    ///
    /// What is wrong with the words, or with all together.
    pub fn new(options: &FilterOptions, rules: &[Rule], text: &str) -> Result<Self, String> {
        let words = words(text)?;
        let has_words = words.expression.is_some();
        if !rules.is_empty() && words.asks_for_rules() {
            return Err("`violation` is given twice".to_owned());
        }
        let broke = (!rules.is_empty()).then(|| Test::Broke(rules.to_vec()));
        let tests = options.tests().into_iter().chain(broke).map(Expression::Is);
        let all: Vec<_> = words.expression.into_iter().chain(tests).collect();
        if has_words && let Some((one, other)) = Expression::contradiction(&all) {
            return Err(words::contradiction(one, other));
        }
        let expression = Expression::all(all);
        // Even of nothing: then nothing matches, and whoever asked for it sees that.
        let inverted = |it: Option<Expression>| it.unwrap_or(Expression::All(vec![])).inverted();
        Ok(Self { expression: if options.not { Some(inverted(expression)) } else { expression } })
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expression.is_none()
    }

    /// Whether broken rules are asked for, so that records need those that they broke.
    #[must_use]
    pub fn asks_for_rules(&self) -> bool {
        self.has(|test| matches!(test, Test::Broke(_)))
    }

    /// The interfaces that are asked for, by their names.
    #[must_use]
    pub fn interfaces(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.each(|test| {
            if let Test::Interface(more) = test {
                names.extend(more.iter().cloned());
            }
        });
        names
    }

    /// The least that is known of whose flows match: none of those that it leaves out does.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.expression.as_ref().map(Expression::scope).unwrap_or_default()
    }

    /// Whether `record` matches. Where rules are asked for, those that it broke must have been looked up.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.holds(|test| test.matches(record))
    }

    /// Whether `event` matches: where rules are asked for, it must report a breach of one. An event without a flow matches
    /// only where nothing is asked of flows, and one that reports lost reports always.
    #[must_use]
    pub fn matches_event(&self, event: &Event) -> bool {
        if event.lost.is_some() {
            return true;
        }
        let reports = |rules: &[Rule]| {
            let name = event.violation.as_ref().map(|violation| &violation.name);
            rules.iter().any(|rule| name.is_some_and(|name| name == rule.name()))
        };
        let asks_of_flows = || self.has(|test| !matches!(test, Test::Broke(_)));
        if event.flow.is_none() && asks_of_flows() {
            return false;
        }
        self.holds(|test| match (test, &event.flow) {
            (Test::Broke(rules), _) => reports(rules),
            (test, Some(flow)) => test.matches(flow),
            (_, None) => false,
        })
    }

    fn holds(&self, test: impl Fn(&Test) -> bool) -> bool {
        self.expression.as_ref().is_none_or(|expression| expression.holds(&test))
    }

    fn has(&self, is_it: impl Fn(&Test) -> bool) -> bool {
        let mut has = false;
        self.each(|test| has |= is_it(test));
        has
    }

    fn each(&self, mut visit: impl FnMut(&Test)) {
        if let Some(expression) = &self.expression {
            expression.each(&mut visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect(text)
    }

    #[test]
    fn options_and_words_ask_together() {
        let options =
            FilterOptions { src: vec![prefix("::1")], not: true, ..FilterOptions::default() };
        let both = |options: &FilterOptions, text: &str| Filter::new(options, &[], text);
        let shown = both(&options, "dport 80").map(|filter| filter.to_string());
        assert_eq!(shown.as_deref(), Ok("not ( dport 80 and src ::1/128 )"));
        let options = FilterOptions { ipv6: true, numeric: true, ..FilterOptions::default() };
        let shown = both(&options, "").map(|filter| filter.to_string());
        assert_eq!(shown.as_deref(), Ok("family ipv6"));
        let dport = FilterOptions {
            dport: vec!["80".parse().expect("a port")],
            ..FilterOptions::default()
        };
        assert!(both(&dport, "dport 443").is_err_and(|said| said.contains("no connection")));
        assert!(both(&dport, "dport 1-100").is_ok());
    }

    #[test]
    fn whatever_an_interface_is_called_the_agent_reads_its_name() {
        for name in [
            "!", "not", "--not", "eq", "NE", "a b", "(", "a\"b", "\"", "\"\"", "a,b", "and", "",
            "tcp)",
        ] {
            let options =
                FilterOptions { interface: vec![name.to_owned()], ..FilterOptions::default() };
            let filter = Filter::new(&options, &[], "port 80").expect("a filter");
            for shown in
                [filter.to_string(), format!("not ( {filter} )"), format!("( {filter} ) or tcp")]
            {
                let read = words(&shown).unwrap_or_else(|said| panic!("{shown}: {said}"));
                assert_eq!(read.interfaces(), [name], "{shown}");
            }
        }
    }

    #[test]
    fn a_scope_leaves_out_nothing_that_matches() {
        let scope = |text: &str| words(text).expect(text).scope();
        let (one, port) = (Some(prefix("192.0.2.1")), Some(80));
        for (text, expected) in [
            ("src 10.0.0.0/8 and addr 192.0.2.1 and dport 80", Scope { address: one, port }),
            ("not ( addr 192.0.2.1 and dport 80 )", Scope::default()),
            ("family ipv4", Scope::default()),
            ("port 80,443", Scope::default()),
            ("port 80 or state SYN_SENT", Scope::default()),
            ("addr 192.0.2.1 and ( sport 80 or dport 80 )", Scope { address: one, port }),
            ("addr 192.0.2.1 and not port 80", Scope { address: one, port: None }),
        ] {
            assert_eq!(scope(text), expected, "{text}");
        }
        assert_eq!(Filter::default().scope(), Scope::default());
    }
}
