//! Filters in words: what users of `ss`, `tcpdump` and `conntrack` type, joined by `and`, `or`, `not` and parentheses.

use super::{
    Ports, Prefix,
    answer::{MAIN, ambiguous, is_value, only_tcp, unknown},
    ends::{Comparison, Sides, of, of_end, port_beyond},
    expression::{Expression, Side, Test},
    names,
    tokens::{self, is_sign, split},
};
use crate::model::{flow_violations::rule, nearest::nearest};

/// How deep parentheses and `not` go.
const DEEPEST: usize = 50;

/// What is taken for a comparison, in any case.
const COMPARISONS: [(&[&str], Comparison); 6] = [
    (&["=", "==", "eq", "is"], Comparison::Equal),
    (&["!=", "!", "ne", "neq"], Comparison::NotEqual),
    (&["<", "lt"], Comparison::Less),
    (&["<=", "le", "leq"], Comparison::LessOrEqual),
    (&[">", "gt"], Comparison::Greater),
    (&[">=", "ge", "geq"], Comparison::GreaterOrEqual),
];

/// Whether a value that is called so would be read as something else.
pub(super) fn is_taken(word: &str) -> bool {
    let mut comparisons = COMPARISONS.iter().flat_map(|(signs, _)| signs.iter());
    matches!(word, "not" | "--not") || comparisons.any(|sign| word.eq_ignore_ascii_case(sign))
}

/// How alternatives are joined.
const OR: [&str; 3] = ["or", "|", "||"];

/// What an unqualified value after `and` or `or` is a value of.
#[derive(Clone, Copy)]
enum Subject {
    /// An address, a port, or both with a colon.
    End(Sides),
    Address(Sides),
    Net(Sides),
    Port(Sides),
    State,
    Family,
    Protocol,
    Interface,
    MinBytes,
    Violation,
}

/// Reads a filter; `None` where nothing is asked for.
///
/// # Errors
///
/// What is wrong, in a line.
pub(super) fn read(text: &str) -> Result<Option<Expression>, String> {
    let mut words = split(text);
    if words.last().is_some_and(|word| tokens::is_open(word)) {
        return Err("`\"` without another `\"` after it".to_owned());
    }
    // Trailing, it inverts the whole, as the option does.
    let is_inverted =
        words.len() > 1 && words.pop_if(|word| matches!(word.as_str(), "not" | "--not")).is_some();
    if words.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader { words, at: 0, last: None, depth: 0 };
    let expression = reader.any()?;
    match reader.next() {
        Some(word) if word == ")" => Err("`)` without a `(` before it".to_owned()),
        Some(word) => Err(unknown(&word)),
        None if is_inverted => Ok(Some(expression.inverted())),
        None => Ok(Some(expression)),
    }
}

/// That no connection passes both tests.
pub(super) fn contradiction(one: &Test, other: &Test) -> String {
    format!("no connection has both `{one}` and `{other}`; did you mean `{one} or {other}`?")
}

struct Reader {
    words: Vec<String>,
    at: usize,
    last: Option<Subject>,
    depth: usize,
}

