//! The agent and the commands of `tracker`: everything that is done outside the kernel.

pub mod agent;
pub mod attach;
pub mod batch;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod event;
pub mod events;
pub mod filter;
pub mod flows;
pub mod hub;
pub mod instance;
pub mod object;
pub mod preflight;
pub mod private_bpffs;
pub mod reap;
pub mod record;
pub mod replay;
pub mod reported;
pub mod run;
pub mod stats;
pub mod tables;
