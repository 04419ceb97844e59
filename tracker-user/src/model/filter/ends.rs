//! Addresses and ports of one end, of the other, of either or of both, as words ask for them.

use super::{
    Ports, Prefix,
    expression::{Expression, Side, Test},
    ports,
};

/// The ends that a value is asked of.
#[derive(Clone, Copy)]
pub(super) enum Sides {
    One(Side),
    Both,
}

/// How a value is compared.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A test of these ends.
pub(super) fn of(
    sides: Sides,
    test: impl Fn(Side) -> Result<Test, String>,
) -> Result<Expression, String> {
    let of = |side| test(side).map(Expression::Is);
    match sides {
        Sides::One(side) => of(side),
        Sides::Both => Ok(Expression::All(vec![of(Side::Src)?, of(Side::Dst)?])),
    }
}

/// An address, a port, or both, as `ss` has them: `10.0.0.1`, `10.0.0.1:443`, `:443`, `[::1]:443`.
pub(super) fn of_end(sides: Sides, value: &str, word: &str) -> Result<Expression, String> {
    if value == "*" || value == "*:*" {
        return Ok(Expression::All(Vec::new()));
    }
    let address = value.split(',').filter(|one| !one.is_empty()).map(str::parse).collect();
    let said = match address {
        Ok(prefixes) => return of(sides, |side| Ok(Test::Address(side, Vec::clone(&prefixes)))),
        Err(said) => said,
    };
    let Some((host, port)) = value.rsplit_once(':') else {
        let is_port = value.parse::<Ports>().is_ok();
        let name = if word == "host" { "" } else { "src " };
        return Err(if is_port {
            format!("`{value}` is no IP address; did you mean `{name}port {value}`?")
        } else {
            said
        });
    };
    let prefix = match host {
        "" | "*" => None,
        _ if host.contains(':') && !host.starts_with('[') => return Err(said),
        host => Some(host.parse::<Prefix>()?),
    };
    let ports = if port == "*" { None } else { Some(port.parse::<Ports>()?) };
    let both = |side| {
        let address = prefix.map(|prefix| Test::Address(side, vec![prefix]));
        let port = ports.clone().map(|ports| Test::Port(side, ports));
        let all = address.into_iter().chain(port).map(Expression::Is).collect();
        Expression::all(all).unwrap_or(Expression::All(Vec::new()))
    };
    Ok(match (sides, prefix, &ports) {
        // The address and the port of the same end.
        (Sides::One(Side::Either), Some(_), Some(_)) => {
            Expression::Any(vec![both(Side::Src), both(Side::Dst)])
        }
        (Sides::One(side), ..) => both(side),
        (Sides::Both, ..) => Expression::All(vec![both(Side::Src), both(Side::Dst)]),
    })
}

/// Ports below or above one.
pub(super) fn port_beyond(
    sides: Sides,
    comparison: Comparison,
    value: &str,
) -> Result<Expression, String> {
    let port = ports::port(value.trim_start_matches(':'))?;
    let ports = match comparison {
        Comparison::Less => port.checked_sub(1).and_then(|high| Ports::range(0, high)),
        Comparison::LessOrEqual => Ports::range(0, port),
        Comparison::Greater => port.checked_add(1).and_then(|low| Ports::range(low, u16::MAX)),
        _ => Ports::range(port, u16::MAX),
    };
    let ports = ports.ok_or_else(|| format!("no port is beyond {port}"))?;
    of(sides, |side| Ok(Test::Port(side, ports.clone())))
}
