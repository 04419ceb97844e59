//! Subscriptions: which events each client asked for, and which the kernel must therefore report.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tracker_common::{config::TraceFilter, event::Kind};

use crate::model::{event::Event, scope::Scope};

/// An event as it is sent, with what subscriptions choose by.
#[derive(Clone)]
pub(super) struct EventLine {
    pub(super) kind: Option<Kind>,
    /// Both ends of the flow, or of the segment where there is no flow.
    pub(super) ends: Option<[SocketAddr; 2]>,
    pub(super) json: Bytes,
}

/// The number of the agent's own subscription, which is the first.
const OWN_NUMBER: u64 = 0;

/// All subscriptions, and what is called when they change.
pub(super) struct SharedSubscriptions {
    subscriptions: Mutex<Subscriptions>,
    changed: Box<dyn Fn(u32, TraceFilter) + Send + Sync>,
}

#[derive(Default)]
struct Subscriptions {
    next: u64,
    by_number: BTreeMap<u64, Subscription>,
}

/// What one client, or the agent itself, subscribes to.
#[derive(Clone)]
pub(super) struct Subscription {
    pub(super) kinds: Vec<Kind>,
    pub(super) scope: Scope,
}

impl Subscription {
    fn own(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), scope: Scope::default() }
    }

    fn is_for(&self, line: &EventLine) -> bool {
        line.kind.is_none_or(|kind| self.kinds.contains(&kind))
            && line.ends.is_none_or(|ends| self.scope.contains(ends))
    }

    /// Adds a line, if it is wanted.
    pub(super) fn add_to(&self, lines: &mut Vec<u8>, line: &EventLine) {
        if self.is_for(line) {
            lines.extend_from_slice(&line.json);
        }
    }
}

impl SharedSubscriptions {
    pub(super) fn new(
        own: &[Kind],
        changed: impl Fn(u32, TraceFilter) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let shared = Self { subscriptions: Mutex::default(), changed: Box::new(changed) };
        shared.change(|subscriptions| subscriptions.add(Subscription::own(own)));
        Arc::new(shared)
    }

    pub(super) fn set_own(&self, own: &[Kind]) {
        self.change(|subscriptions| {
            subscriptions.by_number.insert(OWN_NUMBER, Subscription::own(own))
        });
    }

    /// Adds a subscription, which ends when the guard is dropped.
    pub(super) fn subscribe(self: &Arc<Self>, subscription: Subscription) -> SubscriptionGuard {
        let number = self.change(|subscriptions| subscriptions.add(subscription));
        SubscriptionGuard { subscriptions: Arc::clone(self), number }
    }

    fn change<T>(&self, by: impl FnOnce(&mut Subscriptions) -> T) -> T {
        let mut subscriptions =
            self.subscriptions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = by(&mut subscriptions);
        let (events, trace) = subscriptions.union();
        (self.changed)(events, trace);
        result
    }
}

impl Subscriptions {
    fn add(&mut self, subscription: Subscription) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, subscription);
        number
    }

    /// The kinds that anybody wants, as a set of [`Kind::bit`]s, and whose segments.
    fn union(&self) -> (u32, TraceFilter) {
        let subscriptions = || self.by_number.values();
        let events = subscriptions()
            .flat_map(|subscription| &subscription.kinds)
            .fold(0, |events, kind| events | kind.bit());
        let scope = subscriptions()
            .filter(|subscription| subscription.kinds.contains(&Kind::Segment))
            .map(|subscription| subscription.scope)
            .reduce(|one, other| one.union(&other));
        (events, scope.unwrap_or_default().trace_filter())
    }
}

/// Removes its subscription when dropped.
pub(super) struct SubscriptionGuard {
    subscriptions: Arc<SharedSubscriptions>,
    number: u64,
}

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        self.subscriptions.change(|subscriptions| subscriptions.by_number.remove(&self.number));
    }
}

pub(super) fn ends(event: &Event) -> Option<[SocketAddr; 2]> {
    if let Some(flow) = &event.flow {
        return Some([(flow.src, flow.sport).into(), (flow.dst, flow.dport).into()]);
    }
    let segment = event.segment.as_ref()?;
    Some([(segment.src, segment.sport).into(), (segment.dst, segment.dport).into()])
}

pub(super) fn to_line(event: &Event) -> serde_json::Result<Bytes> {
    let mut json = serde_json::to_vec(event)?;
    json.push(b'\n');
    Ok(json.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(kinds: &[Kind], port: Option<u16>) -> Subscription {
        Subscription { kinds: kinds.to_vec(), scope: Scope { address: None, port } }
    }

    fn port(trace: TraceFilter) -> u16 {
        u16::from_be_bytes(trace.port)
    }

    #[test]
    fn the_kernel_is_asked_for_what_anybody_wants() {
        const SEGMENT: u32 = Kind::Segment.bit();
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(subscription(&[Kind::New], None));
        assert_eq!(subscriptions.union(), (Kind::New.bit(), TraceFilter::default()));
        // Who does not trace widens nothing.
        let one = subscriptions.add(subscription(&[Kind::Segment], Some(80)));
        let (events, trace) = subscriptions.union();
        assert_eq!((events, port(trace)), (Kind::New.bit() | SEGMENT, 80));
        let other = subscriptions.add(subscription(&[Kind::Segment, Kind::Destroy], Some(443)));
        assert_eq!(subscriptions.union().1, TraceFilter::default());
        subscriptions.by_number.remove(&one);
        assert_eq!(port(subscriptions.union().1), 443);
        subscriptions.by_number.remove(&other);
        assert_eq!(subscriptions.union(), (Kind::New.bit(), TraceFilter::default()));
    }
}
