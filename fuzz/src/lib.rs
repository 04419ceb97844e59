//! What the fuzz targets share: how an input is read, what was reached, and models that were written from the standards alone.

#[allow(clippy::cast_possible_truncation)]
// as the model has them: the lower bits of hashes and times
pub mod cookie;
pub mod endpoint;
pub mod frame;
pub mod input;
pub mod network;
pub mod reached;
