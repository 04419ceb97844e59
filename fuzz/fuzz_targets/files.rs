//! The control files: keys of cookies that hosts share, and what an agent says of itself.
//!
//! Promised: no panic, and no error names a key. Keys are in order and far enough apart; those that are needed at any time are among
//! them; a file that is written is read as the same. What an agent says of itself is the same when it is written and read again.
#![no_main]

use std::{env, fs, path::PathBuf, sync::LazyLock};

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use tracker_fuzz::reached::reached;
use tracker_user::{
    agent::protect::{SHORTEST_ROTATION, key_file::KeyFile},
    client::agent::Agent,
};

static PATH: LazyLock<PathBuf> = LazyLock::new(|| env::temp_dir().join("tracker-fuzz.keys"));

/// Words that may be keys: as many hexadecimal digits as a key has.
fn keys(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_hexdigit());
    words.filter(|word| word.len() == 32)
}

fn all(file: &KeyFile) -> Vec<(Timestamp, [u64; 2])> {
    file.keys().iter().map(|key| (key.since, *key.key())).collect()
}

fn key_file(text: &str) {
    let mut file = match KeyFile::parse(text) {
        Ok(file) => file,
        Err(error) => {
            let said = format!("{error:#}");
            assert!(keys(text).all(|key| !said.contains(key)), "{said}");
            reached(|| "wrong keys");
            return;
        }
    };
    let known = all(&file);
    for pair in known.windows(2) {
        let apart = pair[1].0.duration_since(pair[0].0).as_secs();
        assert!(apart >= i64::from(SHORTEST_ROTATION));
    }
    let shown = format!("{file:?}");
    assert!(keys(text).all(|key| !shown.contains(key)));

    file.create(&PATH).expect("a file in the directory for temporary ones");
    let read = KeyFile::read(&PATH);
    let _ = fs::remove_file(&*PATH);
    assert_eq!(all(&read.expect("what was written can be read")), known);
    reached(|| if known.len() > 1 { "several keys" } else { "a key" });

    for (since, _) in &known {
        // A second before, at, and two minutes after each.
        for seconds in [-1, 0, 120] {
            let Ok(now) = since.checked_add(jiff::SignedDuration::from_secs(seconds)) else {
                continue;
            };
            let needed = file.needed(now);
            assert_eq!(needed.is_err(), now < known[0].0);
            for key in needed.unwrap_or_default() {
                assert!(known.contains(&(key.since, *key.key())));
            }
        }
    }
    let (last, _) = known[known.len() - 1];
    file.forget_old(last);
    let left = all(&file);
    assert!(known.ends_with(&left) && (1..=2).contains(&left.len()));
}

fn agent(text: &str) {
    let Ok(agent) = serde_json::from_str::<Agent>(text) else { return };
    // `view` reads the clock, which no two runs have in common.
    let _ = agent.client_interfaces();
    let written = serde_json::to_string(&agent).expect("it can be written");
    let again: Agent = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("it can be written"), written);
    reached(|| "an agent");
}

fuzz_target!(|text: &str| {
    key_file(text);
    agent(text);
});
