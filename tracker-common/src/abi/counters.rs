//! Every packet's fate, counted exactly.

use crate::{cell::U64, packet::Unparsed};

/// The hook that saw a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Hook {
    /// XDP: the packet arrived.
    Ingress = 0,
    /// tc egress: the packet leaves.
    Egress = 1,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// `in` or `out`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "in",
            Self::Egress => "out",
        }
    }

    /// The hook with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

macro_rules! fates {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What became of a packet, other than being passed on, which all of them are but those of SYN cookies and [`Fate::Dropped`].
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub enum Fate {
            $($(#[doc = $doc])* $name = $code,)*
        }

        impl Fate {
            /// Every fate.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in output and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

fates! {
    /// Its segment was credited to a flow.
    Tracked = 0, "tracked";
    /// An RST that belongs to no flow.
    NoFlow = 1, "no_flow";
    /// Its header alone is a violation; no flow was touched.
    Illegal = 2, "illegal";
    /// One of a new flow for which there was no memory, or whose handshake another CPU did not stop writing to.
    NotInserted = 3, "not_inserted";
    /// Forwarded, and counted where it arrived.
    CountedOnArrival = 4, "counted_on_arrival";
    /// See [`Unparsed::TruncatedEthernet`].
    TruncatedEthernet = 5, "truncated_ethernet";
    /// See [`Unparsed::TooManyVlanTags`].
    TooManyVlanTags = 6, "too_many_vlan_tags";
    /// See [`Unparsed::NotIp`].
    NotIp = 7, "not_ip";
    /// See [`Unparsed::TruncatedIp`].
    TruncatedIp = 8, "truncated_ip";
    /// See [`Unparsed::BadIpHeader`].
    BadIpHeader = 9, "bad_ip_header";
    /// See [`Unparsed::TooManyExtensionHeaders`].
    TooManyExtensionHeaders = 10, "too_many_extension_headers";
    /// See [`Unparsed::Encrypted`].
    Encrypted = 11, "encrypted";
    /// See [`Unparsed::NotTcp`].
    NotTcp = 12, "not_tcp";
    /// See [`Unparsed::LaterFragment`].
    LaterFragment = 13, "later_fragment";
    /// See [`Unparsed::SplitTcpHeader`].
    SplitTcpHeader = 14, "split_tcp_header";
    /// See [`Unparsed::TruncatedTcp`].
    TruncatedTcp = 15, "truncated_tcp";
    /// See [`Unparsed::BadTcpHeaderLength`].
    BadTcpHeaderLength = 16, "bad_tcp_header_length";
    /// A SYN that was answered with a cookie, and not passed on.
    CookieSent = 17, "cookie_sent";
    /// An acknowledgment that returned no valid cookie, or one whose connection another CPU was just opening. It was dropped.
    CookieRefused = 18, "cookie_refused";
    /// See [`Unparsed::BadIpv6Address`].
    BadIpv6Address = 19, "bad_ipv6_address";
    /// It broke a rule that packets are dropped for (`--drop`), and was dropped.
    Dropped = 20, "dropped";
}

impl Fate {
    /// Places in [`PacketCounters`]; more than there are fates.
    pub const SLOTS: usize = 32;
}

impl From<Unparsed> for Fate {
    #[inline(always)]
    fn from(reason: Unparsed) -> Self {
        match reason {
            Unparsed::TruncatedEthernet => Self::TruncatedEthernet,
            Unparsed::TooManyVlanTags => Self::TooManyVlanTags,
            Unparsed::NotIp => Self::NotIp,
            Unparsed::TruncatedIp => Self::TruncatedIp,
            Unparsed::BadIpHeader => Self::BadIpHeader,
            Unparsed::TooManyExtensionHeaders => Self::TooManyExtensionHeaders,
            Unparsed::Encrypted => Self::Encrypted,
            Unparsed::NotTcp => Self::NotTcp,
            Unparsed::LaterFragment => Self::LaterFragment,
            Unparsed::SplitTcpHeader => Self::SplitTcpHeader,
            Unparsed::TruncatedTcp => Self::TruncatedTcp,
            Unparsed::BadTcpHeaderLength => Self::BadTcpHeaderLength,
            Unparsed::BadIpv6Address => Self::BadIpv6Address,
        }
    }
}

/// Packets by fate, of one hook of one interface on one CPU.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct PacketCounters {
    /// Indexed by [`Fate`].
    pub packets: [U64; Fate::SLOTS],
}

macro_rules! tallies {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What happens to flows and reports, counted per CPU.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub enum Tally {
            $($(#[doc = $doc])* $name = $code,)*
        }

        impl Tally {
            /// Every tally.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

tallies! {
    /// Flows that began with a SYN or SYN,ACK.
    FlowsBySyn = 0, "flows_by_syn";
    /// Flows that were picked up in their middle.
    FlowsMidstream = 1, "flows_midstream";
    /// Flows that moved to the table of confirmed ones.
    FlowsConfirmed = 2, "flows_confirmed";
    /// Flows that found the table of confirmed ones full, and stayed where they may be evicted.
    TableFull = 3, "table_full";
    /// Half-open flows for which there was no memory.
    HalfOpenInsertFailed = 4, "half_open_insert_failed";
    /// Flows whose key a newer connection took over.
    FlowsReopened = 5, "flows_reopened";
    /// Reports that found the ring buffer full.
    ReportsLost = 6, "reports_lost";
    /// Flows that the agent removed when their time was over.
    FlowsExpired = 7, "flows_expired";
    /// Removals that came too late: the flow had changed since it was judged.
    RemovalsRefused = 8, "removals_refused";
    /// Flows that entered the half-open table.
    HalfOpenInserted = 9, "half_open_inserted";
    /// Those of the expired and the deleted flows that were in the half-open table.
    HalfOpenExpired = 10, "half_open_expired";
    /// Violations not reported because their flow had them before.
    ReportsBackedOff = 11, "reports_backed_off";
    /// Violations not reported because their source had too many.
    ReportsLimited = 12, "reports_limited";
    /// Flows that expired by the timeout of CLOSED. This tally and the next ones are in [`crate::state::State`]'s order.
    ExpiredClosed = 13, "expired_closed";
    /// Flows that expired by the timeout of LISTEN.
    ExpiredListen = 14, "expired_listen";
    /// Flows that expired by the timeout of SYN_SENT.
    ExpiredSynSent = 15, "expired_syn_sent";
    /// Flows that expired by the timeout of SYN_RECEIVED.
    ExpiredSynReceived = 16, "expired_syn_received";
    /// Flows that expired by the timeout of ESTABLISHED.
    ExpiredEstablished = 17, "expired_established";
    /// Flows that expired by the timeout of FIN_WAIT_1.
    ExpiredFinWait1 = 18, "expired_fin_wait_1";
    /// Flows that expired by the timeout of FIN_WAIT_2.
    ExpiredFinWait2 = 19, "expired_fin_wait_2";
    /// Flows that expired by the timeout of CLOSE_WAIT.
    ExpiredCloseWait = 20, "expired_close_wait";
    /// Flows that expired by the timeout of CLOSING.
    ExpiredClosing = 21, "expired_closing";
    /// Flows that expired by the timeout of LAST_ACK.
    ExpiredLastAck = 22, "expired_last_ack";
    /// Flows that expired by the timeout of TIME_WAIT.
    ExpiredTimeWait = 23, "expired_time_wait";
    /// Flows that somebody had deleted.
    FlowsDeleted = 24, "flows_deleted";
    /// Handshakes in the SYN cache, a second old or older, that were overwritten in a flood.
    HalfOpenShed = 25, "half_open_shed";
}

impl Tally {
    /// Expired flows by the code of the state whose timeout was over.
    pub const EXPIRED: u32 = Self::ExpiredClosed as u32;

    /// Places in the map of tallies; more than there are tallies.
    pub const SLOTS: u32 = 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_count_up_and_fit() {
        assert!(
            Fate::ALL.iter().enumerate().all(|(n, fate)| *fate as usize == n && n < Fate::SLOTS)
        );
        assert!(
            Tally::ALL
                .iter()
                .enumerate()
                .all(|(n, tally)| *tally as usize == n && n < Tally::SLOTS as usize)
        );
    }
}
