//! Random traffic between few ends: connections that open, talk and close as they should, the same gone wrong, and
//! noise. The same seed gives the same traffic.

use tracker_common::{
    config::{LiveConfig, TraceFilter},
    counters::Hook,
    key::{FlowKey, mapped},
    simulator::Host,
    sweep::Tier,
    violation::{Rule, Rules},
};
use tracker_tests::{
    random::Random,
    segment::flag::{ACK, FIN, PSH, RST, SYN, URG},
};

use crate::{
    frame::{Wrapping, write},
    step::{INTERFACES, Shot, Step, Wish},
};

/// Pairs of ends.
const TUPLES: u64 = 200;

/// Until so many steps are over, repeated reports become rarer. Later they do not: what the kernel remembers of them is
/// evicted when it is too much.
const BACKING_OFF: u64 = 6000;

/// Least bytes that a program can be run on: an Ethernet header.
const LEAST: usize = 14;

/// What fits into one buffer of the kernel's for egress.
const MOST: usize = 2500;

/// A segment before it is written down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    /// Sent by the client (0) or the server (1).
    pub(crate) from: usize,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) payload: u32,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// In fours.
    pub(crate) options: Vec<u8>,
}

/// Where both ends live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) v6: bool,
    ends: [([u8; 16], u16); 2],
}

impl Addresses {
    /// Those of the sender and of the receiver.
    pub(crate) fn of(&self, from: usize) -> (([u8; 16], u16), ([u8; 16], u16)) {
        (self.ends[from], self.ends[1 - from])
    }

    fn key(&self) -> FlowKey {
        let [(a, a_port), (b, b_port)] = &self.ends;
        let ends = ((a, a_port.to_be_bytes()), (b, b_port.to_be_bytes()));
        FlowKey::new(ends.0, ends.1, INTERFACES[0].zone).0
    }
}

/// One end of a connection, as far as it must know to say the right thing.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    isn: u32,
    /// Next number to send.
    next: u32,
    syn: bool,
    fin: bool,
    /// It has heard the peer's FIN.
    heard_fin: bool,
    timestamp: u32,
}

/// A pair of ends and their connection.
struct Tuple {
    addresses: Addresses,
    interface: usize,
    vlans: Vec<u16>,
    /// Hooks that see the client's and the server's segments.
    hooks: [Hook; 2],
    ends: [End; 2],
    open: bool,
    reset: bool,
    timestamps: bool,
    scale: Option<u8>,
    /// The server's segments pass elsewhere.
    one_sided: bool,
    /// It cannot stop closing.
    storms: bool,
    /// A segment that is under way while others overtake it.
    held: Option<Segment>,
}

/// The traffic.
pub(crate) struct Traffic {
    random: Random,
    tuples: Vec<Tuple>,
    now_ns: u64,
    steps: u64,
    /// A tombstone that waits to be deleted.
    entombed: Option<(FlowKey, Tier)>,
}

