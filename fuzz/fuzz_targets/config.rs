//! The configuration file.
//!
//! Promised: no panic, also of clap's checks of the command line, which a release build leaves out. Whatever is wrong is said in lines. A file in which nothing is wrong is taken by `tracker run`, and what
//! `tracker config show` prints of it means the same again.
#![no_main]

use std::{env, ffi::OsString, fs, path::PathBuf, process, sync::LazyLock};

use clap::CommandFactory;
use libfuzzer_sys::fuzz_target;
use tracker_fuzz::reached::reached;
use tracker_user::{
    agent::settings::Current,
    cli::{
        Cli,
        config::{
            file::{names_interfaces, problems},
            settings,
        },
    },
};

static PATH: LazyLock<PathBuf> =
    LazyLock::new(|| env::temp_dir().join(format!("tracker-fuzz-{}.toml", process::id())));

/// What `tracker run` makes of a file with this text.
fn settings(text: &str, has_interface: bool) -> Current {
    fs::write(&*PATH, text).expect("a file in the directory for temporary ones");
    let line = ["tracker", "run", "--config"].map(OsString::from).into_iter();
    let interface = (!has_interface).then(|| OsString::from("--interface=lo"));
    let current = settings::read(line.chain([PATH.clone().into()]).chain(interface).collect());
    let _ = fs::remove_file(&*PATH);
    current.unwrap_or_else(|error| panic!("nothing is wrong with {text:?}, and yet {error:#}"))
}

fuzz_target!(init: Cli::command().debug_assert(), |text: &str| {
    let found = problems(text);
    if !found.is_empty() {
        assert!(found.iter().all(|problem| !problem.trim().is_empty()));
        reached(|| "problems");
        return;
    }
    let once = settings(text, names_interfaces(text));
    let shown = once.to_string();
    let twice = settings(&shown, true);
    for (one, other) in once.settings.iter().zip(&twice.settings) {
        assert_eq!((&one.name, &one.value), (&other.name, &other.value), "{shown}");
        if text.contains(&one.name) {
            reached(|| one.name.clone());
        }
    }
});
