//! What the host would put into a SYN,ACK by itself, so that a cookie's is no worse.

use std::{fs, io, net::IpAddr};

use tracker_common::{
    protect::{Listener, feature},
    route::{Route, scale_of},
};

use crate::{
    kernel::preflight::kernel_at_least,
    model::error::{Context, Error, Result},
};

/// Linux's default for `net.core.rmem_max`, for network namespaces where the kernel does not show it, in bytes.
const DEFAULT_RECEIVE_MAX: u32 = 212_992;

/// How much of a receive buffer is offered as window, of 256: the rest is for what packets cost besides their data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share(u32);

impl Share {
    /// Returns the share that this kernel assumes before any data has arrived.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say which one it is.
    pub fn of_this_kernel() -> Result<Self> {
        // From 6.6 to 6.10 it is what 1200 bytes of data leave of a buffer of 4096 and its overhead.
        let is_cautious = kernel_at_least((6, 6))? && !kernel_at_least((6, 11))?;
        Ok(Self(if is_cautious { 65 } else { 128 }))
    }

    fn of(self, buffer: u32) -> u32 {
        u32::try_from((u64::from(buffer) * u64::from(self.0)) >> 8).unwrap_or(u32::MAX)
    }
}

/// Settings of the host's TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sysctls {
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: u32,
    /// Bits of [`feature`].
    pub features: u8,
    /// `net.ipv4.tcp_rmem`: a receive buffer's bytes by default.
    pub receive_default: u32,
    /// The same at most, also by `net.core.rmem_max`.
    pub receive_most: u32,
    /// `net.ipv4.tcp_workaround_signed_windows`.
    pub signed_windows: bool,
}

impl Sysctls {
    /// As they are now, in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// Where one cannot be read.
    pub fn read() -> Result<Self> {
        let is_on = |name: &str| Ok::<_, Error>(number(name)? != 0);
        let mut features = 0;
        for (name, bit) in [
            ("net/ipv4/tcp_window_scaling", feature::WINDOW_SCALE),
            ("net/ipv4/tcp_sack", feature::SACK),
            ("net/ipv4/tcp_timestamps", feature::TIMESTAMPS),
            // 1 and 2 accept it, and so do 3 to 5, which prefer RFC 9768: they differ in what this host asks for.
            ("net/ipv4/tcp_ecn", feature::ECN),
        ] {
            features |= if is_on(name)? { bit } else { 0 };
        }
        let receive = numbers("net/ipv4/tcp_rmem")?;
        let [_, receive_default, receive_most] = receive[..] else {
            return Err(Error::text("net.ipv4.tcp_rmem is not three numbers"));
        };
        let for_all = match fs::metadata("/proc/sys/net/core/rmem_max") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => DEFAULT_RECEIVE_MAX,
            _ => number("net/core/rmem_max")?,
        };
        Ok(Self {
            syncookies: number("net/ipv4/tcp_syncookies")?,
            features,
            receive_default,
            receive_most: receive_most.max(for_all),
            signed_windows: is_on("net/ipv4/tcp_workaround_signed_windows")?,
        })
    }
}

fn number(name: &str) -> Result<u32> {
    numbers(name)?.first().copied().with_context(|| format!("/proc/sys/{name} is empty"))
}

fn numbers(name: &str) -> Result<Vec<u32>> {
    let path = format!("/proc/sys/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.split_whitespace()
        .map(|word| {
            word.parse().with_context(|| format!("{path} holds `{word}`, which is no number"))
        })
        .collect()
}

/// What a SYN,ACK says of the host's receive window, before a route has its say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SynAckTerms {
    /// Bytes of the receive buffer that are for data.
    pub space: u32,
    /// Window scale; 0 where windows are not scaled.
    pub scale: u8,
    /// Bits of [`feature`].
    pub features: u8,
}