impl Traffic {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let tuples = (0..TUPLES).map(|n| Tuple::new(n, &mut random)).collect();
        Self { random, tuples, now_ns: 1_000_000_000_000, steps: 0, entombed: None }
    }

    fn shot(&mut self) -> Shot {
        self.pass_time();
        let random = &mut self.random;
        // A few are busy.
        let n = if random.percent(50) { random.below(TUPLES / 10) } else { random.below(TUPLES) };
        let tuple = &mut self.tuples[usize::try_from(n).unwrap_or(0)];
        if random.percent(2) {
            return noise(self.now_ns, random);
        }
        let mut segment = tuple.next(random);
        if random.percent(4) {
            // Overtaken by the next one.
            let held = tuple.held.replace(segment);
            segment = held.unwrap_or_else(|| tuple.next(random));
        } else if random.percent(30)
            && let Some(held) = tuple.held.take()
        {
            segment = held;
        }
        if random.percent(20) {
            spoil(&mut segment, random);
        }
        let late = if random.percent(1) { random.below(1 << 21) } else { 0 };
        tuple.send(&segment, self.now_ns - late, random)
    }

    fn pass_time(&mut self) {
        let random = &mut self.random;
        let most: u64 = match random.below(1000) {
            0 => 600_000_000_000,
            1..10 => 40_000_000_000,
            10..50 => 2_000_000_000,
            50..200 => 50_000_000,
            200..500 => 1_000_000,
            _ => 2000,
        };
        self.now_ns += 1 + random.below(most);
    }

    fn wish(&mut self) -> Wish {
        let random = &mut self.random;
        let n = usize::try_from(random.below(TUPLES)).unwrap_or(0);
        Wish {
            key: self.tuples[n].addresses.key(),
            tier: random.pick(&[Tier::Confirmed, Tier::HalfOpen]),
            stale: random.percent(20),
            state: u8::try_from(random.below(11)).unwrap_or(0),
            unconditional: random.percent(10),
        }
    }

    fn config(&mut self) -> LiveConfig {
        let every = Host::report_all();
        let random = &mut self.random;
        let mut config = every;
        if self.steps < BACKING_OFF {
            config.no_back_off = 0;
        }
        if self.steps < BACKING_OFF {
            return config;
        }
        if random.percent(40) {
            config.reported = Rules([random.next() & random.next(), random.next()]);
        } else if random.percent(20) {
            config.reported = Rules::reported_by_default();
        }
        if random.percent(30) {
            config.events = u32::try_from(random.below(64)).unwrap_or(0);
        }
        if random.percent(30) {
            config.source_interval_ns = 1 + random.below(100_000_000);
            config.source_burst_ns = config.source_interval_ns * (1 + random.below(8));
        }
        if random.percent(30) {
            config.dropped = Rules([random.next(), random.next()]);
            config.drop_mode = u32::try_from(random.below(3)).unwrap_or(0);
        }
        if random.percent(30) {
            let n = usize::try_from(random.below(TUPLES)).unwrap_or(0);
            let (address, port) = self.tuples[n].addresses.ends[1];
            let mask = [random.pick(&[0, 0xff]); 16];
            config.trace = TraceFilter {
                address: std::array::from_fn(|n| address[n] & mask[n]),
                mask,
                port: if random.percent(50) { port.to_be_bytes() } else { [0; 2] },
                reserved: [0; 6],
            };
        }
        config
    }
}

impl Iterator for Traffic {
    type Item = Step;

    /// It never ends.
    fn next(&mut self) -> Option<Step> {
        self.steps += 1;
        if self.steps == 1 {
            return Some(Step::Configure(LiveConfig { no_back_off: 0, ..Host::report_all() }));
        }
        if let Some((key, tier)) = self.entombed
            && self.random.percent(10)
        {
            self.entombed = None;
            return Some(Step::Bury(key, tier));
        }
        Some(match self.random.below(3000) {
            0 | 1 => Step::Configure(self.config()),
            2 => {
                let count = 1 + self.random.below(60);
                Step::Remove((0..count).map(|_| self.wish()).collect())
            }
            3..6 if self.entombed.is_none() => {
                let Wish { key, tier, .. } = self.wish();
                self.entombed = Some((key, tier));
                Step::Entomb(key, tier)
            }
            _ => Step::Packet(self.shot()),
        })
    }
}

