//! The server: it sends back the one byte that a client sends.

use std::{net::TcpListener, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::oneshot,
    time::timeout,
};
use tracker_tests::sockets::listener;

use crate::cable::{Cable, service};

/// How long a client may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Echo {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    /// Listens at the server's end of a cable.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses.
    pub(crate) fn start(cable: &Cable) -> Result<Self> {
        let socket = listener(&cable.server.namespace, service())?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from(socket);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the server")?;
        let (stop, mut stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let Ok(socket) = tokio::net::TcpListener::from_std(socket) else { return };
                loop {
                    tokio::select! {
                        accepted = socket.accept() => if let Ok((client, _)) = accepted {
                            tokio::spawn(timeout(PATIENCE, answer(client)));
                        },
                        _ = &mut stopped => return,
                    }
                }
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// Sends a byte back, and waits for the client to close. One that has gone away meanwhile has its reasons.
async fn answer(mut client: TcpStream) {
    let mut byte = [0];
    if client.read_exact(&mut byte).await.is_ok() && client.write_all(&byte).await.is_ok() {
        let _ = client.read(&mut byte).await;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
