//! What is kept of one connection. Begin with [`flow`], the record; [`key`] finds it, [`state`] derives both ends' RFC 9293
//! states from it.

pub mod conn_state;
pub mod flow;
pub mod history;
pub mod key;
pub mod owner;
pub mod state;
pub mod time;
