//! The agent's part in protection while it runs: it tells the kernel programs which listeners there are and what they
//! would agree to, gives them keys, and tells users when cookies begin and end.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use tracker_common::{
    event::Event as Raw,
    protect::{Listener, ListenerState, MAX_LISTENERS, Mode, Place, Way, feature},
};

use super::{
    Options,
    announce::tell,
    firewall::obstacles,
    keys::Keeper,
    left_to_host::SourceKeeper,
    routes::RouteKeeper,
    sockets::{Listening, ListeningSocket, listening},
    synack_terms::{Share, SynAckTerms, Sysctls, mss},
    target::places,
    trial::{Counts, Fault, PAUSE_NS},
    way::{feasible, way},
};
use crate::{
    kernel::{
        attach::Interface,
        listeners::{KeyMap, LeftToHostMap, ListenerMaps, RouteMap},
        netlink::{Host, Netlink},
        protection::Prepared,
    },
    model::{
        clock::{Clock, monotonic_ns},
        error::{Context, Error, Result},
        event::{
            Event,
            parts::{CookieReason, CookieView},
        },
        listener::{is_on, socket_address, threshold},
        record::View,
    },
};

/// Said where keys rotate.
const ANOTHER_KEY: &str = "there is another key for cookies";

/// Looks after the protected listeners of one agent.
pub struct ListenerManager {
    options: Options,
    can_hand_over: bool,
    /// The interfaces that clients come from.
    interfaces: Vec<Interface>,
    share: Share,
    netlink: Netlink,
    maps: ListenerMaps,
    keys: Keeper,
    routes: RouteKeeper,
    left_to_host: SourceKeeper,
    known: BTreeMap<SocketAddr, Known>,
    /// What was wrong last, so that it is said once.
    trouble: Option<String>,
}

/// What is known of a place.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The kernel programs' entry for it.
    listener: Listener,
    /// Who listened there; `None` before that was asked.
    inodes: Option<Vec<u32>>,
    /// Since when cookies are sent, and until when, in nanoseconds since boot; `None` where they are not.
    on: Option<On>,
    /// What was counted when the trial began that shows whether protection works.
    before: Option<Counts>,
    /// Why the host is left alone with it for a while.
    pause: Option<Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    fault: Fault,
    until_ns: u64,
}

impl Known {
    /// Whether protection does harm there, by what was counted until `now_ns`.
    fn look_for_faults(&mut self, counts: Counts, is_shared: bool, now_ns: u64) {
        let before = *self.before.get_or_insert(counts);
        match self.pause {
            Some(pause) if now_ns < pause.until_ns => {}
            Some(_) => {
                self.pause = None;
                self.before = Some(counts);
            }
            None => {
                self.pause = Fault::between(&before, &counts)
                    // Where hosts share keys, another one may have got the cookies.
                    .filter(|fault| !is_shared || *fault != Fault::AnswersLost)
                    .map(|fault| Pause { fault, until_ns: now_ns + PAUSE_NS });
            }
        }
    }

    fn fault(&self) -> Option<Fault> {
        self.pause.map(|pause| pause.fault)
    }
}

#[derive(Clone, Copy, Debug)]
struct On {
    since_ns: u64,
    until_ns: u64,
}

/// The interfaces' and the host's state at one moment.
struct Situation {
    host: Host,
    sysctls: Sysctls,
    sockets: Vec<ListeningSocket>,
    /// The smallest MTU of the interfaces that clients come from.
    mtu: u32,
    /// Whether there are routes on which something else is offered.
    has_routes: bool,
}

