//! Information elements: those of IANA's registry, their reverse ones (RFC 5103), and own ones below an enterprise's number.
//!
//! Numbers of own elements begin at 101: pmacct leaves the first ones of an enterprise empty. None is an integer of one byte,
//! which pmacct reads as 0. A number is never used again for something else.

/// An information element (RFC 7012).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Element {
    /// Its name in the registry; reverse ones have that of their forward one.
    pub name: &'static str,
    /// Its number, from 1 to 32,767.
    pub number: u16,
    /// Whose it is.
    pub owner: Owner,
    /// What its values are.
    pub kind: Kind,
}

/// Whose an element is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// IANA's registry.
    Iana,
    /// The same element of the other direction (RFC 5103, section 6.1).
    Reverse,
    /// Those who have the enterprise's number that is set.
    Enterprise,
}

/// The form of an element's values (RFC 7012, section 3.1). Integers are in network byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// unsigned8.
    U8,
    /// unsigned16.
    U16,
    /// unsigned32.
    U32,
    /// unsigned64.
    U64,
    /// dateTimeMilliseconds: since 1970, 8 bytes.
    Milliseconds,
    /// ipv4Address.
    Ipv4,
    /// ipv6Address.
    Ipv6,
    /// string, in UTF-8, with its length before it.
    Text,
}

impl Kind {
    /// Bytes of a value; `None` where each has its own length.
    #[must_use]
    pub const fn length(self) -> Option<u16> {
        match self {
            Self::U8 => Some(1),
            Self::U16 => Some(2),
            Self::U32 | Self::Ipv4 => Some(4),
            Self::U64 | Self::Milliseconds => Some(8),
            Self::Ipv6 => Some(16),
            Self::Text => None,
        }
    }

    /// Its code in IANA's registry of data types (RFC 5610, section 3.1).
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 3,
            Self::U64 => 4,
            Self::Text => 13,
            Self::Milliseconds => 15,
            Self::Ipv4 => 18,
            Self::Ipv6 => 19,
        }
    }
}

impl Element {
    const fn iana(name: &'static str, number: u16, kind: Kind) -> Self {
        Self { name, number, owner: Owner::Iana, kind }
    }

    const fn own(name: &'static str, number: u16, kind: Kind) -> Self {
        Self { name, number, owner: Owner::Enterprise, kind }
    }

    const fn reverse(self) -> Self {
        Self { owner: Owner::Reverse, ..self }
    }

    /// Appends its field specifier (RFC 7011, section 3.2); `pen` is the enterprise of own elements.
    pub(super) fn specify(self, pen: u32, to: &mut Vec<u8>) {
        let enterprise = match self.owner {
            Owner::Iana => None,
            Owner::Reverse => Some(REVERSE),
            Owner::Enterprise => Some(pen),
        };
        let bit = if enterprise.is_some() { 0x8000 } else { 0 };
        to.extend_from_slice(&(self.number | bit).to_be_bytes());
        to.extend_from_slice(&self.kind.length().unwrap_or(VARIABLE).to_be_bytes());
        if let Some(enterprise) = enterprise {
            to.extend_from_slice(&enterprise.to_be_bytes());
        }
    }
}

/// The enterprise of reverse elements.
pub const REVERSE: u32 = 29305;

/// The length in a field specifier of values that have their own (RFC 7011, section 7).
const VARIABLE: u16 = 65535;

pub(super) const PROTOCOL: Element = Element::iana("protocolIdentifier", 4, Kind::U8);
/// One byte of its two (RFC 7011, section 6.2): pmacct reads two as 0.
pub(super) const FLAGS: Element = Element::iana("tcpControlBits", 6, Kind::U8);
pub(super) const SOURCE_PORT: Element = Element::iana("sourceTransportPort", 7, Kind::U16);
pub(super) const SOURCE_4: Element = Element::iana("sourceIPv4Address", 8, Kind::Ipv4);
pub(super) const DESTINATION_PORT: Element =
    Element::iana("destinationTransportPort", 11, Kind::U16);
pub(super) const DESTINATION_4: Element = Element::iana("destinationIPv4Address", 12, Kind::Ipv4);
pub(super) const SOURCE_6: Element = Element::iana("sourceIPv6Address", 27, Kind::Ipv6);
pub(super) const DESTINATION_6: Element = Element::iana("destinationIPv6Address", 28, Kind::Ipv6);
pub(super) const INTERFACE: Element = Element::iana("interfaceName", 82, Kind::Text);
pub(super) const BYTES: Element = Element::iana("octetTotalCount", 85, Kind::U64);
pub(super) const PACKETS: Element = Element::iana("packetTotalCount", 86, Kind::U64);
pub(super) const END_REASON: Element = Element::iana("flowEndReason", 136, Kind::U8);
pub(super) const PROCESS: Element = Element::iana("exportingProcessId", 144, Kind::U32);
pub(super) const FLOW_ID: Element = Element::iana("flowId", 148, Kind::U64);
pub(super) const DOMAIN: Element = Element::iana("observationDomainId", 149, Kind::U32);
pub(super) const START: Element = Element::iana("flowStartMilliseconds", 152, Kind::Milliseconds);
pub(super) const END: Element = Element::iana("flowEndMilliseconds", 153, Kind::Milliseconds);
pub(super) const NOT_SENT: Element = Element::iana("notSentFlowTotalCount", 166, Kind::U64);
pub(super) const SEQUENCE: Element = Element::iana("tcpSequenceNumber", 184, Kind::U32);
pub(super) const ACKNOWLEDGMENT: Element =
    Element::iana("tcpAcknowledgementNumber", 185, Kind::U32);
