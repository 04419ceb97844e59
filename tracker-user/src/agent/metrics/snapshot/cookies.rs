//! Metrics of SYN cookies.

use tracker_common::{
    counters::Tally,
    protect::{MAX_LISTENERS, Mode, Outcome},
};

use super::{Snapshot, Values, each};
use crate::{
    agent::metrics::{Telemetry, lock},
    kernel::{listeners::ListenerMaps, tables::Tables},
    model::{clock::monotonic_ns, error::Result, listener::is_on},
};

impl Telemetry {
    /// Adds what SYN cookies do, of the maps of protection where there are some.
    pub(super) fn add_cookies(
        &self,
        snapshot: &mut Snapshot,
        tables: &Tables,
        maps: Option<&ListenerMaps>,
    ) -> Result<()> {
        // Before the cookies are: one that is accepted meanwhile must not count as two flows.
        let by_syn = tables.tally(Tally::FlowsBySyn)?;
        let (mut modes, mut unprotected) = (Vec::new(), Vec::new());
        let mut places = Vec::new();
        if let Some(maps) = maps {
            let now_ns = monotonic_ns();
            for (at, listener) in maps.listeners()? {
                let is_on = is_on(&listener, &maps.state(listener.index)?, now_ns);
                modes.push((vec![("listener", at.to_string())], u64::from(is_on)));
                let is_off = listener.mode == Mode::Off as u8;
                unprotected.push((vec![("listener", at.to_string())], u64::from(is_off)));
            }
            // Those of places that have gone, too.
            places = (0..MAX_LISTENERS).map(|at| maps.outcomes(at)).collect::<Result<_>>()?;
        }
        let total = lock(&self.cookies).sum(places);
        // A cookie's flow begins with the SYN that the cookie stands for, and is among those.
        let by_syn = {
            let mut totals = lock(&self.totals);
            let without = by_syn.saturating_sub(total[Outcome::Accepted as usize]);
            totals.by_syn = totals.by_syn.max(without);
            totals.by_syn
        };
        let of = |outcome: Outcome| (outcome.name(), total[outcome as usize]);
        snapshot.add(
            "flows_created",
            "Flows by how they began: with a SYN or SYN,ACK, in their middle, or with a returned cookie",
            Values::Counter(each(
                "origin",
                [
                    ("syn", by_syn),
                    ("midstream", tables.tally(Tally::FlowsMidstream)?),
                    ("cookie", total[Outcome::Accepted as usize]),
                ],
            )),
        );
        snapshot.add(
            "syncookie_mode",
            "1 where SYNs to a protected listener are answered with cookies now",
            Values::Gauge(modes),
        );
        snapshot.add(
            "syncookie_unprotected",
            "1 where a listener that should be protected is left to the host, because protection would do harm",
            Values::Gauge(unprotected),
        );
        snapshot.add(
            "syncookies_sent",
            "SYNs answered with a cookie",
            Values::Counter(vec![(Vec::new(), total[Outcome::Sent as usize])]),
        );
        snapshot.add(
            "syncookies_repeated",
            "SYNs of clients that tried again, although they were answered",
            Values::Counter(vec![(Vec::new(), total[Outcome::Repeated as usize])]),
        );
        snapshot.add(
            "syncookies_received",
            "Cookies returned, by what was found of them",
            Values::Counter(each(
                "result",
                [
                    Outcome::Accepted,
                    Outcome::Forged,
                    Outcome::Expired,
                    Outcome::Replayed,
                    Outcome::NoKey,
                ]
                .map(of),
            )),
        );
        snapshot.add(
            "syncookies_handovers",
            "Connections of accepted cookies on their way to the listener",
            Values::Counter(each(
                "result",
                [
                    Outcome::HandedOver,
                    Outcome::HandoverFailed,
                    Outcome::TooEarly,
                    Outcome::Opened,
                    Outcome::HandedAgain,
                    Outcome::ResetAtOnce,
                ]
                .map(of),
            )),
        );
        snapshot.add(
            "syncookies_unsent",
            "SYNs to protected listeners that got no cookie, though cookies were due",
            Values::Counter(each("reason", [Outcome::LeftToHost, Outcome::Unanswered].map(of))),
        );
        Ok(())
    }
}
