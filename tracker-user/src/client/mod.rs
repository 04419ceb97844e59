//! What a command needs to speak to a running agent: its information file, its socket, and its maps.
//!
//! It imports from `kernel` and `model`. Begin with [`source`], which finds an agent's maps, and [`request`], what a command
//! says on the socket; [`listen`] receives events, and [`map_sharing`] passes maps to users who may not open pins.

pub mod agent;
pub mod listen;
pub mod map_sharing;
pub mod request;
pub mod source;
