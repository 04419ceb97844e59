//! Real clients: kernel sockets that connect, send a byte, get it back, and close.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    runtime,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::cable::{CLIENT, Cable, service};

/// New connections a second.
pub(crate) const RATE: u32 = 500;

/// A connection whose byte is not back by then has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

const FIRST_PORT: u16 = 10_000;

/// How many connections there can be before a port would have to be used again, which TIME_WAIT may forbid.
pub(crate) const MOST: u32 = 65_536 - FIRST_PORT as u32;

/// The clients of one cable. No two connections are from the same port.
#[derive(Debug)]
pub(crate) struct Clients {
    ports: std::ops::RangeInclusive<u16>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Load {
    /// For each connection, the time from its first SYN until the byte was back, or `None` where it failed.
    pub(crate) times: Vec<Option<Duration>>,
    /// For which part of the time the clients were ready to run and had to wait for their core, where the kernel knows.
    pub(crate) waited: Option<f64>,
}

impl Clients {
    /// Those of a new cable.
    pub(crate) fn new() -> Self {
        Self { ports: FIRST_PORT..=u16::MAX }
    }

    /// Connects [`RATE`] times a second, and waits for the last one.
    ///
    /// # Errors
    ///
    /// Where there are no sockets or no ports left. That a connection fails is no error.
    pub(crate) fn connect(&mut self, cable: &Cable, length: Duration) -> Result<Load> {
        cable.clients.namespace.enter(|| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (started, waiting) = (Instant::now(), waiting());
            let times = runtime.block_on(self.connect_all(length))?;
            let waited = waiting.zip(self::waiting()).map(|(before, after)| {
                after.saturating_sub(before).as_secs_f64() / started.elapsed().as_secs_f64()
            });
            Ok(Load { times, waited })
        })
    }

    async fn connect_all(&mut self, length: Duration) -> Result<Vec<Option<Duration>>> {
        let mut ticks = interval(Duration::from_secs(1) / RATE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut running = JoinSet::new();
        for _ in 0..u128::from(RATE) * length.as_millis() / 1_000 {
            ticks.tick().await;
            let port = self.ports.next().context("the real clients have used all their ports")?;
            let socket = TcpSocket::new_v4().context("opening a client's socket")?;
            socket
                .bind(SocketAddr::new(IpAddr::V4(CLIENT), port))
                .context("binding a client's socket")?;
            running.spawn(attempt(socket));
        }
        Ok(running.join_all().await)
    }
}

/// The time until the byte is back, or `None` where that takes too long or the connection fails.
async fn attempt(socket: TcpSocket) -> Option<Duration> {
    let started = Instant::now();
    let exchange = async {
        let mut stream = socket.connect(service()).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await
    };
    timeout(TIMEOUT, exchange).await.ok()?.ok()?;
    Some(started.elapsed())
}

/// How long this thread has waited for a core since it began, where the kernel knows.
fn waiting() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split_whitespace().nth(1)?.parse().ok()?))
}