impl Tuple {
    fn new(n: u64, random: &mut Random) -> Self {
        let v6 = random.percent(35);
        let mut address = |network: u8, hosts: u64| {
            let host = u8::try_from(1 + random.below(hosts)).unwrap_or(1);
            if v6 {
                [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, network, host]
            } else {
                mapped([10, 9, network, host])
            }
        };
        // Some talk to themselves, and in some the server's address is the lower one.
        let (client, server) = match n % 10 {
            0 => (address(1, 1), address(1, 1)),
            1..4 => (address(2, 8), address(1, 4)),
            _ => (address(1, 4), address(2, 8)),
        };
        let client_port = 40_000 + u16::try_from(n).unwrap_or(0);
        let ends = [(client, client_port), (server, random.pick(&[22, 80, 443]))];
        let vlans = random.pick(&[&[][..], &[], &[], &[0x8100], &[0x88a8, 0x8100]]).to_vec();
        let hooks = match random.below(10) {
            // A mirror port.
            0 => [Hook::Ingress; 2],
            1..4 => [Hook::Egress, Hook::Ingress],
            _ => [Hook::Ingress, Hook::Egress],
        };
        let mut tuple = Self {
            addresses: Addresses { v6, ends },
            interface: usize::from(random.percent(20)),
            vlans,
            hooks,
            ends: [End::default(); 2],
            open: false,
            reset: false,
            timestamps: false,
            scale: None,
            one_sided: n % 20 == 7,
            storms: n % 20 == 8,
            held: None,
        };
        tuple.renew(random);
        tuple
    }

    /// Another connection between the same ends. The client's number is sometimes beyond the old one, sometimes not.
    fn renew(&mut self, random: &mut Random) {
        let old = self.ends[0].next;
        self.ends = [End::default(); 2].map(|end| {
            let isn = small_or_any(random);
            End { isn, next: isn, timestamp: small_or_any(random), ..end }
        });
        if random.percent(60) {
            self.ends[0].isn = old.wrapping_add(u32::try_from(random.below(100_000)).unwrap_or(0));
        }
        self.ends[0].next = self.ends[0].isn;
        (self.open, self.reset) = (false, false);
        self.timestamps = random.percent(50);
        self.scale = random.percent(60).then(|| random.pick(&[0, 1, 7, 14, 15, 200]));
        if random.percent(6) {
            // Picked up in its middle.
            self.open = true;
            self.ends.iter_mut().for_each(|end| end.syn = true);
        }
    }

    /// What one of both ends might say now, and is seen.
    fn next(&mut self, random: &mut Random) -> Segment {
        loop {
            let segment = self.any_next(random);
            if !self.one_sided || segment.from == 0 {
                return segment;
            }
        }
    }

    fn any_next(&mut self, random: &mut Random) -> Segment {
        let [client, server] = self.ends;
        if self.storms && client.fin && self.open && random.percent(97) {
            return self.fin(0, random);
        }
        if self.reset {
            if self.storms && random.percent(97) {
                return self.segment(0, RST, random);
            }
            return self.after_reset(random);
        }
        if !client.syn && !server.syn {
            return match random.below(20) {
                0 => self.syn(1, random),
                1 => self.plain(random),
                _ => self.syn(0, random),
            };
        }
        if !self.open {
            return self.handshake(random);
        }
        if client.fin && server.fin && random.percent(30) {
            self.renew(random);
            return self.syn(0, random);
        }
        self.plain(random)
    }

    fn handshake(&mut self, random: &mut Random) -> Segment {
        let [client, server] = self.ends;
        if !server.syn {
            return match random.below(30) {
                0..2 => self.again(0, random),
                2 => {
                    // With another number.
                    self.ends[0].isn = small_or_any(random);
                    self.again(0, random)
                }
                3 | 4 => self.syn(1, random),
                5..7 => {
                    self.reset = true;
                    self.segment(1, RST | ACK, random)
                }
                7 => self.data(0, random),
                8 => self.segment(1, ACK, random),
                9 => self.segment(0, RST, random),
                _ => self.syn_ack(1, random),
            };
        }
        if !client.syn {
            return self.syn(0, random);
        }
        match random.below(30) {
            0 => self.syn_ack(0, random),
            1..3 => self.syn_ack(1, random),
            3 => {
                self.ends[1].isn = small_or_any(random);
                self.syn_ack(1, random)
            }
            4 => {
                self.reset = true;
                // In answer to a SYN,ACK that it did not want.
                let rst = self.segment(0, RST, random);
                Segment { seq: client.isn.wrapping_add(1), ..rst }
            }
            5 => self.again(0, random),
            6..8 => self.data(1, random),
            8 => self.renewed(random),
            9..13 => {
                self.open = true;
                self.data(0, random)
            }
            _ => {
                self.open = true;
                self.segment(0, ACK, random)
            }
        }
    }

