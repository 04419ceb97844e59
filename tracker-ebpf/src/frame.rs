//! Packet memory as [`Bytes`]: read in place where it is linear, by a helper where it is not (multi-buffer XDP frames,
//! paged socket buffers).

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use tracker_common::{
    forget::{VerifierBarrier, opaque},
    packet::Bytes,
    segment::SynOptions,
};
use zerocopy::{FromBytes, Unaligned};

use crate::{
    kernel::forget_in,
    maps::{self, Scratch},
};

/// No header begins further on: the verifier wants a bound, and the longest chain that the parser follows is shorter.
const FURTHEST: usize = 0x7fff;

/// No packet with a length of 16 bits, and what stands before it, is longer.
const LONGEST: usize = 0x1_ffff;

/// A frame that arrived.
pub(crate) struct XdpFrame {
    ctx: *mut xdp_md,
    data: usize,
    end: usize,
    scratch: *mut Scratch,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut xdp_md, scratch: *mut Scratch) -> Self {
        let context = XdpContext::new(ctx);
        Self { ctx, data: context.data(), end: context.data_end(), scratch }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        let len = match maps::replayed() {
            Some(replayed) => replayed.wire_len.into(),
            // SAFETY: the context is valid while the program runs.
            None => unsafe { bpf_xdp_get_buff_len(self.ctx) },
        };
        #[allow(clippy::cast_possible_truncation)] // 64-bit target
        let len = len as usize;
        len
    }

    /// Whether linear memory is all there is to a frame, as far as it goes: a captured one may have been cut off.
    #[inline(always)]
    fn is_whole() -> bool {
        maps::replayed().is_none()
    }
}

/// A frame that leaves.
pub(crate) struct SkbFrame {
    ctx: *mut __sk_buff,
    data: usize,
    end: usize,
    scratch: *mut Scratch,
}

impl SkbFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut __sk_buff, scratch: *mut Scratch) -> Self {
        let context = TcContext::new(ctx);
        Self { ctx, data: context.data(), end: context.data_end(), scratch }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        TcContext::new(self.ctx).len() as usize
    }

    #[inline(always)]
    const fn is_whole() -> bool {
        true
    }
}

