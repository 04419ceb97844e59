//! Help for the kernel's verifier, which follows every path to every combination of values that a program can hold.

/// Something through which values can be passed to lose their history.
pub trait VerifierBarrier {
    /// `value`, with all that is known about how it came about forgotten: the verifier goes on from here once, however
    /// many paths lead here. On the host this is the identity.
    #[inline(always)]
    fn forget<T: Copy>(&self, value: T) -> T {
        value
    }
}

impl VerifierBarrier for [u8] {}

/// Loses what the compiler knows of a number, so that it keeps the comparison or the mask that follows. It needs none; older
/// verifiers do, because they do not know what it knows.
#[inline(always)]
#[must_use]
#[cfg(target_arch = "bpf")]
pub fn opaque(mut value: usize) -> usize {
    // An empty statement would give two lines of source to one instruction, which the kernel refuses.
    // SAFETY: a move of a register to itself.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Loses nothing on the host, where nobody verifies.
#[inline(always)]
#[must_use]
#[cfg(not(target_arch = "bpf"))]
pub const fn opaque(value: usize) -> usize {
    value
}
