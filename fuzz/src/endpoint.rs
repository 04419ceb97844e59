//! An end of a connection, as RFC 9293 section 3.10 has it, and as simple as it can be: whole segments, in order, one connection.
//!
//! Written from the RFC alone. RFC 5961 is part of it: RFC 9293 has taken its answers to RST and SYN over. Not in it are windows
//! that change, urgent data, options, and the end of TIME-WAIT.

/// The states of RFC 9293 section 3.3.2, by their names there, with underscores.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

impl State {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN_WAIT_1",
            Self::FinWait2 => "FIN_WAIT_2",
            Self::CloseWait => "CLOSE_WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
        }
    }
}

/// A segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; 0 without the flag.
    pub ack: u32,
    /// SYN, ACK, FIN and RST, as the header has them.
    pub flags: u8,
    /// Bytes of data.
    pub len: u32,
    /// Window.
    pub window: u16,
}

/// The FIN flag.
pub const FIN: u8 = 1;
/// The SYN flag.
pub const SYN: u8 = 2;
/// The RST flag.
pub const RST: u8 = 4;
/// The ACK flag.
pub const ACK: u8 = 16;

impl Segment {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// SEG.LEN: data, SYN and FIN.
    fn length(&self) -> u32 {
        self.len + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// Whether `low` < `x` =< `high`, modulo 2^32.
fn within(low: u32, x: u32, high: u32) -> bool {
    let distance = x.wrapping_sub(low);
    distance != 0 && distance <= high.wrapping_sub(low)
}

/// An end.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its state.
    pub state: State,
    was_listening: bool,
    iss: u32,
    snd_una: u32,
    snd_nxt: u32,
    snd_wnd: u32,
    rcv_nxt: u32,
    rcv_wnd: u16,
    /// Where its FIN is, once it is sent.
    fin: Option<u32>,
    /// What it sends next.
    out: Vec<Segment>,
}

impl Endpoint {
    /// One that is closed, or listens, will begin with this number and has a window of this size.
    #[must_use]
    pub fn new(listens: bool, iss: u32, rcv_wnd: u16) -> Self {
        Self {
            state: if listens { State::Listen } else { State::Closed },
            was_listening: listens,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            rcv_nxt: 0,
            rcv_wnd,
            fin: None,
            out: Vec::new(),
        }
    }

    /// Takes what it has sent since the last call.
    pub fn take(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.out)
    }

