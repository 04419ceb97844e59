//! The agent: its loop, and what the loop looks after while it runs.
//!
//! It imports from `client`, `kernel` and `model`, and never parses a command line. Begin with [`run`], the loop; [`hub`]
//! serves commands on the socket, [`reap`] removes flows whose time is over, [`interfaces`] attaches to interfaces as they
//! come and go, [`protect`] looks after protected listeners.

pub mod admission;
pub mod client_socket;
pub mod condition;
pub mod ending;
pub mod hub;
pub mod interfaces;
pub mod metrics;
pub mod privileges;
pub mod protect;
pub mod reap;
pub mod reload;
pub mod run;
pub mod service;
pub mod settings;
pub mod trial;
pub mod warnings;
pub mod writer;
