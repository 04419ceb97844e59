//! What a client asks for: one line of JSON, bounded in length and time, and the answer to one that is refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use crate::{
    client::request::{DeleteAnswer, DeleteRequest, DeleteResult, EventRequest, MapRequest},
    model::error::{Context, Error, Result},
};

/// Most bytes of a request.
const LONGEST_REQUEST: usize = 65_536;

/// How long a request may take to come, and the answer to one that is refused to go.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The version of requests and answers.
const VERSION: u64 = 1;

/// What a connection says first, in one line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum ClientRequest {
    /// To delete flows.
    Delete(DeleteRequest),
    /// For the agent's maps.
    Maps(MapRequest),
    /// For events, as they happen.
    Events(EventRequest),
}

/// What a client asks for, in one line; `None` where it has left without a word.
///
/// # Errors
///
/// Where it cannot be read, is too long, or asks for nothing that this agent knows.
pub async fn read_request(reader: impl AsyncBufRead + Unpin) -> Result<Option<ClientRequest>> {
    let mut line = Vec::new();
    let most = u64::try_from(LONGEST_REQUEST)?;
    reader.take(most).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if !line.ends_with(b"\n") && line.len() >= LONGEST_REQUEST {
        return Err(Error::text(format!(
            "a request is one line of {LONGEST_REQUEST} bytes at most"
        )));
    }
    let asked: Value = serde_json::from_slice(&line).context("a request is one line of JSON")?;
    match asked.get("v").and_then(Value::as_u64) {
        Some(VERSION) => {}
        other => {
            return Err(Error::text(format!(
                "this agent (tracker {}) understands requests of version {VERSION}, and not {}",
                env!("CARGO_PKG_VERSION"),
                other.map_or_else(
                    || "one without a version".to_owned(),
                    |v| format!("of version {v}")
                )
            )));
        }
    }
    let asks = |name: &str| asked.get(name).is_some();
    let is_known =
        asks("events") || asks("delete") || asked.get("lend") == Some(&Value::Bool(true));
    if !is_known {
        return Err(Error::text(format!(
            "this agent (tracker {}) knows no such request; there are `events`, `lend` and `delete`",
            env!("CARGO_PKG_VERSION")
        )));
    }
    Ok(Some(serde_json::from_value(asked).context("the request is not of a known form")?))
}

/// Tells a client why it gets nothing. One that does not read it is left.
pub(super) async fn refuse(writer: &mut OwnedWriteHalf, why: String) -> Result<()> {
    let mut line = serde_json::to_vec(&DeleteAnswer { v: 1, result: DeleteResult::Error(why) })?;
    line.push(b'\n');
    Ok(timeout(LONGEST_WAIT, writer.write_all(&line)).await??)
}

/// Waits until a client leaves, which says nothing more.
pub(super) async fn wait_for_close(reader: &mut BufReader<OwnedReadHalf>) -> Result<()> {
    let mut ignored = [0; 1024];
    let mut count = 0;
    loop {
        match reader.read(&mut ignored).await? {
            0 => return Ok(()),
            more => count += more,
        }
        if count > LONGEST_REQUEST {
            return Err(Error::text("it says more than it is asked"));
        }
    }
}
