//! Protecting listeners by SYN cookies: what the user asks for, and the agent's part in it.
//!
//! The kernel programs answer and check; the agent says for which addresses and ports, with which keys, and what the host
//! would agree to.

mod announce;
pub mod firewall;
pub mod key_file;
pub mod keys;
mod left_to_host;
pub mod listener_manager;
mod routes;
pub mod sockets;
pub mod synack_terms;
pub mod target;
pub mod trial;
pub mod way;

use std::{net::SocketAddr, path::PathBuf};

use tracker_common::{
    cookie::LIFETIME_NS,
    protect::{MAX_LISTENERS, Mode},
};

use crate::{
    agent::protect::{
        key_file::KeyFile,
        sockets::{Listening, listening},
        synack_terms::Sysctls,
        target::{Target, places},
    },
    kernel::{kfunc, netlink::Netlink, preflight::interface_index, protection::Prepared},
    model::{
        error::{Error, Result},
        failure::Failure,
    },
};

/// Seconds for which a key must be used at least, so that the one before it is not needed any more.
pub const SHORTEST_ROTATION: u32 = 300;
const _: () = assert!(SHORTEST_ROTATION as u64 * 1_000_000_000 > 2 * LIFETIME_NS);

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum ModeName {
    /// Never
    Off,
    /// While a listener has too many half-open connections
    #[default]
    Auto,
    /// Always
    Always,
}

impl ModeName {
    /// Returns the kernel programs' mode of this name.
    #[must_use]
    pub fn mode(self) -> Mode {
        match self {
            Self::Off => Mode::Off,
            Self::Auto => Mode::Auto,
            Self::Always => Mode::Always,
        }
    }
}

/// Options of `tracker run` about SYN cookies.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "SYN cookies")]
// A group of `tracker run` has this name already.
#[group(skip)]
pub struct Options {
    /// Protect listeners of this host with SYN cookies: `80`, `80,443`, `8000-8100` on every address of the host,
    /// `443@192.0.2.1` on one; repeatable
    #[arg(long, value_name = "PORTS[@ADDR]")]
    pub protect: Vec<Target>,
    /// When to answer SYNs with cookies
    #[arg(long, value_enum, default_value_t, requires = "protect")]
    pub syn_cookies: ModeName,
    /// Half-open connections that trigger cookies, with `auto`; three quarters of the listener's backlog if that is less
    #[arg(long, default_value_t = 128, requires = "protect", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub syn_cookies_at: u32,
    /// Seconds that cookies continue after the last reason for them, with `auto`
    #[arg(long, default_value_t = 5, requires = "protect", value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub syn_cookies_hold: u32,
    /// Lifetime of a cookie key, in seconds
    #[arg(long, default_value_t = 3600, requires = "protect", value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(SHORTEST_ROTATION)..=31_536_000))]
    pub syn_cookies_rotate: u32,
    /// Keys of cookies from a file that several hosts share, whose clients' packets may come to any of them (anycast, ECMP);
    /// `tracker keys` makes it, SIGHUP has it read again
    #[arg(long, requires = "protect", conflicts_with = "syn_cookies_rotate", value_name = "FILE")]
    pub cookie_keys: Option<PathBuf>,
}

impl Options {
    /// Whether anything is to be protected.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.protect.is_empty() && self.syn_cookies != ModeName::Off
    }
}

