//! From a packet to its flow. Begin with [`track`], which finds or creates the flow, applies the rules, and says what to
//! report; [`report`] decides which of that is delivered.

pub mod elsewhere;
pub mod limit;
pub mod notes;
pub mod report;
pub mod track;
