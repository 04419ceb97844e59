//! `tracker delete` and `tracker flush`: flows are forgotten before their time. The agent removes them, as it removes those whose
//! time is over: two processes that did would have one batch between them.

use std::io::{self, Write};

use anyhow::{Context, Result, anyhow, bail};
use clap::error::ErrorKind;
use nix::unistd::Uid;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixStream, unix::UCred},
};

use crate::{
    cli::{
        choice::{Choice, TcpOnly, check_interfaces},
        refusal,
    },
    client::request::{DELETE_NEEDS_ROOT, DeleteAnswer, DeleteRequest, DeleteResult},
    kernel::instance::Instance,
    model::{failure::Failure, flow_violations::ViolationFilter, format::Format},
};

/// Options of `tracker delete`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Which flows; `tracker flows` with the same filters shows them.
    #[command(flatten)]
    pub choice: Choice,
    /// Which rules.
    #[command(flatten)]
    pub broken: ViolationFilter,
    /// Nothing else.
    #[command(flatten)]
    pub tcp: TcpOnly,
}

/// Options of `tracker flush`.
#[derive(Clone, Debug, clap::Args)]
pub struct FlushOptions {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Deletes the flows that are asked for.
///
/// # Errors
///
/// Where no agent runs, or it refuses.
pub async fn run(options: &Options, instance: &Instance) -> Result<()> {
    let filter = options.choice.filter_with(&options.broken.violation, "delete")?;
    if filter.is_empty() {
        let said = "which flows? `tracker flush` deletes them all";
        return Err(refusal("delete", ErrorKind::MissingRequiredArgument, said));
    }
    check_interfaces(&filter, instance, "delete")?;
    delete(filter.to_string(), options.output, instance).await
}

/// Deletes every flow.
///
/// # Errors
///
/// As [`run`].
pub async fn flush(options: &FlushOptions, instance: &Instance) -> Result<()> {
    delete(String::new(), options.output, instance).await
}

async fn delete(words: String, output: Format, instance: &Instance) -> Result<()> {
    const OTHER: &str = "the agent is of another version";
    let mut stream =
        UnixStream::connect(instance.socket()).await.map_err(|error| instance.refused(error))?;
    let user = Uid::effective();
    let is_owner = |agent: UCred| agent.uid() == user.as_raw();
    // The agent would refuse, too, but its answer has no kind.
    if !user.is_root() && !stream.peer_cred().map_or(true, is_owner) {
        return Err(Failure::NotPermitted(DELETE_NEEDS_ROOT.to_owned()).into());
    }
    let mut request = serde_json::to_vec(&DeleteRequest { v: 1, delete: words })?;
    request.push(b'\n');
    stream.write_all(&request).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.context("reading from the agent")?;
    if answer.is_empty() {
        bail!("the agent has ended, or serves no more clients now");
    }
    let answer: DeleteAnswer = serde_json::from_str(&answer).context(OTHER)?;
    let count = match answer.result {
        DeleteResult::Deleted(count) => count,
        DeleteResult::Error(error) => return Err(anyhow!(error)),
    };
    let mut out = io::stdout().lock();
    match output {
        Format::Text => writeln!(io::stderr(), "{count} flows deleted")?,
        Format::Json | Format::Jsonl => writeln!(out, "{}", serde_json::to_string(&answer)?)?,
    }
    Ok(())
}
