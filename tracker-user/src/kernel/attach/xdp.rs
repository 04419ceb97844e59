//! XDP: attaching to an interface, replacing the program of a killed agent, and naming the program that is in the way.

use std::fs;

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode,
        links::FdLink,
        loaded_programs,
        xdp::{XdpLink, XdpLinkId},
    },
};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};

use crate::{
    kernel::{
        attach::Attaching,
        ingress::{GENERIC_ANSWERS, IngressChoice, XdpChoice},
        instance::Instance,
        kernel_side::{
            links,
            slots::{Mode, Slot},
            xdp_holder,
        },
        load::load_ingress,
        netlink::Netlink,
    },
    model::{
        error::{Context, Error, Result},
        failure::{Failure, os_code},
    },
};

impl Attaching<'_> {
    /// Attaches XDP; `None` where the driver has none, and another way is to be gone.
    pub(super) async fn attach_xdp(
        &self,
        ebpf: &mut Ebpf,
        slot: &Slot,
        ifindex: u32,
    ) -> Result<Option<Mode>> {
        let name = slot.interface.as_str();
        let ingress = load_ingress(ebpf)?;
        let there = xdp_program(ifindex).await?;
        for mode in Mode::ALL {
            let Some((link, program)) = links::open(&slot.xdp(mode))? else { continue };
            let is_wanted = match self.ingress_options.xdp {
                XdpChoice::Auto => {
                    mode == Mode::Native || self.ingress_options.ingress == IngressChoice::Xdp
                }
                XdpChoice::Native => mode == Mode::Native,
                XdpChoice::Generic => mode == Mode::Generic,
            };
            if there == Some(program) && is_wanted {
                ingress
                    .attach_to_link(XdpLink::try_from(link)?)
                    .with_context(|| format!("replacing the XDP program on {name}"))?;
                return Ok(Some(mode));
            }
            // The interface that it was attached to is gone, or the kernel allows no other mode beside it.
            links::remove(&slot.xdp(mode))?;
        }
        if self.ingress_options.xdp != XdpChoice::Generic {
            match ingress.attach_to_if_index(ifindex, XdpMode::Driver) {
                Ok(id) => return pin_xdp(ingress, id, slot, Mode::Native).map(Some),
                Err(error)
                    if self.ingress_options.xdp == XdpChoice::Auto
                        && matches!(os_code(&error), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
                {
                    if self.ingress_options.ingress == IngressChoice::Auto {
                        tracing::info!(
                            interface = name,
                            driver = driver(name),
                            "the driver has no native XDP, or not in this configuration (MTU, offloads): arriving \
                             packets are seen by tcx"
                        );
                        return Ok(None);
                    }
                    tracing::warn!(
                        interface = name,
                        driver = driver(name),
                        "the driver has no native XDP, or not in this configuration (MTU, offloads): attaching in \
                         generic mode, which is slower than tcx"
                    );
                }
                Err(error) => return Err(self.explain(error, name, ifindex).await),
            }
        }
        if self.protecting.is_some() {
            let said = format!("{name}'s driver has no native XDP, and {GENERIC_ANSWERS}");
            return Err(Failure::BadInput(said).into());
        }
        match ingress.attach_to_if_index(ifindex, XdpMode::Skb) {
            Ok(id) => pin_xdp(ingress, id, slot, Mode::Generic).map(Some),
            Err(error) => Err(self.explain(error, name, ifindex).await),
        }
    }

    async fn explain(&self, error: ProgramError, name: &str, ifindex: u32) -> Error {
        if !matches!(os_code(&error), Some(libc::EBUSY | libc::EEXIST)) {
            return Error::from(error).context(format!("attaching XDP to {name}"));
        }
        let there = xdp_program(ifindex).await;
        if let Ok(None) = there {
            return Failure::InUse(below_another(name)).into();
        }
        let there = there.ok().flatten();
        Failure::InUse(in_the_way(self.instance, name, there)).into()
    }
}

/// What is said of an XDP program that has an interface already, and what to do about it; `program` is its id, where that is
/// known.
pub(crate) fn in_the_way(instance: &Instance, name: &str, program: Option<u32>) -> String {
    match program.and_then(|id| xdp_holder(instance, id).ok().flatten()) {
        Some(holder) => match holder.pid() {
            Some(pid) => format!(
                "{name} has an XDP program already: that of the agent named `{0}` (pid {pid}). It was left alone. Stop \
                 that agent: `kill {pid}`",
                holder.name()
            ),
            None => format!(
                "{name} has an XDP program already: that of an agent named `{0}`, which was killed. It was left alone. \
                 Run an agent of that name, or remove what it has left: `tracker --instance {0} detach`",
                holder.name()
            ),
        },
        None => {
            let program = match program {
                Some(id) => format!("`{}` (program id {id})", program_name(id)),
                None => "another program".to_owned(),
            };
            format!(
                "{name} has an XDP program already: {program}. It was left alone. Stop who has attached it, or detach \
                 it with `ip link set dev {name} xdp off`"
            )
        }
    }
}

/// What is said where the kernel refuses an interface that has no XDP program: `dev_xdp_attach()` looks above it.
fn below_another(name: &str) -> String {
    format!(
        "{name} is a port of an interface that has an XDP program, or has one on top of it (bridge, bond, VLAN, macvlan); the \
         kernel attaches none below. Start the agent with both interfaces at once, which attaches to {name} first, or detach \
         that program: `ip -details link show` shows it"
    )
}

fn pin_xdp(ingress: &mut Xdp, id: XdpLinkId, slot: &Slot, mode: Mode) -> Result<Mode> {
    let pin = slot.xdp(mode);
    FdLink::try_from(ingress.take_link(id)?)?
        .pin(&pin)
        .with_context(|| format!("pinning {}", pin.display()))?;
    Ok(mode)
}

pub(crate) fn driver(name: &str) -> String {
    fs::read_link(format!("/sys/class/net/{name}/device/driver"))
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn program_name(id: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "?".to_owned())
}

/// The id of the XDP program on an interface.
pub(crate) async fn xdp_program(ifindex: u32) -> Result<Option<u32>> {
    let netlink = Netlink::open()?;
    let link = netlink.handle().link().get().match_index(ifindex).execute().try_next().await?;
    let mut ids =
        link.into_iter().flat_map(|link| link.attributes).filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => xdp.into_iter().find_map(|part| match part {
                LinkXdp::ProgId(id)
                | LinkXdp::DrvProgId(id)
                | LinkXdp::SkbProgId(id)
                | LinkXdp::HwProgId(id)
                    if id != 0 =>
                {
                    Some(id)
                }
                _ => None,
            }),
            _ => None,
        });
    Ok(ids.next_back())
}
