//! What is done to the sockets of one connection, at random.

use std::{collections::VecDeque, io, net::Shutdown, time::Duration};

use anyhow::Result;
use socket2::Socket;

use crate::random::Random;

/// An end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Who {
    Client,
    Server,
}

impl Who {
    pub(super) const BOTH: [Self; 2] = [Self::Client, Self::Server];
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Send(Who, usize),
    Read(Who),
    HalfClose(Who),
    /// Closes after having read what has come.
    Close(Who),
    /// Closes without reading: an RST if something has come.
    CloseUnread(Who),
    Reset(Who),
    /// Nothing more in this round.
    Rest,
}

impl Act {
    pub(super) fn who(self) -> Option<Who> {
        match self {
            Self::Send(who, _)
            | Self::Read(who)
            | Self::HalfClose(who)
            | Self::Close(who)
            | Self::CloseUnread(who)
            | Self::Reset(who) => Some(who),
            Self::Rest => None,
        }
    }
}

/// An act, and how long after the one before it.
pub(super) type Step = (Duration, Act);

/// One end's socket.
pub(super) enum Slot {
    /// Not opened, or not accepted yet.
    Nothing,
    Connecting(Socket),
    Open(Socket),
    /// Closed by us, or by a reset.
    Gone,
}
/// A life that may last for many rounds.
pub(super) fn script(random: &mut Random) -> VecDeque<Step> {
    use Who::{Client, Server};
    let mut steps = VecDeque::new();
    // Whose sockets exist, and whose can still send.
    let (mut exist, mut speak) = (vec![Client, Server], vec![Client, Server]);
    for _ in 0..=random.below(16) {
        if exist.is_empty() {
            break;
        }
        let who = random.pick(&exist);
        let roll = random.below(100);
        let step = match roll {
            0..45 if !speak.is_empty() => {
                Act::Send(random.pick(&speak), random.pick(&[1, 100, 1400, 3000, 9000]))
            }
            0..66 => Act::Read(who),
            66..72 => Act::Rest,
            72..82 if speak.contains(&who) => Act::HalfClose(who),
            72..92 => Act::Close(who),
            92..96 => Act::CloseUnread(who),
            _ => Act::Reset(who),
        };
        let wait = match random.below(5) {
            0 | 1 => 0,
            2 | 3 => random.below(5000),
            _ => random.below(30_000),
        };
        steps.push_back((Duration::from_micros(wait), step));
        if matches!(step, Act::HalfClose(_) | Act::Close(_)) && random.percent(25) {
            // Both at once.
            let other = if who == Client { Server } else { Client };
            steps.push_back((
                Duration::ZERO,
                match step {
                    Act::HalfClose(_) => Act::HalfClose(other),
                    _ => Act::Close(other),
                },
            ));
            forget(&mut exist, &mut speak, other, step);
            if matches!(step, Act::HalfClose(_)) && random.percent(20) {
                let reset = Act::Reset(random.pick(&[Client, Server]));
                steps.push_back((Duration::ZERO, reset));
                forget(&mut exist, &mut speak, reset.who().unwrap_or(other), reset);
            }
        }
        forget(&mut exist, &mut speak, who, step);
    }
    steps
}

pub(super) fn forget(exist: &mut Vec<Who>, speak: &mut Vec<Who>, who: Who, act: Act) {
    match act {
        Act::Send(..) | Act::Read(_) | Act::Rest => {}
        Act::HalfClose(_) => speak.retain(|one| *one != who),
        Act::Close(_) | Act::CloseUnread(_) | Act::Reset(_) => {
            speak.retain(|one| *one != who);
            exist.retain(|one| *one != who);
        }
    }
}

impl Slot {
    /// Finds out what has become of a socket: of what it died, if it has.
    pub(super) fn look(&mut self) -> Result<Option<io::Error>> {
        let (Self::Connecting(socket) | Self::Open(socket)) = &*self else { return Ok(None) };
        let is_connected = socket.peer_addr().is_ok();
        match std::mem::replace(self, Self::Gone) {
            Self::Connecting(socket) | Self::Open(socket) if is_connected => {
                *self = Self::Open(socket);
            }
            Self::Connecting(socket) => match socket.take_error()? {
                None => *self = Self::Connecting(socket),
                error => return Ok(error),
            },
            Self::Open(socket) => return Ok(socket.take_error()?),
            _ => {}
        }
        Ok(None)
    }
}

pub(super) fn perform(socket: &Socket, act: Act) -> Result<()> {
    let done = match act {
        Act::Send(_, bytes) => socket.send(&vec![b'x'; bytes]).map(drop),
        Act::HalfClose(_) => socket.shutdown(Shutdown::Write),
        Act::Read(_) => return read_all(socket),
        Act::Close(_) => {
            read_all(socket)?;
            socket.shutdown(Shutdown::Write)
        }
        Act::Reset(_) => socket.set_linger(Some(Duration::ZERO)),
        Act::CloseUnread(_) | Act::Rest => Ok(()),
    };
    forgive(done)
}

/// Takes what has come.
pub(super) fn read_all(socket: &Socket) -> Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 16_384];
    loop {
        match socket.recv(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return forgive(Err(error)),
        }
    }
}

/// What may happen to a socket whose peer does as it likes.
pub(super) fn forgive(done: io::Result<()>) -> Result<()> {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, WouldBlock};
    match done {
        Err(error)
            if ![WouldBlock, BrokenPipe, ConnectionReset, ConnectionRefused, NotConnected]
                .contains(&error.kind()) =>
        {
            Err(error.into())
        }
        _ => Ok(()),
    }
}
