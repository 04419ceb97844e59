//! SYN cookies. Begin with [`cookie`], the number itself; [`answer`] is the SYN,ACK that carries it, [`protect`] what agent
//! and programs exchange.

pub mod answer;
pub mod cookie;
pub mod protect;
