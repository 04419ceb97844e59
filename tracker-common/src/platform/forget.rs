//! Help for the kernel's verifier, which follows every path to every combination of values that a program can hold.

/// Something through which values can be passed to lose their history.
pub trait Forget {
    /// `value`, with all that is known about how it came about forgotten: the verifier goes on from here once, however
    /// many paths lead here. On the host this is the identity.
    #[inline(always)]
    fn forget<T: Copy>(&self, value: T) -> T {
        value
    }
}

impl Forget for [u8] {}