/// Reads a `T` from packet memory, eight bytes at a time. The kernel lets programs read packets at any address; the
/// compiler, which does not know that, would read byte by byte.
///
/// # Safety
///
/// There must be a whole `T`, and any bytes must be one.
#[inline(always)]
unsafe fn load<T>(start: usize) -> T {
    macro_rules! step {
        ($type:ty, $register:ident, $instruction:literal, $from:ident, $to:ident) => {
            while $to + size_of::<$type>() <= size_of::<T>() {
                let word: $type;
                // SAFETY: within the `T`.
                unsafe {
                    asm!(
                        $instruction,
                        out($register) word,
                        in(reg) start + $to,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                // SAFETY: within the `T`, by the loop's condition; such a write needs no alignment.
                unsafe { $from.add($to).cast::<$type>().write_unaligned(word) };
                $to += size_of::<$type>();
            }
        };
    }
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    let bytes = value.as_mut_ptr().cast::<u8>();
    let mut at = 0;
    step!(u64, reg, "{0} = *(u64 *)({1} + 0)", bytes, at);
    step!(u32, wreg, "{0} = *(u32 *)({1} + 0)", bytes, at);
    step!(u16, wreg, "{0} = *(u16 *)({1} + 0)", bytes, at);
    step!(u8, wreg, "{0} = *(u8 *)({1} + 0)", bytes, at);
    // SAFETY: every byte was written.
    unsafe { value.assume_init() }
}

macro_rules! bytes {
    ($frame:ident, $load:ident) => {
        impl Bytes for $frame {
            #[inline(always)]
            fn read<T: FromBytes + Unaligned>(&self, at: usize) -> Option<T> {
                if at > FURTHEST {
                    return None;
                }
                // The compiler must not see that this is `data + at`: it would compute the address a second time, and
                // the verifier would not know that as the one that was compared.
                let start = opaque(self.data + at);
                if start + size_of::<T>() <= self.end {
                    // SAFETY: within the packet, as just compared; any bytes are a valid `T`.
                    return Some(unsafe { load(start) });
                }
                if at + size_of::<T>() > self.len() {
                    return None;
                }
                const { assert!(size_of::<T>() <= 64) };
                // SAFETY: this CPU's own element.
                let bytes = unsafe { &raw mut (*self.scratch).bytes };
                #[allow(clippy::cast_possible_truncation)] // at most FURTHEST, and a header's size
                // SAFETY: the destination is valid for that many bytes.
                let result = unsafe {
                    $load(self.ctx.cast(), at as u32, bytes.cast(), size_of::<T>() as u32)
                };
                // SAFETY: this CPU's own element, of 64 bytes; any bytes are a valid `T`, which has no alignment.
                (result == 0).then(|| unsafe { bytes.cast::<T>().read() })
            }

            #[inline(always)]
            fn options(&self, at: usize, len: usize) -> Option<SynOptions> {
                if at > FURTHEST || len == 0 {
                    return None;
                }
                // At least 1 by the sum: comparisons with 0 tell verifiers before 6.8 nothing.
                let len = (opaque(len - 1) & 63) + 1;
                // SAFETY: this CPU's own element.
                let bytes = unsafe { &mut (*self.scratch).bytes };
                #[allow(clippy::cast_possible_truncation)] // at most FURTHEST and 63
                // SAFETY: the destination is valid for 64 bytes.
                let result = unsafe {
                    $load(self.ctx.cast(), at as u32, bytes.as_mut_ptr().cast(), len as u32)
                };
                (result == 0).then(|| parse_options(self.scratch, len))
            }

            #[inline(always)]
            fn frame_len(&self) -> usize {
                self.len()
            }

            #[inline(always)]
            fn has(&self, len: usize) -> bool {
                // Before 6.18, turning bytes round leaves the verifier no bounds.
                $frame::is_whole() && opaque(self.data + (opaque(len) & LONGEST)) <= self.end
            }
        }

        impl VerifierBarrier for $frame {
            #[inline(always)]
            fn forget<T: Copy>(&self, value: T) -> T {
                forget_in(self.scratch, value)
            }
        }
    };
}

bytes!(XdpFrame, bpf_xdp_load_bytes);
bytes!(SkbFrame, bpf_skb_load_bytes);

/// [`SynOptions::parse`] for the first `len` of [`Scratch::bytes`].
#[inline(always)]
pub(crate) fn parse_options(scratch: *mut Scratch, len: usize) -> SynOptions {
    #[allow(clippy::cast_possible_truncation)] // at most 64
    tracker_read_options(len as u32);
    // SAFETY: this CPU's own element, and nothing else refers to this part of it.
    unsafe { (*scratch).options }
}

/// The same, to [`Scratch::options`]: a function of its own, for what it needs of the stack.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_read_options(len: u32) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element, and nothing else refers to this part of it now.
    unsafe { (*scratch).options = SynOptions::default() };
    #[allow(clippy::cast_possible_truncation)] // at most 64
    SynOptions::each(len as usize, |at| tracker_read_option(at as u32, len) as usize);
    0
}

/// [`SynOptions::read_one`] for [`Scratch::bytes`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tracker_read_option(at: u32, len: u32) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return len };
    // SAFETY: this CPU's own element, and nothing else refers to it now.
    let Scratch { options, bytes, .. } = unsafe { &mut *scratch };
    // The compiler would take the masks away that older verifiers need: they learn nothing where two numbers are compared.
    let (at, len) = (opaque(at as usize & 63), opaque(len as usize & 127));
    #[allow(clippy::cast_possible_truncation)] // at most 64
    let next = options.read_one(bytes, at, len) as u32;
    next
}
