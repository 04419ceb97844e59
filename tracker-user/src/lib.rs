//! The agent and the commands of `tracker`: everything that is done outside the kernel.

pub mod agent;
pub mod attach;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod event;
pub mod events;
pub mod explain;
pub mod filter;
pub mod flows;
pub mod guide;
pub mod hub;
pub mod instance;
pub mod lookup;
pub mod object;
pub mod preflight;
pub mod reap;
pub mod record;
pub mod run;
pub mod stats;
pub mod tables;
pub mod terminal;
pub mod violations;
