//! The kernel's side of an agent: the embedded programs, loading and attaching them, their maps, and what of them outlives
//! the process.
//!
//! It imports from `model` only. Begin with [`load`] and [`attach`], which do that, and [`kernel_side`], which
//! finds and removes what an agent has left; [`tables`] reads the maps.

pub mod attach;
pub mod batch;
pub mod bpf;
pub mod btf;
pub mod conntrack;
pub mod exempt;
pub mod flow_violations;
mod foreign;
pub mod ingress;
pub mod instance;
pub mod kernel_side;
pub mod kfunc;
pub mod link_kind;
pub mod listeners;
pub mod load;
pub mod map_forms;
pub mod net_namespace;
pub mod netlink;
pub mod netlink_dump;
pub mod nftables;
pub mod object;
pub mod preflight;
pub mod private_bpffs;
pub mod protection;
pub mod refusal;
pub mod routes;
pub mod sock_diag;
pub mod socket_owners;
pub mod syn_cache;
pub mod tables;
pub mod trusted_paths;
