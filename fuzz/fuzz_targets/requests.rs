//! What is said on the agent's socket: requests, and the events that come back.
//!
//! Promised: no panic, and no more than a line of 64 KiB is taken. A request is read in the same way however it arrives, and one that
//! was written by this program is understood. An event that is read and written is the same, and can be printed.
#![no_main]

use futures::FutureExt;
use libfuzzer_sys::fuzz_target;
use tokio::io::BufReader;
use tracker_fuzz::reached::reached;
use tracker_user::{
    agent::event_server::client_request::{ClientRequest, read_request},
    client::listen,
    model::filter,
};

/// Bytes of a request at most.
const LONGEST: usize = 65_536;

fn request(data: &[u8], at_once: usize) -> Result<Option<ClientRequest>, String> {
    let mut reader = BufReader::with_capacity(at_once, data);
    // There is nothing to wait for.
    let read = read_request(&mut reader).now_or_never().expect("memory is read at once");
    assert!(data.len() - reader.get_ref().len() <= LONGEST + at_once);
    read.map_err(|error| format!("{error:#}"))
}

fn text(request: &ClientRequest) -> String {
    serde_json::to_string(request).expect("it can be written")
}

fuzz_target!(|data: &[u8]| {
    let asked = request(data, 1 << 10);
    let trickled = request(data, 3);
    assert_eq!(format!("{asked:?}"), format!("{trickled:?}"));
    match &asked {
        Ok(Some(asked)) => {
            let line = text(asked);
            let again = request(line.as_bytes(), 1 << 10);
            assert_eq!(again.map(|again| again.as_ref().map(text)), Ok(Some(line)));
            match asked {
                ClientRequest::Delete(delete) => {
                    let _ = filter::words(&delete.delete);
                    reached(|| "delete");
                }
                ClientRequest::Maps(maps) => {
                    reached(|| format!("maps, repeated={}", maps.repeated));
                }
                ClientRequest::Events(events) => {
                    let scope = events.trace.unwrap_or_default();
                    let _ = scope.trace_filter();
                    reached(|| if events.trace.is_some() { "events of some" } else { "events" });
                }
            }
        }
        Ok(None) => assert!(data.is_empty()),
        Err(said) => {
            assert!(!said.is_empty());
            reached(|| "refused");
        }
    }

    let Ok(line) = std::str::from_utf8(data) else { return };
    if let Ok(event) = listen::read(line) {
        let written = serde_json::to_string(&event).expect("it can be written");
        let again = listen::read(&written).expect("what was written can be read");
        assert_eq!(serde_json::to_string(&again).expect("it can be written"), written);
        let _ = format!("{event} {event:#}");
        reached(|| if event.flow.is_some() { "an event of a flow" } else { "an event" });
    }
});
