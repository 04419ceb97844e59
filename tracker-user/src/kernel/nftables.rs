//! This network namespace's rules of nftables, as far as they decide about connections that a SYN cookie opens. Rules that iptables
//! has written by way of nf_tables are among them.

use std::{collections::HashMap, fmt};

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute,
        Expressions, Hook, HookNumber, Immediate, InetHookNumber, ListAttribute, NfTablesMessage,
        Operator, Payload, RuleAttribute, RuleMessage, Verdict, VerdictAttribute,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    kernel::netlink_dump::dump,
    model::error::{Error, Result},
};

/// What a rule does, by its expressions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// Where it is.
    pub place: Place,
    /// It translates the address or port that a connection goes to, or takes it over (DNAT, redirect, TPROXY).
    pub translates: bool,
    /// It drops or rejects.
    pub drops: bool,
    /// Destination ports that it compares with: of these, one. Empty where it compares with none, or with a set.
    pub ports: Vec<u16>,
    /// Bits of conntrack's states that it asks for, as in [`state`]; all of them where they are not known.
    pub states: u32,
    /// It looks at the TCP flags.
    pub looks_at_flags: bool,
}

/// Bits of conntrack's states (`NF_CT_STATE_BIT`, include/net/netfilter/nf_conntrack.h).
pub mod state {
    /// What belongs to no connection, and begins none.
    pub const INVALID: u32 = 1;
    /// What begins one.
    pub const NEW: u32 = 8;
}

/// The names of a rule's table and chain, and its number there, as `nft -a list ruleset` shows them.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Place {
    /// `ip`, `ip6`, `inet`, `netdev`, `bridge` or `arp`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle.
    pub handle: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, handle } = self;
        write!(f, "rule {handle} of chain {chain} in table {family} {table}")
    }
}

/// The rules that arriving packets for this host may come to: all but those of chains that hang elsewhere.
///
/// # Errors
///
/// What the kernel says; a kernel without nf_tables has no rules.
pub fn rules() -> Result<Vec<Rule>> {
    let header = || NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let mut elsewhere = HashMap::new();
    let question = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let chains = dump(NETLINK_NETFILTER, NetfilterMessage::new(header(), question), |message| {
        if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.inner {
            let family = family(message.header.family);
            if let Some((table, name, is_elsewhere)) = chain_of(&chain.attributes) {
                elsewhere.insert((family, table, name), is_elsewhere);
            }
        }
    });
    if let Err(error) = chains {
        return if is_without_nftables(&error) { Ok(Vec::new()) } else { Err(error) };
    }
    let mut rules = Vec::new();
    let question = NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() });
    dump(NETLINK_NETFILTER, NetfilterMessage::new(header(), question), |message| {
        if let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.inner {
            let rule = rule_of(family(message.header.family), &rule.attributes);
            let Place { family, table, chain, .. } = &rule.place;
            if elsewhere.get(&(*family, table.clone(), chain.clone())) != Some(&true) {
                rules.push(rule);
            }
        }
    })?;
    Ok(rules)
}

/// Whether the kernel was built without nf_tables, or cannot load it.
fn is_without_nftables(error: &Error) -> bool {
    let numbers = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT];
    error.os_code().is_some_and(|number| numbers.contains(&number))
}

fn family(family: NetfilterProtoFamily) -> &'static str {
    match family {
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        NetfilterProtoFamily::ARP => "arp",
        NetfilterProtoFamily::NetDev => "netdev",
        NetfilterProtoFamily::Bridge => "bridge",
        _ => "?",
    }
}

/// A chain's table and name, and whether it hangs where no arriving packet for this host comes.
fn chain_of(attributes: &[ChainAttribute]) -> Option<(String, String, bool)> {
    let (mut table, mut name, mut is_elsewhere) = (None, None, false);
    for attribute in attributes {
        match attribute {
            ChainAttribute::Table(text) => table = Some(text.clone()),
            ChainAttribute::Name(text) => name = Some(text.clone()),
            ChainAttribute::Hook(parts) => {
                is_elsewhere = parts.iter().any(|part| {
                    matches!(
                        part,
                        Hook::Number(HookNumber::Inet(
                            InetHookNumber::Forward
                                | InetHookNumber::LocalOut
                                | InetHookNumber::PostRouting
                        ))
                    )
                });
            }
            _ => {}
        }
    }
    Some((table?, name?, is_elsewhere))
}

fn rule_of(family: &'static str, attributes: &[RuleAttribute]) -> Rule {
    let mut rule = Rule::default();
    rule.place.family = family;
    for attribute in attributes {
        match attribute {
            RuleAttribute::Table(text) => rule.place.table.clone_from(text),
            RuleAttribute::Chain(text) => rule.place.chain.clone_from(text),
            RuleAttribute::Handle(number) => rule.place.handle = *number,
            RuleAttribute::Expressions(list) => Reading::default().read(list, &mut rule),
            _ => {}
        }
    }
    rule
}

/// What the register holds that the next comparison is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Loaded {
    #[default]
    Other,
    DestinationPort,
    State,
}

#[derive(Default)]
struct Reading {
    loaded: Loaded,
}

