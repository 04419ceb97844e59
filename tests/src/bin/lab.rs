//! The demonstration: a private laboratory of two network namespaces, an agent on the cable between them, real sockets
//! and crafted segments, and what tracker says about them beside what is known to be true.
//!
//! It needs root, touches nothing outside its namespaces, and ends by itself. Exit code 0 if everything that was to be
//! seen was seen.

#[path = "lab/acts.rs"]
mod acts;
#[path = "lab/screen.rs"]
mod screen;
#[path = "lab/sockets.rs"]
mod sockets;
#[path = "lab/stage.rs"]
mod stage;
#[path = "lab/summary.rs"]
mod summary;

use std::{
    process::{self, ExitCode},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    screen::Screen,
    stage::{ARGUMENTS, Stage},
    summary::Summary,
};

/// The demonstration ends by then, whatever happens.
const DEADLINE: Duration = Duration::from_secs(27);

fn main() -> ExitCode {
    let screen = Screen::new();
    // SAFETY: takes nothing, and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!(
            "lab: this needs root, for network namespaces and the kernel programs: run it with sudo"
        );
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    let summary = Arc::new(Mutex::new(Summary::default()));
    end_in_time(screen, summary.clone());
    if let Err(error) = demonstrate(screen, &summary) {
        eprintln!("lab: {error:#}");
        summary.lock().unwrap_or_else(PoisonError::into_inner).missing("the whole demonstration");
    }
    let all = finish(screen, &summary.lock().unwrap_or_else(PoisonError::into_inner), began);
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn demonstrate(screen: Screen, summary: &Arc<Mutex<Summary>>) -> Result<()> {
    screen.heading("tracker, shown in a private laboratory");
    screen.say(
        "Two network namespaces, `host` (10.9.0.1, fd09::1) and `client` (10.9.0.2, fd09::2), are joined by a cable of \
         two veth interfaces. The agent is attached to the host's end. Nothing outside is touched, and all of it is \
         gone when this program ends.",
    );
    let mut stage = Stage::new(screen, summary.clone())?;
    screen.command(&format!(
        "tracker --instance {} run {}",
        stage.agent.name(),
        ARGUMENTS.join(" ")
    ));
    if let Some(line) = stage.agent.ask(&["stats"])?.lines().next() {
        screen.output(line);
    }
    screen.say("The commands below are given the same --instance.");
    let mut clients = acts::play(&mut stage);
    acts::end(stage, &mut clients)
}

/// Shows the summary; true if nothing is missing from it.
fn finish(screen: Screen, summary: &Summary, began: Instant) -> bool {
    screen.heading("Summary");
    summary.print(screen);
    let gaps = summary.gaps();
    let took = began.elapsed().as_secs_f64();
    screen.line("");
    if gaps.is_empty() {
        screen.say(&format!("Everything that was to be seen was seen, in {took:.1} s."));
        return true;
    }
    screen.say(&format!("After {took:.1} s these are missing: {}.", gaps.join("; ")));
    false
}

/// Ends the process when its time is over. The agent ends with it, and detaches.
fn end_in_time(screen: Screen, summary: Arc<Mutex<Summary>>) {
    let began = Instant::now();
    thread::spawn(move || {
        thread::sleep(DEADLINE);
        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
        summary.missing("an end in time");
        finish(screen, &summary, began);
        process::exit(1);
    });
}
