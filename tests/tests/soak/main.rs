//! Everything at once, for minutes. Connections come and go, SYNs are forged, agents are killed, settings are read again,
//! interfaces come and go, readers stop, clients hang. When it is over, packets, flows, events, descriptors, memory and pins
//! must be what the kernel and the test itself know.
//!
//! One agent protects its listeners, and is killed again and again. Another one lasts, and has all other troubles.
//! `TRACKER_SOAK_SECONDS` is how long (180 without it): `cargo xtask soak MINUTES`.

mod lasting;
mod mortal;
mod site;
mod span;
mod truth;

use std::{env, thread, time::Duration};

use anyhow::{Context, Result, anyhow};

use crate::span::Span;

#[test]
fn all_troubles_at_once_leave_everything_exact() -> Result<()> {
    let seconds = match env::var("TRACKER_SOAK_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("TRACKER_SOAK_SECONDS={text}"))?,
        Err(_) => 180,
    };
    let span = Span::new(Duration::from_secs(seconds));
    let parts: [fn(&Span) -> Result<String>; 2] = [mortal::story, lasting::story];
    let told = thread::scope(|scope| -> Result<Vec<String>> {
        let parts = parts.map(|part| {
            let span = &span;
            scope.spawn(move || span.part(|| part(span)))
        });
        // The failure that came first is the one to read.
        let results = parts.map(|part| part.join().map_err(|_| anyhow!("a part panicked")));
        results.into_iter().flatten().collect()
    })?;
    println!("{seconds} s\n{}", told.join("\n"));
    Ok(())
}
