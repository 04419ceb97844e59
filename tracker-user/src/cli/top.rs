//! `tracker top`: what goes on now, on a whole terminal, until it is enough.

mod detail;
mod feed;
mod model;
mod order;
mod sampler;
mod screen;

use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{Event as Input, KeyEventKind},
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracker_common::event::Kind;

use self::{
    feed::{Feed, Said},
    model::{Action, Model},
    order::Key,
    sampler::{Sample, Sampler},
    screen::Theme,
};
use crate::{
    cli::{
        choice::{Choice, TcpOnly, check_interfaces},
        exit_signals, terminal,
    },
    client::request::EventRequest,
    kernel::{instance::Instance, tables::Tables},
    model::{filter::Filter, flow_violations::ViolationFilter},
};

/// The screen is drawn no more often than this, however much happens; a key is answered at once.
const BETWEEN_DRAWINGS: Duration = Duration::from_millis(50);

/// Events that are taken over between two drawings.
const AT_ONCE: usize = 4096;

/// Options of `tracker top`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Seconds between refreshes
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::cli::flows::seconds)]
    pub every: f64,
    /// Sort key, descending
    #[arg(short, long, value_enum, default_value_t)]
    pub sort: Key,
    /// Sort ascending
    #[arg(short, long)]
    pub reverse: bool,
    /// Which flows; they can be changed by `/`.
    #[command(flatten)]
    pub choice: Choice,
    /// Which rules.
    #[command(flatten)]
    pub broken: ViolationFilter,
    /// Nothing else.
    #[command(flatten)]
    pub tcp: TcpOnly,
}

/// Shows flows until `q`, SIGINT or SIGTERM.
///
/// # Errors
///
/// Where stdin or stdout is no terminal, no agent runs, or its maps cannot be read.
pub async fn run(options: Options, instance: &Instance) -> Result<()> {
    let filter = options.choice.filter_with(&options.broken.violation, "top")?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "stdin and stdout are not both a terminal: `tracker flows --watch` writes into a pipe"
        );
    }
    // What is wrong from the beginning is said where it can be read afterwards.
    Tables::open(instance)?;
    check_interfaces(&filter, instance, "top")?;
    exit_signals::exit_on_signal()?;
    terminal::on_screen(async |terminal| show(terminal, &options, filter, instance).await).await
}

async fn show(
    mut terminal: DefaultTerminal,
    options: &Options,
    filter: Filter,
    instance: &Instance,
) -> Result<()> {
    let every = Duration::from_secs_f64(options.every);
    let theme = Theme { colour: terminal::colour(), unicode: terminal::unicode() };
    let mut model = Model::new(instance.name(), options, filter);
    let mut inputs = terminal::inputs();
    let mut events = Feed::start(instance, request());
    let mut segments: Option<Feed> = None;
    let sampler = Arc::new(Mutex::new(Sampler::new(instance)));
    let (samples, mut sampled) = mpsc::channel::<Result<Sample>>(1);
    let mut is_sampling = false;
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut drawn, mut is_dirty) = (Instant::now(), true);
    terminal.draw(|frame| screen::draw(frame, &mut model, theme))?;
    loop {
        tokio::select! {
            input = inputs.recv() => {
                let Some(input) = input else { bail!("the terminal is gone") };
                match input? {
                    Input::Key(key) if key.kind != KeyEventKind::Release => match model.key(key) {
                        Action::Nothing => {}
                        Action::Quit => return Ok(()),
                        Action::Look => tick.reset_immediately(),
                        Action::Follow(request) => {
                            segments = Some(Feed::start(instance, request));
                            tick.reset_immediately();
                        }
                        Action::Leave => segments = None,
                    },
                    Input::Resize(..) => {}
                    _ => continue,
                }
                terminal.draw(|frame| screen::draw(frame, &mut model, theme))?;
                (drawn, is_dirty) = (Instant::now(), false);
            }
            _ = tick.tick(), if !is_sampling && !model.is_paused() => {
                is_sampling = true;
                let (sampler, samples, wanted) = (Arc::clone(&sampler), samples.clone(), model.wanted());
                // A walk through millions of flows takes a while, and keys are to be answered meanwhile.
                spawn_blocking(move || {
                    let mut sampler = sampler.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = samples.blocking_send(sampler.look(&wanted));
                });
            }
            Some(sample) = sampled.recv() => {
                is_sampling = false;
                model.take(sample);
                is_dirty = true;
            }
            said = events.next() => {
                for said in said.into_iter().chain(events.ready(AT_ONCE)) {
                    model.hear(said);
                }
                is_dirty = true;
            }
            said = next_of(&mut segments) => {
                let rest = segments.iter_mut().flat_map(|feed| feed.ready(AT_ONCE)).collect::<Vec<Said>>();
                for said in said.into_iter().chain(rest) {
                    model.follow(said);
                }
                is_dirty = true;
            }
            () = sleep_until(drawn + BETWEEN_DRAWINGS), if is_dirty => {
                terminal.draw(|frame| screen::draw(frame, &mut model, theme))?;
                (drawn, is_dirty) = (Instant::now(), false);
            }
        }
    }
}

fn request() -> EventRequest {
    let events = [Kind::Violation, Kind::Cookie].map(|kind| kind.name().to_owned()).to_vec();
    EventRequest { v: 1, events, trace: None }
}

async fn next_of(feed: &mut Option<Feed>) -> Option<Said> {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}
