//! Segments crafted byte by byte.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel,
    Ipv6Header, SingleVlanHeader, TcpHeader, VlanId, VlanPcp,
};

/// Flag bits as they stand in the header, AE (once NS) as bit 8.
#[allow(missing_docs)] // the names of RFC 9293
pub mod flag {
    pub const FIN: u16 = 0x001;
    pub const SYN: u16 = 0x002;
    pub const RST: u16 = 0x004;
    pub const PSH: u16 = 0x008;
    pub const ACK: u16 = 0x010;
    pub const URG: u16 = 0x020;
    pub const ECE: u16 = 0x040;
    pub const CWR: u16 = 0x080;
    pub const AE: u16 = 0x100;
}

/// A hardware address that no interface has.
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// A TCP segment in an IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Segment {
    source: SocketAddr,
    destination: SocketAddr,
    flags: u16,
    seq: u32,
    ack: u32,
    window: u16,
    payload: usize,
    options: Vec<u8>,
    hardware: [u8; 6],
    padded_to: usize,
    vlans: Vec<(EtherType, u16)>,
    /// IPv4 options, or IPv6 extension headers with the number of the first.
    ip_extra: (u8, Vec<u8>),
    more_fragments: bool,
    ip_length_zero: bool,
}

impl Segment {
    /// A segment without data.
    #[must_use]
    pub fn new(
        source: SocketAddr,
        destination: SocketAddr,
        flags: u16,
        seq: u32,
        ack: u32,
    ) -> Self {
        Self {
            source,
            destination,
            flags,
            seq,
            ack,
            window: 65_535,
            payload: 0,
            options: Vec::new(),
            hardware: NOBODY,
            padded_to: 0,
            vlans: Vec::new(),
            ip_extra: (0, Vec::new()),
            more_fragments: false,
            ip_length_zero: false,
        }
    }

    /// With so many bytes of data.
    #[must_use]
    pub fn data(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }

    /// With this window field.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// With these TCP options, which must fill a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// To this hardware address, instead of nobody's.
    #[must_use]
    pub fn addressed_to(mut self, address: [u8; 6]) -> Self {
        self.hardware = address;
        self
    }

    /// In a frame of at least so many bytes, zeroes after the packet.
    #[must_use]
    pub fn padded_to(mut self, bytes: usize) -> Self {
        self.padded_to = bytes;
        self
    }

    /// Inside one more VLAN tag.
    #[must_use]
    pub fn vlan(mut self, ether_type: u16, id: u16) -> Self {
        self.vlans.push((EtherType(ether_type), id));
        self
    }

    /// With IPv4 options.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_extra = (0, options.to_vec());
        self
    }

    /// With IPv6 extension headers; the last one's next header must be 6.
    #[must_use]
    pub fn extensions(mut self, first: u8, headers: &[u8]) -> Self {
        self.ip_extra = (first, headers.to_vec());
        self
    }

    /// As the first of several IPv4 fragments.
    #[must_use]
    pub fn first_fragment(mut self) -> Self {
        self.more_fragments = true;
        self
    }

    /// With an IP length of 0, as in BIG TCP.
    #[must_use]
    pub fn without_ip_length(mut self) -> Self {
        self.ip_length_zero = true;
        self
    }

    /// The frame. Its receiver's stack drops it, unless it was addressed to that ([`Segment::addressed_to`]).
    ///
    /// # Panics
    ///
    /// Where what was asked for cannot be written down.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let payload = vec![b'x'; self.payload];
        let (ip_type, ip, tcp) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip =
                    Ipv4Header::new(0, 64, IpNumber::TCP, source.octets(), destination.octets())
                        .expect("a payload of no length fits");
                ip.options = Ipv4Options::try_from(&self.ip_extra.1[..])
                    .expect("options in fours, 40 at most");
                ip.dont_fragment = !self.more_fragments;
                ip.more_fragments = self.more_fragments;
                ip.fragment_offset = IpFragOffset::ZERO;
                let mut tcp = self.tcp();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &payload).expect("it fits");
                ip.set_payload_len(tcp.header_len() + payload.len()).expect("it fits");
                if self.ip_length_zero {
                    ip.total_len = 0;
                }
                ip.header_checksum = ip.calc_header_checksum();
                (EtherType::IPV4, ip.to_bytes().to_vec(), tcp)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (first, extensions) = &self.ip_extra;
                let mut ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: if extensions.is_empty() {
                        IpNumber::TCP
                    } else {
                        IpNumber(*first)
                    },
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                let mut tcp = self.tcp();
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &payload).expect("it fits");
                if !self.ip_length_zero {
                    ip.set_payload_length(extensions.len() + tcp.header_len() + payload.len())
                        .expect("it fits");
                }
                (EtherType::IPV6, [&ip.to_bytes()[..], extensions].concat(), tcp)
            }
            _ => panic!("two addresses of one family"),
        };
        let mut types: Vec<EtherType> =
            self.vlans.iter().map(|(ether_type, _)| *ether_type).collect();
        types.push(ip_type);
        let mut frame = Ethernet2Header {
            destination: self.hardware,
            source: [0x02, 0, 0, 0, 0, 0x98],
            ether_type: types[0],
        }
        .to_bytes()
        .to_vec();
        for (n, (_, id)) in self.vlans.iter().enumerate() {
            let tag = SingleVlanHeader {
                pcp: VlanPcp::ZERO,
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(*id).expect("12 bits"),
                ether_type: types[n + 1],
            };
            frame.extend(tag.to_bytes());
        }
        frame.extend(ip);
        frame.extend(tcp.to_bytes());
        frame.extend(payload);
        frame.resize(frame.len().max(self.padded_to), 0);
        frame
    }

    fn tcp(&self) -> TcpHeader {
        let has = |bit| self.flags & bit != 0;
        let mut tcp =
            TcpHeader::new(self.source.port(), self.destination.port(), self.seq, self.window);
        tcp.acknowledgment_number = self.ack;
        tcp.fin = has(flag::FIN);
        tcp.syn = has(flag::SYN);
        tcp.rst = has(flag::RST);
        tcp.psh = has(flag::PSH);
        tcp.ack = has(flag::ACK);
        tcp.urg = has(flag::URG);
        tcp.ece = has(flag::ECE);
        tcp.cwr = has(flag::CWR);
        tcp.ns = has(flag::AE);
        tcp.set_options_raw(&self.options).expect("40 bytes at most");
        tcp
    }
}
