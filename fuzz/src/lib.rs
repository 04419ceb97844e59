//! What the fuzz targets share: how an input is read, what was reached, and models that were written from the standards alone.

pub mod cookie;
pub mod endpoint;
pub mod frame;
pub mod input;
pub mod network;
pub mod reached;