    fn plain(&mut self, random: &mut Random) -> Segment {
        let from = usize::from(random.percent(45));
        match random.below(100) {
            0..40 => self.data(from, random),
            40..60 => self.segment(from, ACK, random),
            60..70 => self.fin(from, random),
            70..73 => {
                self.reset = true;
                self.segment(from, random.pick(&[RST, RST | ACK]), random)
            }
            73..80 => {
                // Again, or a keepalive.
                let segment = self.segment(from, ACK, random);
                let back = u32::try_from(1 + random.below(200)).unwrap_or(1);
                let payload = u32::try_from(random.below(300)).unwrap_or(0);
                Segment { seq: segment.seq.wrapping_sub(back), payload, ..segment }
            }
            80..84 => Segment {
                window: u16::try_from(random.below(3)).unwrap_or(0),
                ..self.segment(from, ACK, random)
            },
            84..87 => {
                // Something before it was lost to us.
                let lost = u32::try_from(random.below(3000)).unwrap_or(0);
                self.ends[from].next = self.ends[from].next.wrapping_add(lost);
                self.data(from, random)
            }
            87..90 => {
                // Old news.
                let segment = self.segment(from, ACK, random);
                let back = u32::try_from(random.below(500)).unwrap_or(0);
                Segment { ack: segment.ack.wrapping_sub(back), ..segment }
            }
            90 => self.again(from, random),
            91 => self.syn_ack(1, random),
            92 => self.renewed(random),
            93 | 94 => {
                let mut segment = self.segment(from, RST, random);
                segment.seq = segment.seq.wrapping_add(near(random));
                segment
            }
            _ => self.segment(from, ACK, random),
        }
    }

    fn after_reset(&mut self, random: &mut Random) -> Segment {
        let from = usize::from(random.percent(50));
        match random.below(10) {
            0..5 => self.renewed(random),
            5..7 => self.segment(from, ACK, random),
            7 => self.data(from, random),
            8 => self.fin(from, random),
            _ => self.segment(from, RST, random),
        }
    }

    fn renewed(&mut self, random: &mut Random) -> Segment {
        self.renew(random);
        self.syn(0, random)
    }

    fn syn(&mut self, from: usize, random: &mut Random) -> Segment {
        let payload = if random.percent(3) { 100 } else { 0 };
        let end = &mut self.ends[from];
        end.syn = true;
        end.next = end.isn.wrapping_add(1 + payload);
        let ecn = random.pick(&[0, 0, 0, 0xc0, 0x1c0]);
        let mut segment = self.segment(from, SYN | ecn, random);
        segment.seq = self.ends[from].isn;
        segment.ack = 0;
        segment.payload = payload;
        segment
    }

    fn syn_ack(&mut self, from: usize, random: &mut Random) -> Segment {
        let end = &mut self.ends[from];
        end.syn = true;
        end.next = end.isn.wrapping_add(1);
        let mut segment = self.segment(from, SYN | ACK, random);
        segment.seq = self.ends[from].isn;
        segment.ack = self.ends[1 - from].isn.wrapping_add(1);
        segment
    }

    /// Its SYN once more.
    fn again(&mut self, from: usize, random: &mut Random) -> Segment {
        Segment { seq: self.ends[from].isn, ..self.segment(from, SYN, random) }
    }

    fn data(&mut self, from: usize, random: &mut Random) -> Segment {
        let most = random.pick(&[10, 500, 500, 1460, 1460, 60_000]);
        let payload = u32::try_from(1 + random.below(most)).unwrap_or(1);
        let flags = ACK | if random.percent(50) { PSH } else { 0 };
        let segment = self.segment(from, flags, random);
        self.ends[from].next = self.ends[from].next.wrapping_add(payload);
        Segment { payload, ..segment }
    }

