//! The SYN cache: handshakes that go as nearly all do, in little memory and without lists.
//!
//! A SYN that anybody may send is not worth a whole record ([`crate::flow::HalfOpen`]). What a usual SYN and a usual SYN,ACK say
//! fits one cache line ([`CachedHandshake`]), from which the record is made when it is needed (Lemon, "Resisting SYN flood DoS attacks with
//! a SYN cache", 2002). A set ([`CacheSet`]) holds eight; where it is full, the oldest is overwritten.
//!
//! Each handshake of a set has a word: a part of the key's hash, when it was last seen, a version, and a lock. Whoever writes takes the
//! lock by compare-and-exchange, and gives it back with another version; whoever only reads reads the word before and after. A lock
//! is held for some hundred nanoseconds, never longer than one program runs.

mod handshake;
mod rate;

use self::handshake::{IPV6, addresses, names, together};
pub use self::{
    handshake::{CachedAddresses, CachedHandshake, UsualOpening},
    rate::NewRate,
};
use crate::{
    cell::U64,
    forget::{VerifierBarrier, opaque},
    key::FlowKey,
    platform::siphash::SipHash,
    time::Tick,
};

/// Handshakes of a set.
pub const WAYS: usize = 8;

/// Where keys are, and whether the cache is used: the one entry of the `SYN_CACHE_SETTINGS` map.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct CacheSettings {
    /// Key of the hash: random, so that nobody can choose keys that meet in one set. Zeros: the cache is not used.
    pub key: [u64; 2],
    /// Number of the last set; there is a power of two of them.
    pub last_set: u64,
}

/// Where a key's handshake is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CachePlace {
    /// Number of its set.
    pub set: u32,
    /// Tells it from others of the set, in [`TAG_BITS`] bits; never 0.
    pub tag: u64,
}

impl CacheSettings {
    /// Where this key is; `None` where the cache is not used.
    #[inline(always)]
    #[must_use]
    pub fn place(&self, key: &FlowKey) -> Option<CachePlace> {
        if self.key[0] | self.key[1] == 0 {
            return None;
        }
        let mut hash = SipHash::<1, 3>::new(&self.key);
        let (addresses, names) = (addresses(key), names(key));
        let len = if names & IPV6 == 0 {
            hash.absorb(together(&addresses));
            16
        } else {
            for word in addresses {
                hash.absorb(word);
            }
            40
        };
        hash.absorb(names);
        let hash = hash.finish(len);
        #[allow(clippy::cast_possible_truncation)] // masked
        let set = (hash & self.last_set) as u32;
        Some(CachePlace { set, tag: hash >> (64 - TAG_BITS) | 1 })
    }

    /// Handshakes that so many sets hold.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // eight
    pub const fn places(sets: u32) -> u32 {
        sets.saturating_mul(WAYS as u32)
    }

    /// Sets for so many handshakes at least.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // eight
    pub const fn sets(handshakes: u32) -> u32 {
        let sets = handshakes.div_ceil(WAYS as u32);
        if sets > 1 << 24 { 1 << 24 } else { sets.next_power_of_two() }
    }
}

/// Bits of a tag.
const TAG_BITS: u32 = 40;

const LOCKED: u64 = 1;
const VERSION_SHIFT: u32 = 1;
const VERSION_MASK: u64 = 0x7f;
const TICK_SHIFT: u32 = 8;
const TICK_MASK: u64 = 0xffff;
const TAG_SHIFT: u32 = 24;

/// Where a full set's oldest handshake is at least so old, it stays, and the new one gets a whole record, unless handshakes come as in
/// a flood ([`NewRate`]).
pub const SPARED_NS: u64 = 1_000_000_000;

/// How often a lock is tried in one go. Who holds it has less than a microsecond's work, but its CPU may be interrupted, or stopped
/// by a hypervisor: in the kernel, whoever finds it busy goes on trying.
const TRIES: u32 = 4;

/// How often a handshake is read that somebody may write to.
#[cfg(not(target_arch = "bpf"))]
const READS: u32 = 256;

/// Up to eight handshakes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)
)]
pub struct CacheSet {
    words: [U64; WAYS],
    handshakes: [CachedHandshake; WAYS],
}

