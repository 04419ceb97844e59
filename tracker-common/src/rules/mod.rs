//! What one segment means for one flow. Begin with [`judge`]; [`predict`] recognizes the segments that nearly all are, and
//! [`violation`] names what breaks the protocol.

pub mod dropping;
pub mod judge;
pub mod predict;
pub mod violation;