impl ListenerManager {
    /// Takes over the maps that are pinned in `pins`: the keys and listeners that they hold are kept. `interfaces` are those that the
    /// programs are attached to.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(
        options: &Options,
        prepared: &Prepared,
        pins: &Path,
        interfaces: Vec<Interface>,
    ) -> Result<Self> {
        let maps =
            ListenerMaps::from_pins(pins)?.context("the kernel programs have no map LISTENERS")?;
        let known = maps
            .listeners()?
            .into_iter()
            .map(|(place, listener)| (place, Known { listener, ..Known::default() }))
            .collect();
        let map = KeyMap::from_pins(pins)?;
        let rotation_ns = u64::from(options.syn_cookies_rotate) * 1_000_000_000;
        let keys = match &options.cookie_keys {
            Some(path) => Keeper::shared(map, path)?,
            None => Keeper::new(map, rotation_ns, monotonic_ns())?,
        };
        Ok(Self {
            options: options.clone(),
            can_hand_over: prepared.assign.is_some(),
            interfaces,
            share: Share::of_this_kernel()?,
            netlink: Netlink::open()?,
            keys,
            routes: RouteKeeper::new(RouteMap::from_pins(pins)?)?,
            left_to_host: SourceKeeper::new(LeftToHostMap::from_pins(pins)?)?,
            maps,
            known,
            trouble: None,
        })
    }

    /// The programs are attached to these interfaces from now on.
    pub fn set_interfaces(&mut self, interfaces: Vec<Interface>) {
        if self.indexes()
            != interfaces.iter().map(|interface| interface.ifindex).collect::<Vec<_>>()
        {
            // Another way to the listeners, perhaps.
            for known in self.known.values_mut() {
                (known.before, known.pause) = (None, None);
            }
        }
        self.interfaces = interfaces;
    }

    fn indexes(&self) -> Vec<u32> {
        self.interfaces.iter().map(|interface| interface.ifindex).collect()
    }

    /// Reads the file of keys again, where there is one. What is wrong with it is logged, and changes nothing.
    pub fn reload_keys(&mut self) {
        match self.keys.reload() {
            Ok(true) => tracing::info!("{ANOTHER_KEY}"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!("SIGHUP: the keys of cookies stay what they were: {error:#}");
            }
        }
    }

    /// How many places are protected.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Once a second: looks at the host again, tells the kernel programs what has changed, and makes another key where it
    /// is time. What could not be done is logged once, and tried again.
    pub async fn look(&mut self) -> Vec<Event> {
        let result = match self.situation().await {
            Ok(situation) => self.update(&situation),
            Err(error) => Err(error),
        };
        let result = result.and_then(|events| {
            if self.keys.rotate(monotonic_ns())? {
                tracing::info!("{ANOTHER_KEY}");
            }
            Ok(events)
        });
        let (events, trouble) = match result {
            Ok(events) => (events, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        if self.trouble != trouble {
            match &trouble {
                Some(trouble) => tracing::error!("looking after protected listeners: {trouble}"),
                None => tracing::info!("protected listeners are looked after again"),
            }
            self.trouble = trouble;
        }
        events
    }

    /// As [`ListenerManager::look`], for the first time: what cannot be done then keeps the agent from starting.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn begin(&mut self) -> Result<Vec<Event>> {
        match obstacles(&self.options.protect) {
            Ok(obstacles) => {
                for obstacle in obstacles {
                    tracing::warn!("{obstacle}");
                }
            }
            Err(error) => tracing::warn!("{error:#}"),
        }
        let situation = self.situation().await?;
        self.update(&situation)
    }

    async fn situation(&mut self) -> Result<Situation> {
        let indexes = self.indexes();
        let host = self.netlink.host(&indexes).await?;
        let mtu = indexes.iter().filter_map(|index| Some(host.links.get(index)?.mtu)).min();
        // An interface that has gone away brings no SYN.
        let mtu = mtu.unwrap_or(1500);
        let has_routes = self.routes.look(&self.netlink, &host, mtu).await?;
        self.left_to_host.look(&self.netlink, &host, &self.interfaces).await?;
        let (sysctls, sockets) = (Sysctls::read()?, listening()?);
        Ok(Situation { host, sysctls, sockets, mtu, has_routes })
    }

    fn update(&mut self, situation: &Situation) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let clock = Clock::now();
        let meant = places(&self.options.protect, &situation.host.addresses).here;
        let gone: Vec<_> =
            self.known.keys().filter(|place| !meant.contains(place)).copied().collect();
        for place in gone {
            self.maps.remove(place)?;
            tracing::info!(
                listener = %place,
                "not protected any more: not asked for, or no address of this host now"
            );
            let Some(mut known) = self.known.remove(&place) else { continue };
            if known.on.take().is_some() {
                let state = self.maps.state(known.listener.index)?;
                events.push(ended(place, &known.listener, &state, &clock, clock.monotonic_ns()));
            }
        }
        let mut without_room = 0_usize;
        for place in meant {
            let mut known = match self.known.get(&place) {
                Some(known) => known.clone(),
                None => match self.free_index() {
                    Some(index) => self.newcomer(index)?,
                    None => {
                        without_room += 1;
                        continue;
                    }
                },
            };
            self.update_one(place, &mut known, situation, &clock, &mut events)?;
            self.known.insert(place, known);
        }
        if without_room > 0 {
            return Err(Error::text(format!(
                "{without_room} pairs of an address and a port are not protected, because {MAX_LISTENERS} are at most: \
                 name fewer with --protect"
            )));
        }
        Ok(events)
    }

    fn update_one(
        &mut self,
        place: SocketAddr,
        known: &mut Known,
        situation: &Situation,
        clock: &Clock,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let index = known.listener.index;
        let at = Listening::at(&situation.sockets, place);
        let mut state = self.maps.state(index)?;
        if known.inodes.as_ref().is_some_and(|inodes| *inodes != at.inodes)
            && state.refused.get() != 0
        {
            // Somebody else listens there now, whom the kernel may not refuse.
            self.maps.forget_state(index)?;
            state = ListenerState::default();
        }
        let (way, why) = way(self.can_hand_over, at.is_mptcp, state.refused.get() != 0);
        let now_ns = clock.monotonic_ns();
        let is_shared = self.options.cookie_keys.is_some();
        known.look_for_faults(self.maps.outcomes(index)?, is_shared, now_ns);
        let mut listener = self.listener(index, place, &at, way, situation);
        if known.pause.is_some() {
            listener.mode = Mode::Off as u8;
        }
        if listener != known.listener || known.inodes.is_none() {
            self.maps.set(place, &listener)?;
            let fault = known.fault();
            tell(
                place,
                &known.listener,
                &listener,
                known.inodes.is_none(),
                why,
                fault,
                situation.sysctls.syncookies,
            );
        }
        known.inodes = Some(at.inodes);
        known.listener = listener;

        match (is_on(&listener, &state, now_ns), known.on.take()) {
            (true, on) => {
                let is_always = listener.mode == Mode::Always as u8;
                let until_ns = if is_always { u64::MAX } else { state.cookies_until_ns.get() };
                known.on = Some(On { since_ns: on.map_or(now_ns, |on| on.since_ns), until_ns });
                if on.is_none() {
                    // In the other mode the kernel has said so before, if its report was not lost.
                    let reason = if is_always {
                        CookieReason::Always
                    } else {
                        CookieReason::of(state.half_open.get(), threshold(&listener, &state))
                    };
                    let view = CookieView::new(place, &listener, &state, Some(reason));
                    events.push(Event::cookie(view, now_ns, clock));
                }
            }
            (false, Some(on)) => {
                let reason = known.fault().map(Fault::reason);
                let view = CookieView::ended(place, &listener, &state, reason);
                events.push(Event::cookie(view, on.until_ns.min(now_ns), clock));
            }
            (false, None) => {}
        }
        Ok(())
    }

    fn listener(
        &self,
        index: u32,
        place: SocketAddr,
        at: &Listening,
        way: Way,
        situation: &Situation,
    ) -> Listener {
        let sysctls = &situation.sysctls;
        let offered = SynAckTerms::new(sysctls, at.buffer, self.share)
            .listener(mss(place.ip(), situation.mtu));
        let mode = feasible(self.options.syn_cookies.mode(), way, sysctls.syncookies);
        let mut others = 0;
        for (is, bit) in [
            (situation.has_routes, feature::ROUTES),
            (self.options.cookie_keys.is_some(), feature::SHARED_KEYS),
        ] {
            others |= if is { bit } else { 0 };
        }
        Listener {
            index,
            threshold: self.options.syn_cookies_at,
            hold_ns: u64::from(self.options.syn_cookies_hold) * 1_000_000_000,
            mode: mode as u8,
            way: way as u8,
            features: offered.features | others,
            ..offered
        }
    }

    /// An index that no place has: of those that were not given away yet, if there are some, so that counters of a place
    /// that has gone can still be read.
    fn free_index(&self) -> Option<u32> {
        let mut taken = [false; MAX_LISTENERS as usize];
        for known in self.known.values() {
            if let Some(taken) = taken.get_mut(known.listener.index as usize) {
                *taken = true;
            }
        }
        let after = taken.iter().rposition(|taken| *taken).map_or(0, |last| last + 1);
        let index = (after..taken.len()).chain(0..after).find(|index| !taken[*index])?;
        u32::try_from(index).ok()
    }

    /// A place that was not known; what another one with its index has left is cleared away.
    fn newcomer(&mut self, index: u32) -> Result<Known> {
        self.maps.forget_state(index)?;
        self.maps.forget_outcomes(index)?;
        Ok(Known { listener: Listener { index, ..Listener::default() }, ..Known::default() })
    }

    /// The kernel says that cookies began to be sent.
    #[must_use]
    pub fn began(&mut self, raw: &Raw, view: &View) -> Vec<Event> {
        let mut events = Vec::new();
        let place = socket_address(&Place {
            address: raw.key.addresses[0],
            port: raw.key.ports[0],
            ..Place::default()
        });
        let Some(known) = self.known.get_mut(&place) else { return events };
        let listener = known.listener;
        let state = match self.maps.state(listener.index) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!("a listener that cookies are sent for: {error:#}");
                return events;
            }
        };
        let until_ns = state.cookies_until_ns.get();
        match known.on {
            // Found out already, by looking.
            Some(on) if raw.time_ns <= on.since_ns => return events,
            // It ended and began again before anybody looked.
            Some(on) => {
                let ended_ns = on.until_ns.min(raw.time_ns);
                events.push(ended(place, &listener, &state, &view.clock, ended_ns));
            }
            None => {}
        }
        known.on = Some(On { since_ns: raw.time_ns, until_ns });
        let reason = CookieReason::of(raw.actual, raw.high);
        let mut cookie = CookieView::new(place, &listener, &state, Some(reason));
        (cookie.half_open, cookie.threshold) = (raw.actual, raw.high);
        let mut event = Event::cookie(cookie, raw.time_ns, &view.clock);
        event.interface = Some(view.interface_name(raw.slot));
        events.push(event);
        events
    }

    /// Ten times a second: whether cookies are not sent any more where they were.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn poll(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let clock = Clock::now();
        for (&place, known) in &mut self.known {
            let Some(on) = &mut known.on else { continue };
            let state = self.maps.state(known.listener.index)?;
            if is_on(&known.listener, &state, clock.monotonic_ns()) {
                on.until_ns = on.until_ns.max(state.cookies_until_ns.get());
                continue;
            }
            let at_ns = state.cookies_until_ns.get().min(clock.monotonic_ns());
            events.push(ended(place, &known.listener, &state, &clock, at_ns.max(on.since_ns)));
            known.on = None;
        }
        Ok(events)
    }
}

/// Cookies are not sent any more since `at_ns`.
fn ended(
    place: SocketAddr,
    listener: &Listener,
    state: &ListenerState,
    clock: &Clock,
    at_ns: u64,
) -> Event {
    Event::cookie(CookieView::new(place, listener, state, None), at_ns, clock)
}
