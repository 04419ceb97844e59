//! The agent: its loop, and what the loop looks after while it runs.
//!
//! It imports from `export`, `client`, `kernel` and `model`, and never parses a command line. Begin with [`run`], its start and
//! end, and `event_loop`, which runs in between. [`event_server`] serves commands on the socket, [`sweeper`] removes expired
//! flows, [`exports`] feeds exporters, [`interfaces`] attaches to interfaces as they come and go, [`protect`] manages listeners with SYN cookies.

pub mod admission;
pub mod client_socket;
pub mod condition;
pub mod dropping;
pub mod ending;
mod event_loop;
pub mod event_server;
pub mod exports;
mod foreign;
pub mod interfaces;
mod lost_reports;
pub mod metrics;
pub mod options;
mod output;
pub mod privileges;
pub mod protect;
pub mod reload;
pub mod run;
pub mod secret_file;
pub mod service;
pub mod settings;
mod sweep_loop;
pub mod sweeper;
pub mod trial_load;
mod update_loop;
mod upkeep;
pub mod warnings;
pub mod writer;
