//! Captures written byte by byte, in every form that the formats have.

/// Byte orders.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Order {
    Little,
    Big,
}

impl Order {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Little, Self::Big];

    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// A number in this order.
    #[must_use]
    pub fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// A number in this order.
    #[must_use]
    pub fn i64(self, value: i64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// A packet to be written.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// What is captured of it, from its link header on.
    pub bytes: Vec<u8>,
    /// Its length on the wire.
    pub wire_len: u32,
}

impl Packet {
    /// A packet that was captured whole.
    #[must_use]
    pub fn new(time_ns: u64, bytes: Vec<u8>) -> Self {
        let wire_len = length(&bytes);
        Self { time_ns, bytes, wire_len }
    }

    /// Its first `snap` bytes.
    #[must_use]
    pub fn snapped(mut self, snap: usize) -> Self {
        self.bytes.truncate(snap);
        self
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a packet's length")
}

/// The forms of pcap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Form {
    Microseconds,
    Nanoseconds,
    /// Kuznetzov's, with longer records.
    Modified,
}

/// A file of the older format.
#[must_use]
pub fn pcap(order: Order, form: Form, link: u32, packets: &[Packet]) -> Vec<u8> {
    let magic = match form {
        Form::Microseconds => 0xa1b2_c3d4,
        Form::Nanoseconds => 0xa1b2_3c4d,
        Form::Modified => 0xa1b2_cd34,
    };
    let mut file = order.u32(magic).to_vec();
    file.extend(order.u16(2));
    file.extend(order.u16(4));
    for number in [0, 0, 262_144, link] {
        file.extend(order.u32(number));
    }
    let unit = if form == Form::Nanoseconds { 1 } else { 1000 };
    for packet in packets {
        let seconds = u32::try_from(packet.time_ns / 1_000_000_000).expect("before 2106");
        let rest = u32::try_from(packet.time_ns % 1_000_000_000 / unit).expect("below 10^9");
        for number in [seconds, rest, length(&packet.bytes), packet.wire_len] {
            file.extend(order.u32(number));
        }
        if form == Form::Modified {
            file.extend([0; 8]);
        }
        file.extend(&packet.bytes);
    }
    file
}

/// A file of the newer format, block after block.
#[derive(Clone, Debug)]
pub struct Ng {
    order: Order,
    file: Vec<u8>,
}

impl Ng {
    /// Its first section.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self { order, file: Vec::new() }.section(order)
    }

    /// Another section, with interfaces of its own.
    #[must_use]
    pub fn section(mut self, order: Order) -> Self {
        self.order = order;
        let mut body = order.u32(0x1a2b_3c4d).to_vec();
        body.extend(order.u16(1));
        body.extend(order.u16(0));
        body.extend(order.i64(-1));
        self.block(0x0a0d_0d0a, &body)
    }

    /// An interface, with options as pairs of code and value.
    #[must_use]
    pub fn interface(self, link: u16, snap: u32, options: &[(u16, &[u8])]) -> Self {
        let order = self.order;
        let mut body = order.u16(link).to_vec();
        body.extend([0; 2]);
        body.extend(order.u32(snap));
        for (code, value) in options {
            body.extend(order.u16(*code));
            body.extend(order.u16(u16::try_from(value.len()).expect("a short option")));
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        if !options.is_empty() {
            body.extend([0; 4]);
        }
        self.block(1, &body)
    }

    /// A packet of an interface, at `time` in its units.
    #[must_use]
    pub fn enhanced(self, interface: u32, time: u64, packet: &Packet) -> Self {
        let order = self.order;
        let mut body = order.u32(interface).to_vec();
        body.extend(Self::time(order, time));
        body.extend(order.u32(length(&packet.bytes)));
        body.extend(order.u32(packet.wire_len));
        body.extend(&packet.bytes);
        self.block(6, &body)
    }

    /// The same in the obsolete form.
    #[must_use]
    pub fn obsolete(self, interface: u16, time: u64, packet: &Packet) -> Self {
        let order = self.order;
        let mut body = order.u16(interface).to_vec();
        body.extend([0; 2]);
        body.extend(Self::time(order, time));
        body.extend(order.u32(length(&packet.bytes)));
        body.extend(order.u32(packet.wire_len));
        body.extend(&packet.bytes);
        self.block(2, &body)
    }

    /// A packet of the first interface, without a time.
    #[must_use]
    pub fn simple(self, packet: &Packet) -> Self {
        let mut body = self.order.u32(packet.wire_len).to_vec();
        body.extend(&packet.bytes);
        self.block(3, &body)
    }

    /// Any block; what it holds is padded.
    #[must_use]
    pub fn block(mut self, kind: u32, body: &[u8]) -> Self {
        let padded = body.len().next_multiple_of(4);
        let len = u32::try_from(padded + 12).expect("a block's length");
        self.file.extend(self.order.u32(kind));
        self.file.extend(self.order.u32(len));
        self.file.extend(body);
        self.file.resize(self.file.len() + padded - body.len(), 0);
        self.file.extend(self.order.u32(len));
        self
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.file.extend(bytes);
        self
    }

    /// The file so far.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        self.file.clone()
    }

    fn time(order: Order, time: u64) -> Vec<u8> {
        #[allow(clippy::cast_possible_truncation)] // the two halves
        let halves = [(time >> 32) as u32, time as u32];
        halves.iter().flat_map(|half| order.u32(*half)).collect()
    }
}
