//! TLS handshakes, on a thread of their own: a signature takes milliseconds with some keys, for which the agent's loop has no
//! time.

use std::{sync::Arc, thread, time::Duration};

use rustls::ServerConfig;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    listener::{Client, Stream},
    places::Places,
};
use crate::{
    agent::privileges,
    model::error::{Context, Result},
};

/// Handshakes at a time. Clients that hang in one take no places of those that are being served. Each may need a signature before a
/// new one gets its own: 4 ms with RSA of 4096 bits.
const HANDSHAKES: usize = 16;

/// How long a handshake may take.
const LONGEST: Duration = Duration::from_secs(5);

/// Does handshakes until dropped.
pub struct Handshakes {
    thread: Handle,
    places: Places,
    /// Dropped to end the thread.
    _is_wanted: oneshot::Sender<()>,
}

impl Handshakes {
    /// Starts the thread. It has no capabilities.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (is_wanted, is_over) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        thread::Builder::new()
            .name("tls".to_owned())
            .spawn(move || {
                let result = privileges::drop_all();
                let may_go_on = result.is_ok();
                let _ = ready.send(result);
                if may_go_on {
                    let _ = runtime.block_on(is_over);
                }
            })
            .context("starting a thread for TLS")?;
        is_ready.recv().context("its thread has ended")??;
        Ok(Self { thread: handle, places: Places::new(HANDSHAKES), _is_wanted: is_wanted })
    }

    /// Begins a handshake, after which `serve` has the connection; it is called on the handshakes' thread, and must not wait.
    pub fn begin(
        &self,
        stream: Stream,
        client: Client,
        config: Arc<ServerConfig>,
        serve: impl FnOnce(TlsStream<Stream>, Client) + Send + 'static,
    ) {
        let task = self.thread.spawn(async move {
            match timeout(LONGEST, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => {
                    stream.get_ref().0.acknowledge();
                    serve(stream, client);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%client, "a TLS handshake for the metrics: {error}");
                }
                Err(error) => {
                    tracing::debug!(%client, "a TLS handshake for the metrics: {error}");
                }
            }
        });
        self.places.give(client.source(), task.abort_handle());
    }
}
