//! Behaviours H: opening.

use anyhow::Result;
use tracker_tests::{
    lab::{Bench, Connection},
    segment::flag::{ACK, SYN},
};

#[test]
fn h1_syn_then_syn_ack() -> Result<()> {
    let bench = Bench::new()?;
    let tcp = Connection::inbound(&bench);
    tcp.c_sends(&tcp.c(SYN, 1000, 0))?;
    assert_eq!(bench.states()?, "SYN_SENT/LISTEN");
    tcp.s_sends(&tcp.s(SYN | ACK, 5000, 1001))?;
    assert_eq!(bench.states()?, "SYN_SENT/SYN_RECEIVED");
    bench.nothing_reported()
}