impl Reading {
    fn read(mut self, list: &[ListAttribute<ExpressionAttribute>], rule: &mut Rule) {
        for element in list {
            let ListAttribute::Element(parts) = element else { continue };
            for part in parts {
                if let ExpressionAttribute::Data(expression) = part {
                    self.take(expression, rule);
                }
            }
            // `reject` and `redir` may come without data.
            let name = parts.iter().find_map(|part| match part {
                ExpressionAttribute::Name(name) => Some(name.as_str()),
                _ => None,
            });
            rule.drops |= name == Some("reject");
            rule.translates |= matches!(name, Some("redir" | "tproxy"));
        }
    }

    fn take(&mut self, expression: &Expressions, rule: &mut Rule) {
        match expression {
            Expressions::Payload(parts) => {
                self.loaded = Loaded::Other;
                match transport(parts) {
                    Some((2, 2)) => self.loaded = Loaded::DestinationPort,
                    Some((13, _)) => rule.looks_at_flags = true,
                    _ => {}
                }
            }
            Expressions::Bitwise(parts) if self.loaded == Loaded::State => {
                let mask = parts.iter().find_map(|part| match part {
                    Bitwise::Mask(DataAttribute::Value(bytes)) => native(bytes),
                    _ => None,
                });
                rule.states |= mask.unwrap_or(u32::MAX);
                self.loaded = Loaded::Other;
            }
            Expressions::Cmp(parts) => {
                self.compare(parts, rule);
                self.loaded = Loaded::Other;
            }
            Expressions::Lookup(_) if self.loaded == Loaded::State => rule.states = u32::MAX,
            Expressions::Immediate(parts) => {
                // NF_DROP
                rule.drops |= verdict(parts) == Some(Verdict::Other(0));
            }
            Expressions::Other { expression_type, attributes } => {
                self.other(expression_type, attributes, rule);
            }
            _ => {}
        }
    }

    fn compare(&self, parts: &[Cmp], rule: &mut Rule) {
        let (mut is_equal, mut bytes) = (false, None);
        for part in parts {
            match part {
                Cmp::Op(operator) => is_equal = *operator == Operator::Equal,
                Cmp::Data(DataAttribute::Value(value)) => bytes = Some(value),
                _ => {}
            }
        }
        let Some(bytes) = bytes else { return };
        match self.loaded {
            Loaded::DestinationPort if is_equal => {
                if let Ok(port) = <[u8; 2]>::try_from(bytes.as_slice()) {
                    rule.ports.push(u16::from_be_bytes(port));
                }
            }
            Loaded::State => rule.states |= native(bytes).unwrap_or(u32::MAX),
            _ => {}
        }
    }

    fn other(&mut self, name: &str, attributes: &[DefaultNla], rule: &mut Rule) {
        let number = |kind: u16| attributes.iter().find_map(|it| big_endian(it, kind));
        match name {
            // NFTA_CT_KEY is NFT_CT_STATE.
            "ct" if number(2) == Some(0) => self.loaded = Loaded::State,
            // NFTA_NAT_TYPE is NFT_NAT_DNAT.
            "nat" => rule.translates |= number(1) == Some(1),
            "redir" | "tproxy" => rule.translates = true,
            "reject" => rule.drops = true,
            // What iptables has written: NFTA_TARGET_NAME, NFTA_MATCH_NAME.
            "target" => match text(attributes, 1).as_deref() {
                Some("DNAT" | "REDIRECT" | "TPROXY") => rule.translates = true,
                Some("DROP" | "REJECT") => rule.drops = true,
                _ => {}
            },
            "match" => match text(attributes, 1).as_deref() {
                Some("conntrack" | "state") => rule.states = u32::MAX,
                Some("tcp") => rule.looks_at_flags = true,
                _ => {}
            },
            _ => {}
        }
    }
}

/// Offset and length, where something of the transport header is loaded (`NFT_PAYLOAD_TRANSPORT_HEADER`).
fn transport(parts: &[Payload]) -> Option<(u32, u32)> {
    let (mut is_transport, mut offset, mut len) = (false, None, None);
    for part in parts {
        match part {
            Payload::Base(base) => is_transport = *base == 2,
            Payload::Offset(value) => offset = Some(*value),
            Payload::Len(value) => len = Some(*value),
            _ => {}
        }
    }
    is_transport.then_some((offset?, len?))
}

fn verdict(parts: &[Immediate]) -> Option<Verdict> {
    parts.iter().find_map(|part| match part {
        Immediate::Data(DataAttribute::Verdict(parts)) => {
            parts.iter().find_map(|part| match part {
                VerdictAttribute::Code(code) => Some(*code),
                _ => None,
            })
        }
        _ => None,
    })
}

fn native(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn big_endian(attribute: &DefaultNla, kind: u16) -> Option<u32> {
    if attribute.kind() != kind {
        return None;
    }
    value(attribute).try_into().ok().map(u32::from_be_bytes)
}

fn text(attributes: &[DefaultNla], kind: u16) -> Option<String> {
    let bytes = value(attributes.iter().find(|attribute| attribute.kind() == kind)?);
    let text = bytes.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}