impl SynAckTerms {
    /// What the kernel chooses (`tcp_select_initial_window`) for a listener with a receive buffer of `buffer` bytes. `None` for
    /// a listener that has not set its buffer.
    ///
    /// The kernel does not tell whether the listener has set its buffer: one that is not of the default size is taken for
    /// such. If the default was changed meanwhile, the scale is smaller than it could be; if the listener has set just
    /// the default, it is larger than it need be, and windows are a little coarser.
    #[must_use]
    pub fn new(sysctls: &Sysctls, buffer: Option<u32>, share: Share) -> Self {
        let set = buffer.filter(|buffer| *buffer != sysctls.receive_default);
        let space = share.of(set.unwrap_or(sysctls.receive_default));
        let mut features = sysctls.features;
        if sysctls.signed_windows {
            features |= feature::SIGNED_WINDOWS;
        }
        let largest = if set.is_some() { space } else { space.max(sysctls.receive_most) };
        let is_scaled = features & feature::WINDOW_SCALE != 0;
        Self { space, scale: if is_scaled { scale_of(largest) } else { 0 }, features }
    }

    /// A listener that announces `mss` where no route says otherwise; the rest of it is 0.
    #[must_use]
    pub fn listener(self, mss: u16) -> Listener {
        let Self { space, scale, features } = self;
        Listener { space, scale, features, ..Listener::default() }
            .on(&Route { mss, ..Route::default() })
    }
}

/// The maximum segment size that a host announces for itself at `address`, behind interfaces of which the smallest MTU is
/// `mtu` bytes.
#[must_use]
pub fn mss(address: IpAddr, mtu: u32) -> u16 {
    // IP and TCP headers without options; and what Linux announces at least (ip_rt_min_advmss, ip6_rt_min_advmss).
    let (headers, least) = if address.is_ipv4() { (40, 256) } else { (60, 1220) };
    u16::try_from(mtu.saturating_sub(headers).max(least)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: Sysctls = Sysctls {
        syncookies: 1,
        features: feature::WINDOW_SCALE | feature::SACK | feature::TIMESTAMPS | feature::ECN,
        receive_default: 131_072,
        receive_most: 6_291_456,
        signed_windows: false,
    };

    fn offer(sysctls: Sysctls, buffer: Option<u32>, mss: u16) -> (u8, u16) {
        let listener = SynAckTerms::new(&sysctls, buffer, Share(128)).listener(mss);
        (listener.scale, listener.first_window(listener.has(feature::TIMESTAMPS)))
    }

    #[test]
    fn as_captured_from_linux() {
        assert_eq!(offer(LINUX, None, 1460), (7, 65_160));
        assert_eq!(offer(LINUX, Some(131_072), 1440), (7, 64_260));
        let cautious = SynAckTerms::new(&LINUX, None, Share(65)).listener(1460);
        assert_eq!((cautious.scale, cautious.window), (7, 31_856));
        let unstamped = Sysctls { features: feature::WINDOW_SCALE, ..LINUX };
        assert_eq!(offer(unstamped, None, 1460), (7, 64_240));
        assert_eq!(offer(Sysctls { features: 0, ..LINUX }, None, 1460), (0, 64_240));
    }

    #[test]
    fn a_buffer_that_was_set_limits_both() {
        assert_eq!(offer(LINUX, Some(2304), 1460), (0, 1152));
        assert_eq!(offer(LINUX, Some(16_384), 1460), (0, 7240));
        assert_eq!(offer(LINUX, Some(1 << 20), 1460), (4, 65_535));
        assert_eq!(
            offer(Sysctls { signed_windows: true, ..LINUX }, Some(1 << 20), 1460),
            (4, 32_767)
        );
    }

    #[test]
    fn no_input_is_too_much() {
        let vast = Sysctls { receive_default: u32::MAX, receive_most: u32::MAX, ..LINUX };
        assert_eq!(offer(vast, None, 1460), (14, 65_535));
        for buffer in [0, 1, 3, u32::MAX] {
            for mss in [0, 1, 12, 13, u16::MAX] {
                assert!(offer(LINUX, Some(buffer), mss).0 <= 14);
            }
        }
    }

    #[test]
    fn segment_sizes() {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().expect(ip));
        assert_eq!((mss(v4, 1500), mss(v6, 1500)), (1460, 1440));
        assert_eq!((mss(v4, 9000), mss(v6, 9000)), (8960, 8940));
        assert_eq!((mss(v4, 576), mss(v4, 68), mss(v6, 0)), (536, 256, 1220));
        assert_eq!(mss(v4, u32::MAX), u16::MAX);
    }
}
