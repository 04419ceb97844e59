//! The kernel programs' debug messages, where they were compiled in.

use aya_log::EbpfLogger;
use tokio::{io::unix::AsyncFd, task::JoinHandle};

use crate::{
    kernel::attach::Attached,
    model::error::{Context, Result},
};

/// Writes them to the agent's log until it is aborted.
pub(super) fn forward_log(attached: &mut Attached) -> Result<JoinHandle<()>> {
    let logger =
        EbpfLogger::init(&mut attached.ebpf).context("opening the kernel programs' log")?;
    // SAFETY: the logger owns its descriptor and keeps it open for as long as it lives.
    let mut logger =
        unsafe { AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) }?;
    Ok(tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}
