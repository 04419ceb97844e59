//! What is kept of one connection. Begin with [`flow`], the record; [`key`] finds it, [`state`] derives both ends' RFC 9293
//! states from it. [`syn_cache`] is what there is of a handshake before it is worth a record.

pub mod conn_state;
pub mod flow;
pub mod history;
pub mod key;
pub mod owner;
pub mod state;
pub mod syn_cache;
pub mod time;
