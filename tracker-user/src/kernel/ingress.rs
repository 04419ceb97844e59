//! Where and how arriving packets are seen: by XDP, or in the host's network stack.

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use crate::{
    kernel::netlink::Netlink,
    model::{error::Result, failure::Failure},
};

/// Where arriving packets are seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum IngressChoice {
    /// XDP where a network card's driver has it; else tcx
    #[default]
    Auto,
    /// XDP, native or generic: before the network stack
    Xdp,
    /// tcx, or clsact on kernels before 6.6: in the network stack
    Tcx,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum XdpChoice {
    /// Native; if the driver has no XDP, tcx takes its place, or generic XDP with `--ingress xdp`
    #[default]
    Auto,
    /// In the driver, or refuse to start
    Native,
    /// In the network stack: works everywhere, costs more per packet
    Generic,
}

/// Where and how arriving packets are seen.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct IngressOptions {
    /// Where arriving packets are seen
    #[arg(long, value_enum, default_value_t)]
    pub ingress: IngressChoice,
    /// XDP mode for arriving packets
    #[arg(long, value_enum, default_value_t)]
    pub xdp: XdpChoice,
}

impl IngressOptions {
    /// Refuses choices that exclude each other.
    ///
    /// # Errors
    ///
    /// Which, and what to do.
    pub fn check(&self, protects: bool) -> Result<()> {
        let said = if self.ingress == IngressChoice::Tcx && self.xdp != XdpChoice::Auto {
            "--xdp says how XDP is attached, and --ingress tcx attaches none: leave one of them away"
        } else if self.xdp == XdpChoice::Generic && protects {
            GENERIC_ANSWERS
        } else {
            return Ok(());
        };
        Err(Failure::BadInput(said.to_owned()).into())
    }

    /// Whether XDP may be attached as generic.
    #[must_use]
    pub fn may_be_generic(&self) -> bool {
        self.xdp == XdpChoice::Generic
            || (self.ingress == IngressChoice::Xdp && self.xdp == XdpChoice::Auto)
    }

    /// Why packets that arrive on this interface are seen in the network stack; `None` where XDP is to see them, if the driver has
    /// it. Only network cards gain by XDP. On interfaces that software makes, native XDP copies what the kernel would pass on
    /// by reference, and takes apart what it has merged.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub async fn in_stack(&self, ifindex: u32) -> Result<Option<String>> {
        Ok(match self.ingress {
            IngressChoice::Xdp => None,
            IngressChoice::Tcx => Some("--ingress tcx".to_owned()),
            IngressChoice::Auto if self.xdp != XdpChoice::Auto => None,
            IngressChoice::Auto => software_kind(ifindex)
                .await?
                .map(|kind| format!("this is a {kind}, whose packets XDP would only make dearer")),
        })
    }
}

/// What is said of SYN cookies behind generic XDP.
pub(crate) const GENERIC_ANSWERS: &str = "listeners cannot be protected behind generic XDP: the network stack does not send its answers as it \
     should, and every client would be reset. Leave --xdp and --ingress away, or type --ingress tcx";

/// The kind of an interface that software makes (`veth`, `bridge`, `tun`, …), as `ip link` says; `None` for a network card, and for a
/// bond, which is what its ports are.
async fn software_kind(ifindex: u32) -> Result<Option<String>> {
    let netlink = Netlink::open()?;
    let link = netlink.handle().link().get().match_index(ifindex).execute().try_next().await?;
    let info = link.into_iter().flat_map(|link| link.attributes).find_map(|attribute| {
        if let LinkAttribute::LinkInfo(info) = attribute { Some(info) } else { None }
    });
    Ok(info.into_iter().flatten().find_map(|part| match part {
        LinkInfo::Kind(InfoKind::Bond) => None,
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }))
}