/// Checks that listeners can be protected on this host through these interfaces; `None` where nothing is to be protected.
///
/// # Errors
///
/// What is missing, and what to do about it.
pub async fn prepare(options: &Options, interfaces: &[String]) -> Result<Option<Prepared>> {
    if !options.is_wanted() {
        return Ok(None);
    }
    let prepared = Prepared::for_this_kernel()?;
    if let Some(path) = &options.cookie_keys {
        KeyFile::read(path)?.current(jiff::Timestamp::now())?;
        if prepared.assign.is_none() {
            let said = "--cookie-keys needs cookies of tracker's own, which are handed over by bpf_sk_assign_tcp_reqsk (since Linux \
                        6.9): the kernel's own cookies are no other host's. Leave it out, or use a newer kernel";
            return Err(Failure::BadInput(said.to_owned()).into());
        }
    }
    let indexes: Vec<_> =
        interfaces.iter().map(|name| interface_index(name)).collect::<Result<_>>()?;
    let host = Netlink::open()?.host(&indexes).await?;
    let (loopback, others): (Vec<_>, Vec<_>) =
        interfaces.iter().partition(|name| host.is_loopback(name));
    if others.is_empty() && !loopback.is_empty() {
        let said = "loopback cannot be protected, because nothing sees its packets before the host does; give the \
                    interface that clients come from";
        return Err(Failure::BadInput(said.to_owned()).into());
    }
    for name in loopback {
        tracing::warn!(interface = name.as_str(), "SYNs on loopback are not answered with cookies");
    }

    let places = places(&options.protect, &host.addresses);
    if let Some(foreign) = places.foreign.first() {
        let said = format!(
            "--protect: {foreign} is no address of this host in this network namespace, so its SYNs are not this host's to \
             answer; add it (`ip address add {foreign} dev NAME`), run the agent in the namespace of the listener, or \
             leave out `@{foreign}`"
        );
        return Err(Failure::BadInput(said).into());
    }
    if places.here.len() > MAX_LISTENERS as usize {
        let said = format!(
            "--protect means {} pairs of an address and a port, and {MAX_LISTENERS} can be protected: name fewer ports, \
             or one address, as in `443@192.0.2.1`",
            places.here.len()
        );
        return Err(Failure::BadInput(said).into());
    }
    check_sysctl(Sysctls::read()?.syncookies, prepared.assign.is_some(), || {
        let sockets = listening()?;
        Ok(places.here.iter().find(|place| Listening::at(&sockets, **place).is_mptcp).copied())
    })?;
    Ok(Some(prepared))
}

/// What must be written where the kernel's own cookies are needed.
const NEEDS_KERNEL_COOKIES: &str = "only the kernel's own cookies can protect it, which need net.ipv4.tcp_syncookies=2: \
     `sysctl -w net.ipv4.tcp_syncookies=2`. With them only the maximum segment size survives; window scale, SACK, \
     timestamps and ECN are lost. The kernel then answers every SYN of this host's other listeners with cookies, too";

/// Refuses to start where `net.ipv4.tcp_syncookies` would make protection a pretence.
fn check_sysctl(
    value: u32,
    can_hand_over: bool,
    mptcp: impl FnOnce() -> Result<Option<SocketAddr>>,
) -> Result<()> {
    match value {
        0 => Err(Error::text(
            "net.ipv4.tcp_syncookies is 0, and the kernel then refuses every connection that a cookie stands for: \
             `sysctl -w net.ipv4.tcp_syncookies=1`",
        )),
        2 => Ok(()),
        _ if !can_hand_over => Err(Error::text(format!(
            "this kernel cannot be handed connections ({} came with Linux 6.9), and so for every listener: \
             {NEEDS_KERNEL_COOKIES}",
            kfunc::ASSIGN
        ))),
        _ => match mptcp()? {
            Some(place) => Err(Error::text(format!(
                "the listener at {place} speaks MPTCP, and so cannot be handed connections: {NEEDS_KERNEL_COOKIES}. Or turn \
                 MPTCP off where the listener is made (programs in Go: GODEBUG=multipathtcp=0)"
            ))),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(value: u32, can_hand_over: bool, mptcp: Option<&str>) -> Option<String> {
        let mptcp = mptcp.map(|at| at.parse().expect(at));
        check_sysctl(value, can_hand_over, || Ok(mptcp)).err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn what_the_sysctl_must_be() {
        assert_eq!(refusal(1, true, None), None);
        assert_eq!(refusal(2, true, Some("192.0.2.1:80")), None);
        assert_eq!(refusal(2, false, None), None);
        let said = refusal(0, true, None).expect("refused");
        assert!(said.contains("`sysctl -w net.ipv4.tcp_syncookies=1`"), "{said}");
        let said = refusal(1, false, None).expect("refused");
        assert!(said.contains("Linux 6.9") && said.contains("tcp_syncookies=2`"), "{said}");
        let said = refusal(1, true, Some("[2001:db8::1]:443")).expect("refused");
        assert!(said.contains("[2001:db8::1]:443 speaks MPTCP"), "{said}");
        assert!(said.contains("tcp_syncookies=2`") && said.contains("maximum segment size"));
    }
}
