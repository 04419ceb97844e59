//! Integers inside a map's value, which programs on other CPUs write at the same time.
//!
//! On the host they are `core::sync::atomic` types. For BPF, `core` has 64-bit loads and stores only, and LLVM's
//! lowering of the others is not dependable from Rust, so the read-modify-write instructions are written out here and
//! nowhere else. Every `get` and `set` is one naturally aligned access, which the kernel never tears; nothing else is
//! ordered (the kernel's `READ_ONCE` and `WRITE_ONCE`), except by [`U64::compare_exchange`] and
//! [`U32::compare_exchange`], which are full barriers.

use core::fmt;

macro_rules! cell {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $int:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Default)]
        #[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
        pub struct $name(
            #[cfg(not(target_arch = "bpf"))] core::sync::atomic::$atomic,
            #[cfg(target_arch = "bpf")] core::cell::UnsafeCell<$int>,
        );

        impl $name {
            /// A cell that holds `value`.
            #[must_use]
            pub const fn new(value: $int) -> Self {
                #[cfg(not(target_arch = "bpf"))]
                return Self(core::sync::atomic::$atomic::new(value));
                #[cfg(target_arch = "bpf")]
                return Self(core::cell::UnsafeCell::new(value));
            }

            /// The value now.
            #[inline(always)]
            #[must_use]
            pub fn get(&self) -> $int {
                #[cfg(not(target_arch = "bpf"))]
                return self.0.load(core::sync::atomic::Ordering::Relaxed);
                // SAFETY: the reference is valid, and one aligned access is not torn.
                #[cfg(target_arch = "bpf")]
                return unsafe { self.0.get().read_volatile() };
            }

            /// Stores `value`; a concurrent store by another CPU may win.
            #[inline(always)]
            pub fn set(&self, value: $int) {
                #[cfg(not(target_arch = "bpf"))]
                self.0.store(value, core::sync::atomic::Ordering::Relaxed);
                // SAFETY: as in `get`.
                #[cfg(target_arch = "bpf")]
                unsafe {
                    self.0.get().write_volatile(value);
                }
            }
        }

        // SAFETY: every access is one that the kernel's memory model allows to race.
        #[cfg(target_arch = "bpf")]
        unsafe impl Sync for $name {}

        impl Clone for $name {
            fn clone(&self) -> Self {
                Self::new(self.get())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}

macro_rules! read_modify_write {
    ($name:ident, $int:ident, $class:ident, $r0:tt, $add:literal, $or:literal, $and:literal, $cmpxchg:literal) => {
        impl $name {
            /// Adds `value`; concurrent additions are all counted.
            #[inline(always)]
            pub fn add(&self, value: $int) {
                #[cfg(not(target_arch = "bpf"))]
                self.0.fetch_add(value, core::sync::atomic::Ordering::Relaxed);
                // SAFETY: the reference is valid for reads and writes of this size, and the instruction writes no
                // other memory.
                #[cfg(target_arch = "bpf")]
                unsafe {
                    core::arch::asm!(
                        $add,
                        p = in(reg) self.0.get(),
                        v = in($class) value,
                        options(nostack),
                    );
                }
            }

            /// Sets the bits of `value`; concurrent settings are all kept.
            #[inline(always)]
            pub fn or(&self, value: $int) {
                #[cfg(not(target_arch = "bpf"))]
                self.0.fetch_or(value, core::sync::atomic::Ordering::Relaxed);
                // SAFETY: as in `add`.
                #[cfg(target_arch = "bpf")]
                unsafe {
                    core::arch::asm!(
                        $or,
                        p = in(reg) self.0.get(),
                        v = in($class) value,
                        options(nostack),
                    );
                }
            }

            /// Clears all bits but those of `value`; concurrent clearings are all kept.
            #[inline(always)]
            pub fn and(&self, value: $int) {
                #[cfg(not(target_arch = "bpf"))]
                self.0.fetch_and(value, core::sync::atomic::Ordering::Relaxed);
                // SAFETY: as in `add`.
                #[cfg(target_arch = "bpf")]
                unsafe {
                    core::arch::asm!(
                        $and,
                        p = in(reg) self.0.get(),
                        v = in($class) value,
                        options(nostack),
                    );
                }
            }

            /// Stores `new` if the value is still `current`, and says whether it did. A full barrier.
            #[inline(always)]
            #[must_use]
            pub fn compare_exchange(&self, current: $int, new: $int) -> bool {
                #[cfg(not(target_arch = "bpf"))]
                {
                    use core::sync::atomic::Ordering::SeqCst;
                    self.0.compare_exchange(current, new, SeqCst, SeqCst).is_ok()
                }
                #[cfg(target_arch = "bpf")]
                {
                    let found: $int;
                    // SAFETY: as in `add`; the instruction compares with r0 and returns what it found in r0.
                    unsafe {
                        core::arch::asm!(
                            $cmpxchg,
                            p = in(reg) self.0.get(),
                            new = in($class) new,
                            inout($r0) current => found,
                            options(nostack),
                        );
                    }
                    found == current
                }
            }
        }
    };
}

cell!(
    /// A shared 16-bit integer.
    U16, AtomicU16, u16
);
cell!(
    /// A shared 32-bit integer.
    U32, AtomicU32, u32
);
cell!(
    /// A shared 64-bit integer.
    U64, AtomicU64, u64
);
read_modify_write!(
    U32,
    u32,
    wreg,
    "w0",
    "lock *(u32 *)({p} + 0) += {v}",
    "lock *(u32 *)({p} + 0) |= {v}",
    "lock *(u32 *)({p} + 0) &= {v}",
    "w0 = cmpxchg32_32({p} + 0, w0, {new})"
);
read_modify_write!(
    U64,
    u64,
    reg,
    "r0",
    "lock *(u64 *)({p} + 0) += {v}",
    "lock *(u64 *)({p} + 0) |= {v}",
    "lock *(u64 *)({p} + 0) &= {v}",
    "r0 = cmpxchg_64({p} + 0, r0, {new})"
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    #[test]
    fn nothing_is_lost_between_two_threads() {
        let cell = Arc::new((U64::new(0), U32::new(0), U64::new(0)));
        let threads: Vec<_> = (0..2)
            .map(|n| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || {
                    for i in 0..100_000u64 {
                        cell.0.add(3);
                        cell.1.or(1 << ((i % 16) * 2 + n));
                        loop {
                            let now = cell.2.get();
                            if cell.2.compare_exchange(now, now + 1) {
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!((cell.0.get(), cell.1.get(), cell.2.get()), (600_000, u32::MAX, 200_000));
    }
}