    fn fin(&mut self, from: usize, random: &mut Random) -> Segment {
        let mut segment = self.segment(from, FIN | ACK, random);
        if self.ends[from].fin {
            // Again.
            segment.seq = segment.seq.wrapping_sub(1);
            return segment;
        }
        if random.percent(20) {
            segment.payload = u32::try_from(1 + random.below(400)).unwrap_or(1);
        }
        self.ends[from].fin = true;
        self.ends[from].next = segment.seq.wrapping_add(segment.payload + 1);
        // Both may close at once.
        self.ends[1 - from].heard_fin = random.percent(80);
        segment
    }

    /// A segment without data at the place where `from` is.
    fn segment(&mut self, from: usize, flags: u16, random: &mut Random) -> Segment {
        let peer = self.ends[1 - from];
        let me = &mut self.ends[from];
        me.timestamp = me.timestamp.wrapping_add(u32::try_from(random.below(50)).unwrap_or(0));
        if peer.fin && !me.heard_fin {
            me.heard_fin = random.percent(50);
        }
        let behind = u32::from(peer.fin && !me.heard_fin);
        let (seq, ack, timestamp) = (me.next, peer.next.wrapping_sub(behind), me.timestamp);
        let options = if flags & SYN != 0 {
            self.syn_options(timestamp, random)
        } else if self.timestamps && flags & RST == 0 {
            timestamp_option(timestamp)
        } else {
            Vec::new()
        };
        Segment {
            from,
            flags,
            seq,
            ack: if flags & ACK == 0 { 0 } else { ack },
            payload: 0,
            window: random.pick(&[65_535, 65_535, 29_200, 500, 1000]),
            urgent: 0,
            options,
        }
    }

    fn syn_options(&self, timestamp: u32, random: &mut Random) -> Vec<u8> {
        let mut options = Vec::new();
        if random.percent(90) {
            options.extend([2, 4, 5, 0xb4]);
        }
        if random.percent(70) {
            options.extend([4, 2]);
        }
        if self.timestamps {
            options.extend([8, 10]);
            options.extend(timestamp.to_be_bytes());
            options.extend([0; 4]);
        }
        if let Some(scale) = self.scale {
            options.extend([1, 3, 3, scale]);
        }
        match random.below(30) {
            0 => options.extend([34, 2]),
            1 => options.extend([254, 4, 0xf9, 0x89]),
            2 => options.extend([254, 4, 1, 2]),
            _ => {}
        }
        options.resize(options.len().next_multiple_of(4), random.pick(&[0, 1]));
        options.truncate(40);
        options
    }

    fn send(&self, segment: &Segment, now_ns: u64, random: &mut Random) -> Shot {
        let hook = self.hooks[segment.from];
        let hook = if random.percent(3) { random.pick(&Hook::ALL) } else { hook };
        let interface = if random.percent(3) { 1 - self.interface } else { self.interface };
        let mut wrapping = Wrapping {
            raw: INTERFACES[interface].raw_ip != 0,
            vlans: self.vlans.clone(),
            ..Wrapping::default()
        };
        if random.percent(8) {
            bend(&mut wrapping, random);
        }
        // Sometimes the capture has all of it, sometimes the headers are all it has.
        let shown = if random.percent(50) { 0 } else { 1 << 11 };
        let mut addresses = self.addresses;
        if random.percent(1) {
            misdirect(&mut addresses, random);
        }
        let (frame, mut wire_len) = write(segment, &addresses, &wrapping, shown);
        let mut bytes = frame.bytes;
        if random.percent(5) {
            (bytes, wire_len) = mangle(bytes, wire_len, [frame.ip_at, frame.tcp_at], random);
        }
        shot(now_ns, hook, interface, bytes, wire_len)
    }
}

