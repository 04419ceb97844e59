//! Laboratories for tracker: private network namespaces that vanish with the process, an agent on real interfaces,
//! segments crafted byte by byte, real sockets, and the kernel's own tools as oracles.
//!
//! Nothing here leaves the namespaces it makes.

pub mod agent;
pub mod authority;
pub mod captures;
pub mod clickhouse;
pub mod conntrack;
pub mod counters;
pub mod crowd;
pub mod export;
pub mod fault;
pub mod fleet;
pub mod flood;
pub mod flows;
pub mod ipfix;
pub mod kafka;
pub mod kernel;
pub mod lab;
pub mod lifecycles;
pub mod namespace;
pub mod nft;
pub mod offer;
pub mod offload;
pub mod otlp;
pub mod pairs;
pub mod pcap;
pub mod random;
pub mod relay;
pub mod routed;
pub mod router;
pub mod segment;
pub mod sockets;
pub mod ss;
pub mod svg;
pub mod terminal;
pub mod tunnel;
pub mod way_in;
pub mod wire;
