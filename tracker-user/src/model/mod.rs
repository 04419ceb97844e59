//! What is shown, without I/O: records, events, filters, forms of output, errors, and what is decided about many connections at
//! once.
//!
//! It imports nothing from the other layers, only tracker-common. Begin with [`record`], a flow as users see it, and
//! [`event`], what happens to one; everything else chooses, explains or counts these. Each layer below the command line
//! fails with [`error::Error`].

pub mod clock;
pub mod conntrack_line;
pub mod error;
pub mod event;
pub mod failure;
pub mod filter;
pub mod flood_detection;
pub mod flow_violations;
pub mod format;
pub mod listener;
pub mod nearest;
pub mod network;
pub mod owner;
pub mod record;
pub mod refusal;
pub mod report_selection;
pub mod rule_lookup;
pub mod scope;
pub mod tcp_flags;
pub mod unknown_code;
