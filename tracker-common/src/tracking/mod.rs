//! From a packet to its flow. Begin with [`track`], which finds or creates the flow, applies the rules, and says what to
//! report.

pub mod limit;
pub mod notes;
pub mod track;
