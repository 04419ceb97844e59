//! The agent and the commands of `tracker`: everything that is done outside the kernel.
//!
//! In layers, each of which imports only from those before it: [`model`], [`kernel`], [`client`], [`agent`], [`cli`].
//! `cargo xtask lint` fails on an import that points upward.

pub mod agent;
pub mod cli;
pub mod client;
pub mod kernel;
pub mod model;

// Modules by themselves, without their layers.
pub use self::{
    agent::{
        admission, client_socket, condition, hub, interfaces, metrics, privileges, protect, reap,
        reload, run, service, trial, warnings, writer,
    },
    cli::{
        capture, check, config, delete, detach, events, explain, farewell, flows, generate, guide,
        ladder, manual, replay, schema, since, stats, terminal, top, trace, violations,
    },
    client::{lent, listen},
    kernel::{
        attach, batch, bpf, broken, btf, instance, kernel_side, kfunc, map_forms, object,
        preflight, private_bpffs, refusal, sock_diag, tables, trusted_paths,
    },
    model::{clock, event, filter, lookup, record, reported, scope, survey, tcp_flags},
};