/// A place in a set that nobody else writes to.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Locked {
    /// Which of the set's.
    way: usize,
    /// Its word before.
    before: u64,
    /// Its word now.
    now: u64,
}

/// What came of looking for a handshake.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// It is there, and locked.
    Locked(Locked),
    /// There is none.
    Absent,
    /// Another CPU writes to it, and goes on to.
    Busy,
}

/// What came of taking a place for a new handshake. Not an enum with a place in it: for what is not there the compiler reads a register that
/// nothing was written to, and the verifier refuses that.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Whether there is a place.
    pub outcome: TakeOutcome,
    /// The place, where there is one: it is locked, and free or worth overwriting.
    pub place: Locked,
}

/// Whether there is a place for a new handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum TakeOutcome {
    /// There is.
    Place,
    /// There is that of a handshake that would have stayed, if fewer came.
    Shed,
    /// The set is full of what is not to be overwritten.
    Full,
    /// Another CPU has just taken it, or one for the same key.
    Twice,
}

impl Taken {
    #[inline(always)]
    const fn nothing(outcome: TakeOutcome) -> Self {
        Self { outcome, place: Locked { way: 0, before: 0, now: 0 } }
    }
}

impl CacheSet {
    /// Looks for the handshake with this tag, and locks it.
    #[inline(always)]
    pub fn lock<F: VerifierBarrier + ?Sized>(&self, f: &F, tag: u64) -> Found {
        let way = self.find(f, tag);
        if way == WAYS {
            return Found::Absent;
        }
        let word = self.word(way);
        for _ in 0..TRIES {
            let before = word.get();
            if before >> TAG_SHIFT != tag {
                return Found::Absent;
            }
            if before & LOCKED == 0 && word.compare_exchange(before, before | LOCKED) {
                return Found::Locked(Locked { way, before, now: before | LOCKED });
            }
        }
        Found::Busy
    }

    /// A place for a handshake with this tag, which begins at `now_ns`: a free one, or that of the oldest. A full set of handshakes
    /// that are all as old as [`SPARED_NS`] stays as it is, unless older ones are to be `shed`.
    #[inline(always)]
    pub fn take<F: VerifierBarrier + ?Sized>(
        &self,
        f: &F,
        tag: u64,
        now_ns: u64,
        shed: bool,
    ) -> Taken {
        let tick = u64::from(Tick::at(now_ns).0);
        // Age and place in one number, so that the oldest is the largest. 0 where all are locked.
        let mut best = 0;
        for (n, word) in (0..).zip(&self.words) {
            let age = age(word.get(), tick);
            let this = if age == BUSY { 0 } else { age << 4 | 8 | n };
            best = f.forget(if this > best { this } else { best });
        }
        let oldest = best >> 4;
        #[allow(clippy::cast_possible_truncation)] // masked
        let way = opaque(best as usize) & (WAYS - 1);
        let is_spared = (SPARED_NS >> Tick::SHIFT..FREE).contains(&oldest);
        if best == 0 || is_spared && !shed {
            return Taken::nothing(TakeOutcome::Full);
        }
        let word = self.word(way);
        let before = word.get();
        let now = tag << TAG_SHIFT | next_version(before) | LOCKED;
        // Another CPU may have written there since. Copies of one SYN choose the same place.
        let is_same = age(before, tick) == oldest && before >> TAG_SHIFT != tag;
        if !is_same || !word.compare_exchange(before, now) {
            return Taken::nothing(TakeOutcome::Twice);
        }
        let locked = Locked { way, before, now };
        // Both that take a place for one key see the other's, or one does.
        let mut same = 0;
        for word in &self.words {
            same = f.forget(same + u32::from(word.get() >> TAG_SHIFT == tag));
        }
        if same > 1 {
            self.unlock(locked);
            return Taken::nothing(TakeOutcome::Twice);
        }
        let outcome = if is_spared { TakeOutcome::Shed } else { TakeOutcome::Place };
        Taken { outcome, place: locked }
    }

    /// Gives a place back as it was.
    #[inline(always)]
    pub fn unlock(&self, locked: Locked) {
        self.leave(locked, locked.before);
    }

