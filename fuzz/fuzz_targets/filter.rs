//! Filters in words.
//!
//! Promised: no panic, and what is wrong is said in a line. What a filter is shown as is a filter that matches the same, and is shown
//! in the same way. No flow that matches is outside of its scope.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tracker_fuzz::reached::reached;
use tracker_user::model::{filter, record::Record};

/// Flows to try filters on.
static RECORDS: LazyLock<Vec<Record>> = LazyLock::new(|| {
    let lines = include_str!("../records.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("a record")).collect()
});

fuzz_target!(|text: &str| {
    let _ = filter::may_begin(text);
    let filter = match filter::words(text) {
        Ok(filter) => filter,
        Err(said) => {
            assert!(!said.is_empty());
            reached(|| "refused");
            return;
        }
    };
    let shown = filter.to_string();
    let again =
        filter::words(&shown).unwrap_or_else(|said| panic!("{text:?} is {shown:?}: {said}"));
    assert_eq!(again.to_string(), shown, "{text:?}");
    assert_eq!((again.is_empty(), again.interfaces()), (filter.is_empty(), filter.interfaces()));
    assert_eq!(again.asks_for_rules(), filter.asks_for_rules());
    for record in &*RECORDS {
        let matches = filter.matches(record);
        assert_eq!(again.matches(record), matches, "{text:?} is {shown:?}");
        let ends = [(record.src, record.sport).into(), (record.dst, record.dport).into()];
        assert!(!matches || filter.scope().contains(ends), "{text:?}");
        reached(|| if matches { "a flow that matches" } else { "a flow that does not" });
    }
    for name in
        shown.split(' ').filter(|word| word.starts_with(|first: char| first.is_ascii_lowercase()))
    {
        const NAMES: [&str; 14] = [
            "addr",
            "and",
            "dport",
            "dst",
            "family",
            "interface",
            "min-bytes",
            "not",
            "or",
            "port",
            "sport",
            "src",
            "state",
            "violation",
        ];
        if NAMES.contains(&name) {
            reached(|| name);
        }
    }
});
