//! The parts of an event: its segment, states, violation, end, or the listener whose cookies begin or end.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracker_common::{
    event::Reason,
    flow::Flow,
    protect::{Listener, ListenerState},
    state::State,
};

use crate::model::listener::{threshold, way_name};

/// A segment.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct SegmentView {
    /// `in` or `out`.
    pub hook: String,
    /// `orig` or `reply`: which end of the flow sent it.
    pub direction: String,
    /// Sender's address.
    pub src: IpAddr,
    /// Receiver's address.
    pub dst: IpAddr,
    /// Sender's port.
    pub sport: u16,
    /// Receiver's port.
    pub dport: u16,
    /// Names of its flags, separated by commas.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Bytes of data.
    pub payload: u32,
    /// Window, not scaled.
    pub window: u16,
}

/// Numbers that a rule allows.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Range {
    /// The lowest.
    pub low: u32,
    /// The highest; below `low` where the range wraps past 2^32.
    pub high: u32,
}

/// Both ends' states.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct States {
    /// State of the end that opened the flow.
    pub orig: String,
    /// State of the other end.
    pub reply: String,
}

/// Both ends' states before and after a segment.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct StatesView {
    /// Before it.
    pub before: States,
    /// And after it.
    pub after: States,
}

/// A breach of a rule.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct ViolationView {
    /// The rule.
    pub name: String,
    /// What would have been right; absent for rules that are not about a number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<Range>,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actual: Option<u32>,
    /// States before the segment.
    pub before: States,
    /// And after it.
    pub after: States,
    /// What was done with the packet: `passed`, `dropped`, or `would_drop` where --drop-dry-run let it pass.
    pub action: String,
}

/// How a flow ended.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct EndView {
    /// `fin`, `rst`, `timeout`, `reopened` or `deleted`.
    pub reason: String,
    /// The state whose timeout was over; absent where nothing was waited for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout_state: Option<String>,
    /// From the first packet to the last one that renewed the flow, to 17 ms; exact in a replay.
    pub duration_ns: u64,
}

/// A listener for which SYN cookies begin or end.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct CookieView {
    /// Its address and port.
    pub listener: SocketAddr,
    /// `on` or `off`.
    pub mode: String,
    /// Why they begin; where they end, what does not work, if that is why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<CookieReason>,
    /// Half-open connections that it had when the host was last asked.
    pub half_open: u32,
    /// Half-open connections that trigger cookies, unless cookies are always sent.
    pub threshold: u32,
    /// `handover` or `kernel`: whose cookies they are.
    pub way: String,
}

/// Handshakes that come as in a flood (`--shed-above`): those that the SYN cache has no place for overwrite older ones.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct ShedView {
    /// `on` or `off`.
    pub mode: String,
    /// Handshakes that were overwritten: at `on` those of the last second, at `off` all since `on`.
    pub handshakes: u64,
    /// How many new ones a second are no flood, at one interface and CPU.
    pub above: u32,
}

/// Why SYN cookies begin or end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CookieReason {
    /// There are too many half-open connections.
    HalfOpen,
    /// Too many cookies were not returned.
    Unreturned,
    /// They are always sent.
    Always,
    /// They end, because answers get lost.
    AnswersLost,
    /// They end, because accepted connections do not get to the listener.
    NotDelivered,
    /// They end, because the host resets accepted connections.
    ResetAtOnce,
}

impl CookieReason {
    /// The one that the numbers of half-open connections tell.
    #[must_use]
    pub fn of(half_open: u32, threshold: u32) -> Self {
        if half_open >= threshold { Self::HalfOpen } else { Self::Unreturned }
    }

    /// Its name in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Unreturned => "unreturned",
            Self::AnswersLost => "answers_lost",
            Self::NotDelivered => "not_delivered",
            Self::ResetAtOnce => "reset_at_once",
            Self::Always => "always",
        }
    }
}

impl CookieView {
    /// That cookies end at a listener, with what does not work where that is why.
    #[must_use]
    pub fn ended(
        listener_at: SocketAddr,
        listener: &Listener,
        state: &ListenerState,
        reason: Option<CookieReason>,
    ) -> Self {
        let ended = Self::new(listener_at, listener, state, None);
        Self { reason, ..ended }
    }

    /// That cookies begin, where there is a reason to, and that they end otherwise.
    #[must_use]
    pub fn new(
        listener_at: SocketAddr,
        listener: &Listener,
        state: &ListenerState,
        reason: Option<CookieReason>,
    ) -> Self {
        Self {
            listener: listener_at,
            mode: if reason.is_some() { "on" } else { "off" }.to_owned(),
            reason,
            half_open: state.half_open.get(),
            threshold: threshold(listener, state),
            way: way_name(listener.way).unwrap_or("?").to_owned(),
        }
    }
}

impl EndView {
    /// The end that `reason` says, with the duration that the record has.
    #[must_use]
    pub fn new(flow: &Flow, reason: Reason, timeout_state: Option<State>) -> Self {
        let created = tracker_common::time::Tick::at(flow.created_ns());
        let ticks = flow.life().last_seen.0.wrapping_sub(created.0);
        Self {
            reason: reason.name().to_owned(),
            timeout_state: timeout_state.map(|state| state.name().to_owned()),
            duration_ns: tracker_common::time::Tick::ns(ticks),
        }
    }
}
