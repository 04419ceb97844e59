//! The listener's side of an agent's socket.

use std::io::{self, Write};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    client::request::EventRequest,
    kernel::instance::Instance,
    model::{
        error::{Context, Error, Result},
        event::Event,
    },
};

/// Bytes that are read at once, and written.
pub const CHUNK: usize = 65_536;

/// A connection to an agent, from which events come until the agent ends, or SIGINT or SIGTERM.
pub struct Listener {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// The agent sends for as long as this is open.
    _writer: OwnedWriteHalf,
    interrupt: Signal,
    terminate: Signal,
}

impl Listener {
    /// Asks the agent for events, and waits until none is missed any more; `None` where the user has had enough before.
    ///
    /// # Errors
    ///
    /// Where no agent runs, or this user may not ask it; the message says what to do.
    pub async fn connect(instance: &Instance, request: &EventRequest) -> Result<Option<Self>> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let stream = UnixStream::connect(instance.socket())
            .await
            .map_err(|error| instance.refused(error))?;
        let (reader, mut writer) = stream.into_split();
        let mut request = serde_json::to_vec(request)?;
        request.push(b'\n');
        writer.write_all(&request).await?;
        let lines = BufReader::with_capacity(CHUNK, reader).lines();
        let mut listener = Self { lines, _writer: writer, interrupt, terminate };
        // From here on none is missed.
        let Some(line) = listener.line().await? else { return Ok(None) };
        let first: First =
            serde_json::from_str(&line).context("the agent is of another version")?;
        if let Some(error) = first.error {
            return Err(Error::text(error));
        }
        if first.event.as_deref() != Some("LISTENING") {
            return Err(Error::text("the agent is of another version"));
        }
        Ok(Some(listener))
    }

    /// The next event, and the line that it came in; `None` where the user has had enough.
    ///
    /// # Errors
    ///
    /// Where the agent ended, or is of another version.
    pub async fn next(&mut self) -> Result<Option<(Event, String)>> {
        let Some(line) = self.line().await? else { return Ok(None) };
        Ok(Some((read(&line)?, line)))
    }

    /// Whether another line is here already: one that need not be waited for.
    #[must_use]
    pub fn has_more(&mut self) -> bool {
        self.lines.get_ref().buffer().contains(&b'\n')
    }

    /// The next line; `None` where the user has had enough.
    ///
    /// # Errors
    ///
    /// Where the agent ended.
    pub async fn line(&mut self) -> Result<Option<String>> {
        let line = tokio::select! {
            line = self.lines.next_line() => line.context("reading from the agent")?,
            _ = self.interrupt.recv() => return Ok(None),
            _ = self.terminate.recv() => return Ok(None),
        };
        let Some(line) = line else { return Err(Error::text("the agent ended")) };
        Ok(Some(line))
    }
}

/// The event of a line.
///
/// # Errors
///
/// Where the agent is of another version.
pub fn read(line: &str) -> Result<Event> {
    serde_json::from_str(line).context("the agent is of another version")
}

/// What the agent says first.
#[derive(serde::Deserialize)]
struct First {
    #[serde(default)]
    event: Option<String>,
    /// Why it sends no events.
    #[serde(default)]
    error: Option<String>,
}

/// Tells whoever waits for it that none is missed any more.
pub fn say_listening() {
    let _ = writeln!(io::stderr(), "listening");
}