    /// Whether the peer has acknowledged everything.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.state, State::Closed | State::Listen) || self.snd_una == self.snd_nxt
    }

    fn send(&mut self, seq: u32, flags: u8, len: u32) {
        let ack = if flags & ACK == 0 { 0 } else { self.rcv_nxt };
        self.out.push(Segment { seq, ack, flags, len, window: self.rcv_wnd });
    }

    fn acknowledge(&mut self) {
        self.send(self.snd_nxt, ACK, 0);
    }

    /// Active OPEN: only of an end that has not been open.
    pub fn open(&mut self) {
        if self.state == State::Closed && self.snd_nxt == self.iss {
            self.state = State::SynSent;
            self.send(self.iss, SYN, 0);
            self.snd_nxt = self.iss.wrapping_add(1);
        }
    }

    /// What the peer's window has room for.
    fn room(&self) -> u32 {
        self.snd_wnd.saturating_sub(self.snd_nxt.wrapping_sub(self.snd_una))
    }

    /// SEND of so much, as far as the window allows it.
    pub fn write(&mut self, len: u32) {
        if matches!(self.state, State::Established | State::CloseWait) {
            let len = len.min(self.room());
            if len > 0 {
                self.send(self.snd_nxt, ACK, len);
                self.snd_nxt = self.snd_nxt.wrapping_add(len);
            }
        }
    }

    /// CLOSE, where it causes a segment, and the window has room for a FIN.
    pub fn close(&mut self) {
        if self.room() == 0 {
            return;
        }
        self.state = match self.state {
            State::SynReceived | State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            _ => return,
        };
        self.send(self.snd_nxt, FIN | ACK, 0);
        self.fin = Some(self.snd_nxt);
        self.snd_nxt = self.snd_nxt.wrapping_add(1);
    }

    /// ABORT, where it causes a segment.
    pub fn abort(&mut self) {
        if matches!(
            self.state,
            State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
                | State::CloseWait
        ) {
            self.send(self.snd_nxt, RST | ACK, 0);
            self.state = State::Closed;
        }
    }

    /// The retransmission timeout: everything that is not acknowledged, in one segment.
    pub fn retransmit(&mut self) {
        if self.is_acknowledged() {
            return;
        }
        match self.state {
            State::SynSent => self.send(self.iss, SYN, 0),
            _ if self.snd_una == self.iss => self.send(self.iss, SYN | ACK, 0),
            _ => {
                let fin = u8::from(self.fin.is_some());
                let len = self.snd_nxt.wrapping_sub(self.snd_una) - u32::from(fin);
                self.send(self.snd_una, ACK | (fin * FIN), len);
            }
        }
    }

    /// SEGMENT ARRIVES.
    pub fn receive(&mut self, segment: &Segment) {
        match self.state {
            State::Closed => self.refuse(segment),
            State::Listen => self.in_listen(segment),
            State::SynSent => self.in_syn_sent(segment),
            _ => self.synchronized(segment),
        }
    }

    /// Section 3.10.7.1.
    fn refuse(&mut self, segment: &Segment) {
        if segment.has(RST) {
            return;
        }
        let mut answer = Segment { seq: 0, ack: 0, flags: RST, len: 0, window: 0 };
        if segment.has(ACK) {
            answer.seq = segment.ack;
        } else {
            answer.ack = segment.seq.wrapping_add(segment.length());
            answer.flags |= ACK;
        }
        self.out.push(answer);
    }

    /// Section 3.10.7.2.
    fn in_listen(&mut self, segment: &Segment) {
        if segment.has(RST) {
        } else if segment.has(ACK) {
            self.refuse(segment);
        } else if segment.has(SYN) {
            self.rcv_nxt = segment.seq.wrapping_add(1);
            self.snd_wnd = segment.window.into();
            self.snd_una = self.iss;
            self.snd_nxt = self.iss.wrapping_add(1);
            self.fin = None;
            self.state = State::SynReceived;
            self.send(self.iss, SYN | ACK, 0);
        }
    }

    /// Section 3.10.7.3.
    fn in_syn_sent(&mut self, segment: &Segment) {
        let acknowledges = segment.has(ACK);
        if acknowledges && !within(self.iss, segment.ack, self.snd_nxt) {
            self.refuse(segment);
        } else if segment.has(RST) {
            if acknowledges {
                self.state = State::Closed;
            }
        } else if segment.has(SYN) {
            self.rcv_nxt = segment.seq.wrapping_add(1);
            self.snd_wnd = segment.window.into();
            if acknowledges {
                self.snd_una = segment.ack;
                self.state = State::Established;
                self.acknowledge();
            } else {
                self.state = State::SynReceived;
                self.send(self.iss, SYN | ACK, 0);
            }
        }
    }

    /// Section 3.10.7.4.
    fn synchronized(&mut self, segment: &Segment) {
        // First, the sequence number.
        let in_window = |seq: u32| seq.wrapping_sub(self.rcv_nxt) < u32::from(self.rcv_wnd);
        let length = segment.length();
        let last = segment.seq.wrapping_add(length.wrapping_sub(1));
        // Directly behind a full window an acknowledgment is taken, as Linux does. By the letter it is not, and two ends that both have
        // filled a window that was lost would acknowledge each other without an end.
        let is_behind = segment.seq == self.rcv_nxt.wrapping_add(self.rcv_wnd.into());
        let is_acceptable = in_window(segment.seq)
            || (length > 0 && in_window(last))
            || (length == 0 && is_behind && !segment.has(RST));
        if !is_acceptable {
            if !segment.has(RST) {
                self.acknowledge();
            }
            return;
        }
        // Second, RST.
        if segment.has(RST) {
            if segment.seq == self.rcv_nxt {
                let returns = self.state == State::SynReceived && self.was_listening;
                self.state = if returns { State::Listen } else { State::Closed };
            } else {
                self.acknowledge();
            }
            return;
        }
        // Fourth, SYN.
        if segment.has(SYN) {
            self.acknowledge();
            return;
        }
        // Fifth, ACK.
        if !segment.has(ACK) || !self.take_acknowledgment(segment) {
            return;
        }
        // Seventh, data; what lies ahead of a gap comes again.
        let is_whole = segment.seq.wrapping_sub(self.rcv_nxt).wrapping_sub(1) >= 1 << 31;
        let receives = matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !is_whole || !receives {
            if length > 0 {
                self.acknowledge();
            }
            return;
        }
        let old = self.rcv_nxt.wrapping_sub(segment.seq);
        self.rcv_nxt = self.rcv_nxt.wrapping_add(segment.len.saturating_sub(old));
        // Eighth, FIN.
        if segment.has(FIN) && self.rcv_nxt == segment.seq.wrapping_add(segment.len) {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            self.state = match self.state {
                State::Established => State::CloseWait,
                State::FinWait1 => State::Closing,
                State::FinWait2 => State::TimeWait,
                other => other,
            };
        }
        if length > 0 {
            self.acknowledge();
        }
    }

    /// Takes an acknowledgment, and says whether the segment is looked at further.
    fn take_acknowledgment(&mut self, segment: &Segment) -> bool {
        if self.state == State::SynReceived {
            if !within(self.snd_una, segment.ack, self.snd_nxt) {
                self.refuse(segment);
                return false;
            }
            self.state = State::Established;
        }
        if within(self.snd_una, segment.ack, self.snd_nxt) {
            self.snd_una = segment.ack;
        } else if within(self.snd_nxt, segment.ack, self.snd_nxt.wrapping_add(1 << 30)) {
            self.acknowledge();
            return false;
        }
        self.snd_wnd = segment.window.into();
        let is_fin_acknowledged = self.fin.is_some() && self.snd_una == self.snd_nxt;
        self.state = match self.state {
            State::FinWait1 if is_fin_acknowledged => State::FinWait2,
            State::Closing if is_fin_acknowledged => State::TimeWait,
            State::LastAck if is_fin_acknowledged => State::Closed,
            other => other,
        };
        true
    }
}