impl Reader {
    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += usize::from(word.is_some());
        word
    }

    /// Takes the next word if it is one of these, in any case.
    fn take(&mut self, any: &[&str]) -> bool {
        let is_it =
            self.peek().is_some_and(|it| any.iter().any(|one| it.eq_ignore_ascii_case(one)));
        self.at += usize::from(is_it);
        is_it
    }

    fn is_over(&self) -> bool {
        self.peek().is_none_or(|word| word == ")")
    }

    /// What is joined by `or`.
    fn any(&mut self) -> Result<Expression, String> {
        let mut any: Vec<Expression> = Vec::new();
        loop {
            let mut all = self.all()?;
            if let ([_, ..], [_, _, ..]) = (&any[..], &all[..]) {
                return Err(ambiguous(&any, &all));
            }
            let one = if all.len() == 1 { all.pop() } else { None };
            any.push(one.unwrap_or(Expression::All(all)));
            if !self.take(&OR) {
                break;
            }
        }
        Ok(Expression::any(any).unwrap_or(Expression::All(Vec::new())))
    }

    /// What is joined by `and`, or by nothing, as `ss` allows.
    fn all(&mut self) -> Result<Vec<Expression>, String> {
        let mut all: Vec<Expression> = Vec::new();
        loop {
            let is_joined = !all.is_empty() && self.take(&["and", "&", "&&"]);
            let is_first = all.is_empty();
            let one = self.one(is_joined || (is_first && self.at > 0))?;
            match (all.last_mut(), one) {
                // To `ss`, each further state is another one that will do.
                (Some(Expression::Is(Test::State(states))), Expression::Is(Test::State(more)))
                    if !is_joined =>
                {
                    states.extend(more);
                }
                (_, one) => all.push(one),
            }
            if let Some((one, other)) = Expression::contradiction(&all) {
                return Err(contradiction(one, other));
            }
            let is_or = |word: &str| OR.iter().any(|or| word.eq_ignore_ascii_case(or));
            if self.is_over() || self.peek().is_some_and(is_or) {
                // That it is TCP needs no saying beside others.
                let says = |one: &Expression| *one != Expression::All(Vec::new());
                if all.iter().any(says) {
                    all.retain(says);
                }
                return Ok(all);
            }
        }
    }

    /// One test, or what stands in parentheses. After `and`, `or` and `not` a value will do, of what stands before.
    fn one(&mut self, may_be_value: bool) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("more than {DEEPEST} parentheses and `not` in each other"));
        }
        let Some(word) = self.next() else {
            let before = self.at.checked_sub(1).and_then(|at| self.words.get(at));
            return Err(match before {
                Some(before) => format!("what comes after `{before}`?"),
                None => "which flows?".to_owned(),
            });
        };
        let one = match word.as_str() {
            "(" => {
                let inner = self.any()?;
                if self.next().is_none() {
                    return Err("`(` without a `)` after it".to_owned());
                }
                inner
            }
            "!" => self.one(may_be_value)?.inverted(),
            _ => {
                let bare = word.strip_prefix("--").unwrap_or(&word).to_ascii_lowercase();
                match bare.as_str() {
                    "not" => self.one(may_be_value)?.inverted(),
                    _ => self.named(&word, &bare, may_be_value)?,
                }
            }
        };
        self.depth -= 1;
        Ok(one)
    }

    fn named(&mut self, word: &str, name: &str, may_be_value: bool) -> Result<Expression, String> {
        let subject = match name {
            "src" | "saddr" | "orig-src" => self.end(Side::Src, word)?,
            "dst" | "daddr" | "orig-dst" => self.end(Side::Dst, word)?,
            "addr" | "host" => Subject::Address(Sides::One(Side::Either)),
            "net" => Subject::Net(Sides::One(Side::Either)),
            "sport" => Subject::Port(Sides::One(Side::Src)),
            "dport" => Subject::Port(Sides::One(Side::Dst)),
            "port" | "portrange" => Subject::Port(Sides::One(Side::Either)),
            "state" => Subject::State,
            "exclude" => {
                self.last = Some(Subject::State);
                return Ok(self.test(Subject::State, word)?.inverted());
            }
            "family" => Subject::Family,
            "ip" | "ip6" | "inet" | "inet6" | "ipv4" | "ipv6" => {
                let family = names::family(name)?;
                if self.take(&["proto"]) {
                    self.test(Subject::Protocol, "proto")?;
                }
                return Ok(Expression::Is(Test::Family(family)));
            }
            "proto" => Subject::Protocol,
            "tcp" => return Ok(Expression::All(Vec::new())),
            "interface" | "dev" => Subject::Interface,
            "min-bytes" => Subject::MinBytes,
            "violation" => Subject::Violation,
            _ => {
                let Some(subject) = self.last.filter(|_| may_be_value) else {
                    return Err(self.unknown(word));
                };
                self.at -= 1;
                // A mistyped name is more likely than a mistyped value.
                return self.test(subject, word).map_err(|said| match is_value(word) {
                    None if nearest(word, MAIN).is_some() => unknown(word),
                    _ => said,
                });
            }
        };
        self.last = Some(subject);
        self.test(subject, word)
    }

    /// What comes after `src` or `dst`, perhaps with the other one and a type, as in `src or dst port 80`.
    fn end(&mut self, side: Side, word: &str) -> Result<Subject, String> {
        let other = if side == Side::Src { "dst" } else { "src" };
        let is_next = self.words.get(self.at + 1).is_some_and(|next| next == other);
        let join = self.peek().map(str::to_ascii_lowercase);
        let sides = match join.as_deref() {
            Some("or") if is_next => Sides::One(Side::Either),
            Some("and") if is_next => Sides::Both,
            _ => Sides::One(side),
        };
        let joins = !matches!((sides, side), (Sides::One(one), side) if one == side);
        self.at += if joins { 2 } else { 0 };
        let kind = self.peek().map(str::to_ascii_lowercase);
        let subject = match kind.as_deref() {
            None => return Err(format!("`{word}` of what?")),
            Some("host" | "addr") => Subject::Address(sides),
            Some("net") => Subject::Net(sides),
            Some("port" | "portrange") => Subject::Port(sides),
            Some(_) => return Ok(Subject::End(sides)),
        };
        self.at += 1;
        Ok(subject)
    }

    /// What a comparison, if there is one, and a value ask of `subject`.
    fn test(&mut self, subject: Subject, word: &str) -> Result<Expression, String> {
        let comparison = self.comparison();
        let mut value = match self.next() {
            Some(value) if !is_sign(&value) && value.contains(|it| it != ',') => value,
            _ => return Err(format!("`{word}` of what?")),
        };
        while value.ends_with(',')
            && let Some(more) = self.peek().filter(|more| !is_sign(more))
        {
            value.push_str(more);
            self.at += 1;
        }
        let is_ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let one = match subject {
            Subject::Port(sides) if is_ordered => port_beyond(sides, comparison, &value)?,
            Subject::End(sides) if is_ordered => {
                return Err(match sides {
                    Sides::One(Side::Dst) => "addresses have no order; did you mean `dport`?",
                    _ => "addresses have no order; did you mean `sport`?",
                }
                .to_owned());
            }
            Subject::MinBytes if matches!(comparison, Comparison::NotEqual | Comparison::Less) => {
                return Err(format!(
                    "`min-bytes` is the least; did you mean `not min-bytes {value}`?"
                ));
            }
            _ if is_ordered && !matches!(subject, Subject::MinBytes) => {
                return Err(format!("`{word}` has no order: `{word} {value}`"));
            }
            _ => self.is(subject, &value)?,
        };
        Ok(if comparison == Comparison::NotEqual { one.inverted() } else { one })
    }

    fn comparison(&mut self) -> Comparison {
        let found = COMPARISONS.into_iter().find(|(signs, _)| self.take(signs));
        found.map_or(Comparison::Equal, |(_, comparison)| comparison)
    }

    fn is(&mut self, subject: Subject, value: &str) -> Result<Expression, String> {
        let list = || value.split(',').filter(|one| !one.is_empty());
        let prefixes = || list().map(str::parse).collect::<Result<Vec<Prefix>, _>>();
        let test = match subject {
            Subject::End(sides) => return of_end(sides, value, "src or dst"),
            Subject::Address(sides) if value.contains(':') || value == "*" => {
                return of_end(sides, value, "host");
            }
            Subject::Address(sides) => {
                return of(sides, |side| Ok(Test::Address(side, prefixes()?)));
            }
            Subject::Net(sides) => {
                let mask = if self.take(&["mask"]) { self.next() } else { None };
                let prefix = Prefix::network(value, mask.as_deref())?;
                return of(sides, |side| Ok(Test::Address(side, vec![prefix])));
            }
            Subject::Port(sides) => {
                let ports: Ports = value.parse()?;
                return of(sides, |side| Ok(Test::Port(side, ports.clone())));
            }
            Subject::State => Test::State(names::states(value)?),
            Subject::Family => Test::Family(names::family(value)?),
            Subject::Protocol => match value.to_ascii_lowercase().as_str() {
                "tcp" | "6" => return Ok(Expression::All(Vec::new())),
                _ => return Err(only_tcp(value)),
            },
            Subject::Interface => Test::Interface(tokens::list(value)),
            Subject::MinBytes => Test::MinBytes(names::bytes(value)?),
            Subject::Violation => Test::Broke(list().map(rule).collect::<Result<_, _>>()?),
        };
        Ok(Expression::Is(test))
    }

    /// What is wrong with a word that begins no filter.
    fn unknown(&self, word: &str) -> String {
        let before = |back: usize| self.at.checked_sub(back).and_then(|at| self.words.get(at));
        // As in `port 80 443`.
        match (before(3), before(2), self.last) {
            (Some(name), Some(value), Some(_))
                if is_value(word).is_some() && is_value(word) == is_value(value) =>
            {
                format!("`{word}` is no filter; did you mean `{name} {value},{word}`?")
            }
            _ => unknown(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        read(text).map(|read| read.map_or_else(String::new, |expression| expression.to_string()))
    }

    #[test]
    fn what_users_of_ss_and_tcpdump_type() {
        for (text, expected) in [
            ("", ""),
            ("state established", "state ESTABLISHED"),
            (
                "state syn-recv,time-wait and sport = :443 not",
                "not ( state SYN_RECEIVED,TIME_WAIT and sport 443 )",
            ),
            ("dst 10.0.0.0/8 dport :80", "dst 10.0.0.0/8 and dport 80"),
            ("src 2001:db8::1 min-bytes 2k", "src 2001:db8::1/128 and min-bytes 2000"),
            ("--family ipv6 --interface eth0", "family ipv6 and interface eth0"),
            ("violation syn_isn_change,synack_bad_ack", "violation syn_isn_change,synack_bad_ack"),
            ("( dport = :ssh or sport = :ssh )", "dport 22 or sport 22"),
            (
                "(dport=:80||dport=:443)&&!src 10.0.0.1",
                "( dport 80 or dport 443 ) and not src 10.0.0.1/32",
            ),
            ("sport gt :1024", "sport 1025-65535"),
            ("dport < 1024", "dport 0-1023"),
            ("dport ne 80", "not dport 80"),
            ("dst 10.0.0.1:443", "dst 10.0.0.1/32 and dport 443"),
            ("dst [2001:db8::1]:https", "dst 2001:db8::1/128 and dport 443"),
            ("dst :443", "dport 443"),
            ("dst *:443", "dport 443"),
            (
                "host 10.0.0.1:80",
                "( src 10.0.0.1/32 and sport 80 ) or ( dst 10.0.0.1/32 and dport 80 )",
            ),
            ("state syn-sent state syn-recv", "state SYN_SENT,SYN_RECEIVED"),
            ("exclude time-wait", "not state TIME_WAIT"),
            ("tcp port 80 or 443", "port 80 or port 443"),
            ("host 10.0.0.1 or 10.0.0.2", "addr 10.0.0.1/32 or addr 10.0.0.2/32"),
            ("src or dst port 80", "port 80"),
            ("src and dst net 10", "src 10.0.0.0/8 and dst 10.0.0.0/8"),
            ("dst port 80", "dport 80"),
            ("src host 10.0.0.1", "src 10.0.0.1/32"),
            ("net 192.168.0.0 mask 255.255.0.0", "addr 192.168.0.0/16"),
            ("portrange 80-90", "port 80-90"),
            ("ip6 and not port 22", "family ipv6 and not port 22"),
            ("ip proto tcp", "family ipv4"),
            ("port 80, 443", "port 80,443"),
            ("not port 22 and not port 80", "not port 22 and not port 80"),
            ("dev eth0 AND PORT http", "interface eth0 and port 80"),
            (r#"dev "not""#, r#"interface "not""#),
            (r#"dev is "IS""#, r#"interface "IS""#),
            (r#"dev eth0,"a (b)""""#, r#"interface eth0,"a (b)""""#),
            (r#"(dev eth0,)"#, "interface eth0"),
            (r#"dev "eth0""#, "interface eth0"),
        ] {
            let once = shown(text).unwrap_or_default();
            assert_eq!(once, expected, "{text}");
            // What is shown is understood, and is the same again.
            assert_eq!(shown(&once).as_ref(), Ok(&once), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_blamed_and_answered() {
        for (text, expected) in [
            ("established", "`established` is no filter; did you mean `state established`?"),
            ("10.0.0.1", "did you mean `host 10.0.0.1`?"),
            (":443", "did you mean `port :443`?"),
            ("ssh", "did you mean `port ssh`?"),
            ("syn_fin", "did you mean `violation syn_fin`?"),
            ("prot 80", "`prot` is no filter; did you mean `port`?"),
            ("port 80 and stat ESTAB", "`stat` is no filter; did you mean `state`?"),
            ("port 80 443", "`443` is no filter; did you mean `port 80,443`?"),
            ("sport", "`sport` of what?"),
            ("port 80 and", "what comes after `and`?"),
            ("sport htpp", "did you mean `http`?"),
            ("state open", "`open` is no state"),
            ("state establised", "did you mean `ESTABLISHED`?"),
            ("violation nonsense", "is no rule; there are "),
            ("host example.com", "names are not looked up"),
            ("host 80", "did you mean `port 80`?"),
            ("src 443", "did you mean `src port 443`?"),
            ("port 10.0.0.1", "did you mean `host 10.0.0.1`?"),
            ("udp port 53", "`udp`: only TCP is tracked"),
            ("proto udp", "`udp`: only TCP is tracked"),
            ("tcp[tcpflags] & tcp-syn != 0", "`--tcp-flags syn,!ack`"),
            ("since 5m", "`since` is an option, no word: `--since 5m`"),
            ("greater 100", "`min-bytes 10k`"),
            ("( port 80", "`(` without a `)` after it"),
            ("port 80 )", "`)` without a `(` before it"),
            ("dport 80 dport 443", "did you mean `dport 80 or dport 443`?"),
            (
                "port 80 or port 443 and host ::1",
                "`( port 80 or port 443 ) and addr ::1/128`, or `port 80 or ( port 443 and addr ::1/128 )`",
            ),
            ("src gt 10.0.0.1", "did you mean `sport`?"),
            ("dport gt 65535", "no port is beyond 65535"),
            (&"not ".repeat(60), "more than 50"),
            ("!!dev!! ", "`dev` of what?"),
            ("dev &", "`dev` of what?"),
            ("dev \"eth0", "without another `\"`"),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(expected) && !said.contains('\n'), "{text}: {said}");
        }
    }

    #[test]
    fn anything_is_read_or_refused() {
        // Every sequence of three of these: none of them panics, and what is shown means the same.
        let words = [
            "port", "80", "and", "or", "not", "(", ")", "src", "10.0.0.1", "state", "estab", "!=",
            "gt", "tcp", ",", "dev", "!", "\"!\"",
        ];
        for one in words {
            for two in words {
                for three in words {
                    for four in words {
                        let text = [one, two, three, four].join(" ");
                        if let Ok(once) = shown(&text) {
                            assert_eq!(shown(&once).as_ref(), Ok(&once), "{text}");
                        }
                    }
                }
            }
        }
    }
}
