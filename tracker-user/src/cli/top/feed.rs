//! Events of the agent, for as long as somebody looks, across its restarts.

use std::time::Duration;

use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    client::{listen::Listener, request::EventRequest},
    kernel::instance::Instance,
    model::event::Event,
};

/// Between two attempts to reach an agent that is gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a feed says.
pub(super) enum Said {
    /// The agent listens: nothing is missed from here on.
    Connected,
    /// It does not, and why.
    Trouble(String),
    /// What happened.
    Event(Box<Event>),
}

/// Events that come until this is dropped.
pub(super) struct Feed {
    said: mpsc::Receiver<Said>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Asks the agent, again and again where it is not there.
    pub(super) fn start(instance: &Instance, request: EventRequest) -> Self {
        // The agent counts what this is too slow for, and says so in a LOST.
        let (sender, said) = mpsc::channel(8192);
        let instance = instance.clone();
        let task = tokio::spawn(async move {
            loop {
                let trouble = match follow(&instance, &request, &sender).await {
                    Ok(()) => return,
                    Err(error) => format!("{error:#}"),
                };
                if sender.send(Said::Trouble(trouble)).await.is_err() {
                    return;
                }
                sleep(PATIENCE).await;
            }
        });
        Self { said, task }
    }

    /// The next that it says, which may be long in coming.
    pub(super) async fn next(&mut self) -> Option<Said> {
        match self.said.recv().await {
            Some(said) => Some(said),
            // Its task ended because the process does.
            None => std::future::pending().await,
        }
    }

    /// What else has been said already.
    pub(super) fn ready(&mut self, most: usize) -> Vec<Said> {
        let mut all = Vec::new();
        while all.len() < most {
            match self.said.try_recv() {
                Ok(said) => all.push(said),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        all
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes events on until the agent or the process ends.
async fn follow(
    instance: &Instance,
    request: &EventRequest,
    to: &mpsc::Sender<Said>,
) -> anyhow::Result<()> {
    let Some(mut listener) = Listener::connect(instance, request).await? else { return Ok(()) };
    let mut said = Said::Connected;
    while to.send(said).await.is_ok() {
        let Some((event, _)) = listener.next().await? else { return Ok(()) };
        said = Said::Event(Box::new(event));
    }
    Ok(())
}
