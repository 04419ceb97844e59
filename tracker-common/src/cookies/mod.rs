//! SYN cookies. Begin with [`cookie`], the number itself; [`answer`] is the SYN,ACK that carries it, [`protect`] what agent
//! and programs exchange, [`handshake`] what an accepted cookie stands for,
//! [`route`] what is offered by the route to a client.

pub mod answer;
pub mod cookie;
pub mod handshake;
mod keys;
pub mod protect;
pub mod route;
