//! What is shown, without I/O: records, events, filters, forms of output, and what is decided about many connections at once.
//!
//! It imports nothing from the other layers, only tracker-common. Begin with [`record`], a flow as users see it, and
//! [`event`], what happens to one; everything else chooses, explains or counts these.

pub mod broken;
pub mod clock;
pub mod event;
pub mod failure;
pub mod filter;
pub mod format;
pub mod listener;
pub mod lookup;
pub mod nearest;
pub mod record;
pub mod reported;
pub mod scope;
pub mod survey;
pub mod tcp_flags;
