//! Cookies, made and checked a second time: by what the tracker's page says of them, with the standard library's SipHash-2-4.

// It is deprecated for tables; it is still the hash that its authors published.
#![allow(deprecated)]

use std::hash::{Hasher, SipHasher};

use tracker_common::{
    cookie::{Agreed, Cookie, Keys, Refused},
    packet::Packet,
    seq::Seq,
};

/// The model, with these keys.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The same that the tracker has.
    pub keys: &'a Keys,
}

/// A period has 2^35 nanoseconds.
const PERIOD: u64 = 1 << 35;

impl Model<'_> {
    /// The key of a period: the newest that is not newer.
    fn key(&self, period: u64) -> Option<[u64; 2]> {
        let period = period as u32;
        let begun = |since: u32| period.wrapping_sub(since) < 1 << 31;
        let known = self.keys.keys.iter().filter(|key| key.present != 0 && begun(key.since));
        // The first of two that are equally old.
        known.min_by_key(|key| period.wrapping_sub(key.since)).map(|key| key.key)
    }

    fn hash(
        key: [u64; 2],
        packet: &Packet,
        isn: u32,
        period: u64,
        agreed: u32,
        timestamps: bool,
    ) -> u64 {
        let (client, host) = (packet.from, packet.from.other());
        let addresses = packet.key.addresses;
        let from = if packet.key.is_ipv4() { 12 } else { 0 };
        let mut message = Vec::new();
        message.extend(&addresses[client.index()][from..]);
        message.extend(&addresses[host.index()][from..]);
        message.extend(packet.key.port(client).to_le_bytes());
        message.extend(packet.key.port(host).to_le_bytes());
        message.extend(isn.to_le_bytes());
        message.extend((period as u32).to_le_bytes());
        message.extend((agreed | u32::from(timestamps) << 9).to_le_bytes());
        let mut hasher = SipHasher::new_with_keys(key[0], key[1]);
        hasher.write(&message);
        hasher.finish()
    }

    fn ahead(&self, now_ns: u64) -> u32 {
        (((now_ns + self.keys.clock_ns) / 1_000_000) as u32)
            .wrapping_sub((now_ns / 1_000_000) as u32)
    }

    /// The cookie for a SYN.
    #[must_use]
    pub fn make(&self, syn: &Packet, agreed: Agreed, now_ns: u64) -> Option<Cookie> {
        let period = (now_ns + self.keys.clock_ns) / PERIOD;
        let bits = u32::from(agreed.mss)
            + u32::from(agreed.scale) * 8
            + u32::from(agreed.sack) * 128
            + u32::from(agreed.ecn) * 256;
        let hash =
            Self::hash(self.key(period)?, syn, syn.segment.seq.0, period, bits, agreed.timestamps);
        let isn = (hash as u32 & 0x001f_ffff) * 2048 + (period % 4) as u32 * 512 + bits;
        let timestamp_offset = ((hash >> 32) as u32).wrapping_add(self.ahead(now_ns));
        Some(Cookie { isn: Seq(isn), timestamp_offset })
    }

    /// The period that an acknowledgment's cookie says it was made in, and how many have passed since.
    fn period(&self, claimed: u32, now_ns: u64) -> Option<(u64, u64)> {
        let now = (now_ns + self.keys.clock_ns + self.keys.skew_ns) / PERIOD;
        let age = (0..4).find(|age| now.wrapping_sub(*age) % 4 == u64::from(claimed / 512 % 4))?;
        Some((now.wrapping_sub(age), age))
    }

    /// What a cookie that comes back is worth.
    ///
    /// # Errors
    ///
    /// Why nothing.
    pub fn check(
        &self,
        ack: &Packet,
        timestamps: bool,
        now_ns: u64,
    ) -> Result<(Agreed, Cookie), Refused> {
        let claimed = ack.segment.ack.0.wrapping_sub(1);
        let (period, age) = self.period(claimed, now_ns).ok_or(Refused::Forged)?;
        let key = self.key(period).ok_or(Refused::NoKey)?;
        let isn = ack.segment.seq.0.wrapping_sub(1);
        let hash = Self::hash(key, ack, isn, period, claimed % 512, timestamps);
        if hash as u32 & 0x001f_ffff != claimed / 2048 {
            return Err(Refused::Forged);
        }
        if age > 2 {
            return Err(Refused::Expired);
        }
        let bits = claimed % 512;
        let agreed = Agreed {
            mss: (bits % 8) as u8,
            scale: (bits / 8 % 16) as u8,
            sack: bits & 128 != 0,
            ecn: bits & 256 != 0,
            timestamps,
        };
        let timestamp_offset = ((hash >> 32) as u32).wrapping_add(self.ahead(now_ns));
        Ok((agreed, Cookie { isn: Seq(claimed), timestamp_offset }))
    }

    /// Whether the timestamp that a good cookie echoes can have been sent with it: in its period, and not later than now.
    #[must_use]
    pub fn was_sent(&self, ack: &Packet, timestamps: bool, echo: Seq, now_ns: u64) -> bool {
        let claimed = ack.segment.ack.0.wrapping_sub(1);
        let Some((period, _)) = self.period(claimed, now_ns) else { return false };
        let Some(key) = self.key(period) else { return false };
        let isn = ack.segment.seq.0.wrapping_sub(1);
        let hash = Self::hash(key, ack, isn, period, claimed % 512, timestamps);
        let sent_ms = echo.0.wrapping_sub((hash >> 32) as u32);
        let first = period * PERIOD / 1_000_000;
        let last = (period + 1) * PERIOD / 1_000_000;
        let now_ms = (now_ns + self.keys.clock_ns + self.keys.skew_ns) / 1_000_000;
        (first..=last.min(now_ms)).any(|ms| ms as u32 == sent_ms)
    }
}
