//! The agent and the commands of `tracker`: everything that is done outside the kernel.
//!
//! In layers, each of which imports only from those before it: [`model`], [`kernel`], [`client`], [`export`], [`agent`], [`cli`].
//! `cargo xtask lint` fails on an import that points upward.

pub mod agent;
pub mod cli;
pub mod client;
pub mod export;
pub mod kernel;
pub mod model;