/// What the hook can be given.
fn shot(now_ns: u64, hook: Hook, interface: usize, mut bytes: Vec<u8>, wire_len: u32) -> Shot {
    if bytes.len() < LEAST {
        bytes.resize(LEAST, 0);
    }
    // A capture never holds more than there was.
    let wire_len = wire_len.max(u32::try_from(bytes.len()).unwrap_or(0));
    let whole = bytes.len() == wire_len as usize;
    // For egress the kernel wants a whole IP header as well, whatever it takes for one.
    let least = LEAST + if bytes[12..14] == [0x86, 0xdd] { 40 } else { 20 };
    let egress = (least..MOST).contains(&bytes.len()) && whole;
    let hook = if egress { hook } else { Hook::Ingress };
    Shot { now_ns, hook, interface, bytes, wire_len }
}

fn timestamp_option(timestamp: u32) -> Vec<u8> {
    let mut option = vec![1, 1, 8, 10];
    option.extend(timestamp.to_be_bytes());
    option.extend([0; 4]);
    option
}

/// Small numbers collide, and wrap when a little is taken away.
fn small_or_any(random: &mut Random) -> u32 {
    let any = u32::try_from(random.next() >> 32).unwrap_or(0);
    if random.percent(50) { any } else { any & 0x3ff }
}

/// A small distance, an edge of the arithmetic, or anything.
fn near(random: &mut Random) -> u32 {
    match random.below(10) {
        0..4 => u32::try_from(random.below(4)).unwrap_or(0),
        4..6 => u32::try_from(random.below(4)).unwrap_or(0).wrapping_neg(),
        6 => random.pick(&[1 << 31, (1 << 31) - 1, (1 << 31) + 1, 1 << 20, 1 << 30]),
        7 | 8 => u32::try_from(random.below(100_000)).unwrap_or(0),
        _ => u32::try_from(random.next() >> 32).unwrap_or(0),
    }
}

/// Makes a segment wrong, or almost right.
fn spoil(segment: &mut Segment, random: &mut Random) {
    for _ in 0..=random.below(2) {
        match random.below(12) {
            0 | 1 => segment.seq = segment.seq.wrapping_add(near(random)),
            2 | 3 => segment.ack = segment.ack.wrapping_add(near(random)),
            4 | 5 => segment.flags ^= 1 << random.below(9),
            6 => segment.flags = u16::try_from(random.below(512)).unwrap_or(0),
            7 => segment.from = 1 - segment.from,
            8 => segment.window = u16::try_from(random.below(65_536)).unwrap_or(0),
            9 => segment.payload = u32::try_from(random.below(3000)).unwrap_or(0),
            10 => {
                segment.flags |= URG;
                segment.urgent = u16::try_from(random.below(3)).unwrap_or(0);
            }
            _ => spoil_options(&mut segment.options, random),
        }
    }
}

fn spoil_options(options: &mut Vec<u8>, random: &mut Random) {
    if options.is_empty() || random.percent(30) {
        let len = usize::try_from(4 * (1 + random.below(10))).unwrap_or(4);
        *options = (0..len).map(|_| random.pick(&[0, 1, 2, 3, 4, 8, 10, 34, 254])).collect();
        return;
    }
    for _ in 0..=random.below(3) {
        let at = usize::try_from(random.below(options.len() as u64)).unwrap_or(0);
        options[at] = u8::try_from(random.below(256)).unwrap_or(0);
    }
}

/// Other wrappings than the usual ones.
fn bend(wrapping: &mut Wrapping, random: &mut Random) {
    match random.below(7) {
        0 => wrapping.ip_options = usize::try_from(4 * random.below(11)).unwrap_or(0),
        1 => wrapping.vlans.push(random.pick(&[0x8100, 0x88a8, 0x9100])),
        2 => wrapping.fragment = Some(0x2000),
        3 => wrapping.fragment = Some(u16::try_from(random.below(0x4000)).unwrap_or(0)),
        4 => wrapping.no_length = true,
        // So long that the TCP header lies in another buffer than the beginning.
        5 => wrapping.extensions = vec![(60, 255); usize::try_from(random.below(5)).unwrap_or(0)],
        _ => {
            let kinds = [0, 43, 44, 51, 60, 135, 139, 140, 50, 59, 17];
            let count = random.below(11);
            let mut header = || (random.pick(&kinds), random.pick(&[0, 0, 1, 2, 4]));
            wrapping.extensions = (0..count).map(|_| header()).collect();
        }
    }
}