pub(super) const WINDOW: Element = Element::iana("tcpWindowSize", 186, Kind::U16);
pub(super) const DIRECTION: Element = Element::iana("biflowDirection", 239, Kind::U8);
pub(super) const DOMAIN_NAME: Element = Element::iana("observationDomainName", 300, Kind::Text);
pub(super) const ELEMENT_NUMBER: Element = Element::iana("informationElementId", 303, Kind::U16);
pub(super) const TIME: Element =
    Element::iana("observationTimeMilliseconds", 323, Kind::Milliseconds);
pub(super) const ELEMENT_TYPE: Element = Element::iana("informationElementDataType", 339, Kind::U8);
pub(super) const ELEMENT_NAME: Element = Element::iana("informationElementName", 341, Kind::Text);
pub(super) const ELEMENT_SEMANTICS: Element =
    Element::iana("informationElementSemantics", 344, Kind::U8);
pub(super) const ELEMENT_UNITS: Element = Element::iana("informationElementUnits", 345, Kind::U16);
pub(super) const ELEMENT_FROM: Element =
    Element::iana("informationElementRangeBegin", 342, Kind::U64);
pub(super) const ELEMENT_TO: Element = Element::iana("informationElementRangeEnd", 343, Kind::U64);
pub(super) const ELEMENT_DESCRIPTION: Element =
    Element::iana("informationElementDescription", 340, Kind::Text);
pub(super) const ENTERPRISE: Element = Element::iana("privateEnterpriseNumber", 346, Kind::U32);

pub(super) const REVERSE_FLAGS: Element = FLAGS.reverse();
pub(super) const REVERSE_BYTES: Element = BYTES.reverse();
pub(super) const REVERSE_PACKETS: Element = PACKETS.reverse();

pub(super) const COMMUNITY_ID: Element = Element::own("trackerCommunityId", 101, Kind::Text);
pub(super) const CONN_STATE: Element = Element::own("trackerConnState", 102, Kind::Text);
pub(super) const HISTORY: Element = Element::own("trackerHistory", 103, Kind::Text);
pub(super) const ORIG_STATE: Element = Element::own("trackerOrigState", 104, Kind::Text);
pub(super) const REPLY_STATE: Element = Element::own("trackerReplyState", 105, Kind::Text);
pub(super) const ORIG_ISN: Element = Element::own("trackerOrigIsn", 106, Kind::U32);
pub(super) const REPLY_ISN: Element = Element::own("trackerReplyIsn", 107, Kind::U32);
pub(super) const FACTS: Element = Element::own("trackerFacts", 108, Kind::U16);
pub(super) const RTT: Element = Element::own("trackerRttMicroseconds", 109, Kind::U32);
pub(super) const ORIG_STREAM: Element = Element::own("trackerOrigStreamOctets", 110, Kind::U64);
pub(super) const REPLY_STREAM: Element = Element::own("trackerReplyStreamOctets", 111, Kind::U64);
pub(super) const VIOLATIONS: Element = Element::own("trackerViolations", 112, Kind::U32);
pub(super) const BROKEN_RULES: Element = Element::own("trackerBrokenRules", 113, Kind::Text);
pub(super) const ZONE: Element = Element::own("trackerZone", 114, Kind::U16);
pub(super) const REASON: Element = Element::own("trackerEndReasonName", 115, Kind::Text);
pub(super) const RULE: Element = Element::own("trackerBrokenRule", 116, Kind::Text);
pub(super) const ACTION: Element = Element::own("trackerAction", 117, Kind::Text);
pub(super) const PAYLOAD: Element = Element::own("trackerPayloadOctets", 118, Kind::U32);
pub(super) const EXPECTED_LOW: Element = Element::own("trackerExpectedLow", 119, Kind::U32);
pub(super) const EXPECTED_HIGH: Element = Element::own("trackerExpectedHigh", 120, Kind::U32);
pub(super) const ACTUAL: Element = Element::own("trackerActual", 121, Kind::U32);
pub(super) const AGENT: Element = Element::own("trackerAgent", 122, Kind::Text);
pub(super) const BOOT: Element = Element::own("trackerBootId", 123, Kind::Text);

/// All own elements, by their numbers.
pub const OWN: [Element; 23] = [
    COMMUNITY_ID,
    CONN_STATE,
    HISTORY,
    ORIG_STATE,
    REPLY_STATE,
    ORIG_ISN,
    REPLY_ISN,
    FACTS,
    RTT,
    ORIG_STREAM,
    REPLY_STREAM,
    VIOLATIONS,
    BROKEN_RULES,
    ZONE,
    REASON,
    RULE,
    ACTION,
    PAYLOAD,
    EXPECTED_LOW,
    EXPECTED_HIGH,
    ACTUAL,
    AGENT,
    BOOT,
];
