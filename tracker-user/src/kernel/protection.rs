//! What this kernel has to protect listeners with.

use tracker_common::protect::Protection;

use crate::{
    kernel::{btf::KernelTypes, kfunc},
    model::error::Result,
};

/// What is known before anything is attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prepared {
    /// For the kernel programs.
    pub protection: Protection,
    /// The id of the kernel's function that takes connections over; `None` where it has none (before Linux 6.9).
    pub assign: Option<u32>,
}

impl Prepared {
    /// Protection, as this kernel allows it.
    ///
    /// # Errors
    ///
    /// Where its types are not to be had, or are others.
    pub fn for_this_kernel() -> Result<Self> {
        let types = KernelTypes::of_this_kernel()?;
        let assign = types.function(kfunc::ASSIGN);
        let prepared = Self {
            protection: Protection {
                enabled: 1,
                hands_over: u32::from(assign.is_some()),
                half_open_at: types.offset("tcp_sock", "inet_conn.icsk_accept_queue.qlen")?,
                backlog_at: types
                    .offset("tcp_sock", "inet_conn.icsk_inet.sk.sk_max_ack_backlog")?,
                waiting_at: types.offset("tcp_sock", "inet_conn.icsk_inet.sk.sk_ack_backlog")?,
            },
            assign,
        };
        drop(types);
        give_memory_back();
        Ok(prepared)
    }
}

/// A kernel's types take some 80 MB, in many pieces, which the allocator would keep.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches memory only that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}
