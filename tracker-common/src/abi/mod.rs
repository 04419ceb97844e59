//! What crosses between the kernel programs and the agent besides records. Changing a layout raises
//! [`LAYOUT_VERSION`](crate::LAYOUT_VERSION).

pub mod config;
pub mod counters;
pub mod event;