    /// Gives a place back with a handshake that was last seen at `now_ns`.
    #[inline(always)]
    pub fn publish(&self, locked: Locked, now_ns: u64) {
        let tick = (u64::from(Tick::at(now_ns).0) & TICK_MASK) << TICK_SHIFT;
        let tag = locked.now >> TAG_SHIFT << TAG_SHIFT;
        self.leave(locked, tag | tick | next_version(locked.now));
    }

    /// Gives a place back empty.
    #[inline(always)]
    pub fn free(&self, locked: Locked) {
        self.leave(locked, next_version(locked.now));
    }

    /// Writes the word of a place that is locked, after what was written there.
    #[inline(always)]
    fn leave(&self, locked: Locked, word: u64) {
        let _ = self.word(locked.way).compare_exchange(locked.now, word);
    }

    /// What is at a place.
    #[inline(always)]
    #[must_use]
    pub fn handshake(&self, locked: &Locked) -> &CachedHandshake {
        &self.handshakes[opaque(locked.way) & (WAYS - 1)]
    }

    /// Forgets the handshake with this tag. Nobody else may write to the set meanwhile.
    #[cfg(not(target_arch = "bpf"))]
    pub fn forget(&self, tag: u64) {
        if let Found::Locked(locked) = self.lock(&[0u8; 0][..], tag) {
            self.free(locked);
        }
    }

    /// The handshakes of the set number `set`, as they are now, with what of their addresses is elsewhere, by `beside`. `again` is the
    /// set itself; or this is a copy of it, and `again` one that was made later, after what `beside` has: what has changed
    /// between the two is left out.
    #[cfg(not(target_arch = "bpf"))]
    pub fn each<'a>(
        &self,
        again: &Self,
        set: u32,
        beside: impl Fn(u32) -> Option<&'a CachedAddresses>,
        mut visit: impl FnMut(&FlowKey, &CachedHandshake),
    ) {
        use core::sync::atomic::{Ordering, fence};

        for (n, (word, handshake)) in (0..).zip(self.words.iter().zip(&self.handshakes)) {
            for _ in 0..READS {
                let before = word.get();
                if before >> TAG_SHIFT == 0 {
                    break;
                }
                if before & LOCKED != 0 {
                    continue;
                }
                fence(Ordering::Acquire);
                let copy = handshake.clone();
                let addresses = beside(index(set, n)).cloned().unwrap_or_default();
                fence(Ordering::Acquire);
                if again.word(n as usize).get() == before {
                    visit(&copy.key(&addresses), &copy);
                    break;
                }
            }
        }
    }

    #[inline(always)]
    fn word(&self, way: usize) -> &U64 {
        &self.words[opaque(way) & (WAYS - 1)]
    }

    /// Which of the set's has this tag; [`WAYS`] for none.
    #[inline(always)]
    fn find<F: VerifierBarrier + ?Sized>(&self, f: &F, tag: u64) -> usize {
        let mut found = WAYS;
        for (n, word) in self.words.iter().enumerate() {
            let way = if word.get() >> TAG_SHIFT == tag { n } else { found };
            found = f.forget(way);
        }
        found
    }
}

impl Locked {
    /// Where the rest of an IPv6 handshake's addresses is, in a set with this number.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // below eight
    pub fn index(&self, set: u32) -> u32 {
        index(set, self.way as u32)
    }
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // eight
const fn index(set: u32, way: u32) -> u32 {
    set * WAYS as u32 + way
}

/// More than any age: the place is free.
const FREE: u64 = TICK_MASK + 1;
/// More than that: it is locked.
const BUSY: u64 = FREE + 1;

/// How many ticks before `tick` the handshake of this word was seen, or [`FREE`] or [`BUSY`].
#[inline(always)]
const fn age(word: u64, tick: u64) -> u64 {
    if word & LOCKED != 0 {
        BUSY
    } else if word >> TAG_SHIFT == 0 {
        FREE
    } else {
        tick.wrapping_sub(word >> TICK_SHIFT) & TICK_MASK
    }
}

#[inline(always)]
const fn next_version(word: u64) -> u64 {
    (((word >> VERSION_SHIFT) + 1) & VERSION_MASK) << VERSION_SHIFT
}
