//! The command line: a file a verb, and what verbs share.
//!
//! It may import from every layer, and nothing imports from it. Begin with [`arguments`], which lists the verbs; each is a
//! module with `Options` and `run`. Only this layer parses arguments, and `main` alone ends the
//! process: [`failure_report`] says why.

pub mod arguments;
pub mod capture;
pub mod check;
pub mod choice;
pub mod config;
pub mod delete;
pub mod detach;
pub mod events;
pub mod exit_signals;
pub mod explain;
pub mod failure_report;
pub mod flows;
pub mod generate;
pub(crate) mod grid;
pub mod hint;
pub mod keys;
pub mod ladder;
pub mod manual;
pub mod replay;
pub mod schema;
mod scratch;
pub mod since;
pub mod stats;
pub mod terminal;
pub mod top;
pub mod trace;
pub mod violations;
pub mod violations_page;

pub use self::arguments::{Cli, Command, refusal};
