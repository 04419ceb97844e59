//! Records of connections for engines elsewhere: what a record says, which are sent, and where to.
//!
//! It sees records only, never maps, and imports from `model` alone; the agent feeds it, and gives it threads. Begin with
//! [`record`], what is sent, and [`selection`], which of them are. [`queue`] is between the agent's loop and an exporter,
//! [`spool`] between an exporter and a receiver that may be away; [`file`](mod@file) is an exporter. [`relay`] is what others have
//! in common, and [`http`] their requests; [`clickhouse`], [`otlp`], [`ipfix`] and [`kafka`] are some of them.

pub mod clickhouse;
pub mod community_id;
pub mod file;
pub mod http;
pub mod ipfix;
pub mod kafka;
pub mod options;
pub mod otlp;
pub mod queue;
pub mod record;
pub mod relay;
pub mod selection;
pub mod spool;
