//! From a frame to a segment. Begin with [`packet`]; what cannot be read ends in a reason that is counted.

pub mod packet;
pub mod segment;
pub mod seq;