/// To nobody in particular, from nobody, or to oneself.
fn misdirect(addresses: &mut Addresses, random: &mut Random) {
    match random.below(4) {
        0 => addresses.ends[usize::from(random.percent(50))].1 = 0,
        1 => addresses.ends[1] = addresses.ends[0],
        2 if addresses.v6 => addresses.ends[1].0 = [0xff; 16],
        2 => addresses.ends[1].0 = mapped([224, 0, 0, 1]),
        _ if addresses.v6 => addresses.ends[0].0 = mapped([1, 2, 3, 4]),
        _ => addresses.ends[1].0 = mapped([255; 4]),
    }
}

/// Breaks a frame.
fn mangle(
    mut bytes: Vec<u8>,
    wire_len: u32,
    parts: [usize; 2],
    random: &mut Random,
) -> (Vec<u8>, u32) {
    let [ip_at, tcp_at] = parts;
    let any = |random: &mut Random| u8::try_from(random.below(256)).unwrap_or(0);
    match random.below(8) {
        0 | 1 => {
            // Cut, on the wire or by the capture.
            let at = usize::try_from(random.below(bytes.len() as u64)).unwrap_or(0);
            bytes.truncate(at.max(LEAST));
            let cut = u32::try_from(bytes.len()).unwrap_or(0);
            return (bytes, if random.percent(50) { cut } else { wire_len });
        }
        2 => return (bytes, wire_len.saturating_add(near(random))),
        3 => {
            let at = usize::try_from(random.below(bytes.len() as u64)).unwrap_or(0);
            bytes[at] = any(random);
        }
        4 => {
            // The header's length, in the IP header or the TCP header.
            let at = random.pick(&[ip_at, tcp_at + 12]);
            bytes[at] = any(random);
        }
        5 => {
            let at = ip_at + random.pick(&[2, 3, 4, 5, 6]);
            bytes[at] = any(random);
        }
        6 => {
            // Padding.
            let most = bytes.len() + usize::try_from(random.below(30)).unwrap_or(0);
            bytes.resize(most, 0);
            let padded = u32::try_from(most).unwrap_or(0);
            return (bytes, wire_len.max(padded));
        }
        _ => bytes[ip_at..].iter_mut().step_by(7).for_each(|byte| *byte ^= any(random) & 1),
    }
    (bytes, wire_len)
}

/// Bytes, some of which begin like a frame.
fn noise(now_ns: u64, random: &mut Random) -> Shot {
    let len = usize::try_from(14 + random.below(120)).unwrap_or(14);
    let mut bytes: Vec<u8> =
        (0..len).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
    match random.below(4) {
        0 => bytes[12..14].copy_from_slice(&[8, 0]),
        1 => bytes[12..14].copy_from_slice(&[0x86, 0xdd]),
        2 if len > 40 => {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            bytes[16..18].copy_from_slice(&[0, u8::try_from(len - 14).unwrap_or(0)]);
            bytes[20..24].copy_from_slice(&[0, 0, 64, 6]);
        }
        _ => {}
    }
    let wire_len = u32::try_from(len).unwrap_or(0);
    shot(now_ns, random.pick(&Hook::ALL), usize::from(random.percent(30)), bytes, wire_len)
}

/// Every rule that traffic can break, and the passing of time.
pub(crate) fn breakable() -> impl Iterator<Item = Rule> {
    // Those are of many connections together, of checksums, which the programs do not look at, or of cookies, which ask
    // the host.
    let elsewhere = [Rule::SynFlood, Rule::PortScan, Rule::BadChecksum, Rule::CookieBad];
    Rule::ALL.iter().copied().filter(move |rule| !elsewhere.contains(rule))
}
