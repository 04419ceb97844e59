//! What happens to both machines.

use std::fmt;

use tracker_common::{
    config::{InterfaceConfig, LiveConfig},
    counters::Hook,
    key::FlowKey,
    packet::{Packet, Parsed, Unparsed, parse},
    simulator::Captured,
    sweep::Tier,
};

/// Two interfaces of one zone: one with Ethernet frames, one whose frames start with the IP header.
pub(crate) const INTERFACES: [InterfaceConfig; 2] = [
    InterfaceConfig { slot: 3, zone: 7, raw_ip: 0, replay: 1, shared: 0, drops: 1, reserved: 0 },
    InterfaceConfig { slot: 5, zone: 7, raw_ip: 1, replay: 1, shared: 0, drops: 0, reserved: 0 },
];

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A packet passes.
    Packet(Shot),
    /// Something else is to be reported from now on.
    Configure(LiveConfig),
    /// Flows are swept.
    Remove(Vec<Wish>),
    /// A record becomes a tombstone, as in the moment before a sweep deletes it.
    Entomb(FlowKey, Tier),
    /// And the sweep goes on.
    Bury(FlowKey, Tier),
}

/// A packet.
#[derive(Clone)]
pub(crate) struct Shot {
    pub(crate) now_ns: u64,
    pub(crate) hook: Hook,
    /// Which of [`INTERFACES`].
    pub(crate) interface: usize,
    /// What there is of its frame.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of the whole frame.
    pub(crate) wire_len: u32,
}

/// A flow to be swept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) key: FlowKey,
    pub(crate) tier: Tier,
    /// It has changed since it was judged.
    pub(crate) stale: bool,
    /// Code of the state whose timeout is over.
    pub(crate) state: u8,
    /// It goes all the same.
    pub(crate) unconditional: bool,
}

impl Shot {
    /// As the host's parser takes it.
    pub(crate) fn captured(&self) -> Captured<'_> {
        Captured { bytes: &self.bytes, wire_len: self.wire_len as usize }
    }

    /// What it says; also where its header's length is wrong.
    pub(crate) fn packet(&self) -> Result<Packet, Unparsed> {
        let mut parsed = Parsed::default();
        let interface = INTERFACES[self.interface];
        match parse(&self.captured(), interface.link(), interface.zone, &mut parsed) {
            Ok(()) | Err(Unparsed::BadTcpHeaderLength) => Ok(parsed.packet),
            Err(reason) => Err(reason),
        }
    }
}

impl Step {
    /// Whether it can matter to the flow of `key`.
    pub(crate) fn is_about(&self, key: &FlowKey) -> bool {
        match self {
            Self::Packet(shot) => shot.packet().is_ok_and(|packet| packet.key == *key),
            Self::Configure(_) => true,
            Self::Remove(wishes) => wishes.iter().any(|wish| wish.key == *key),
            Self::Entomb(buried, _) | Self::Bury(buried, _) => buried == key,
        }
    }
}

impl fmt::Debug for Shot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.now_ns, self.hook.name(), INTERFACES[self.interface].slot)?;
        match self.packet() {
            Ok(Packet { key, from, segment: s }) => {
                let (source, destination) = (key.port(from), key.port(from.other()));
                write!(
                    f,
                    " {source}>{destination} {} seq={} ack={} len={} win={}",
                    s.flags, s.seq.0, s.ack.0, s.payload, s.window
                )?;
                if s.has_timestamp {
                    write!(f, " ts={}", s.timestamp.0)?;
                }
                if s.fragment {
                    f.write_str(" fragment")?;
                }
            }
            Err(reason) => write!(f, " {reason:?}")?,
        }
        write!(f, " wire_len={} ", self.wire_len)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
