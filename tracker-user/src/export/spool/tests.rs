//! What becomes of records in a spool, whatever becomes of it.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use proptest::prelude::*;

use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("tracker-spool-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self, most_bytes: u64) -> Spool {
        Spool::open(&self.0, most_bytes).expect("a spool")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(number: u64) -> Vec<u8> {
    let padding = usize::try_from(number * 37 % 60).expect("it is small");
    format!("{number} {}\n", "x".repeat(padding)).into_bytes()
}

fn numbers(batch: &Batch) -> Vec<u64> {
    let text = String::from_utf8(batch.records.clone()).expect("what was written");
    text.lines()
        .map(|line| {
            let number = line.split(' ').next().and_then(|number| number.parse().ok());
            let number = number.expect("a number");
            assert_eq!(format!("{line}\n").into_bytes(), record(number), "it is as it was written");
            number
        })
        .collect()
}

/// Everything that is left, acknowledged.
fn drain(spool: &mut Spool) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some(batch) = spool.batch(100).expect("it can be read") {
        all.extend(numbers(&batch));
        spool.acknowledge(&batch);
    }
    assert_eq!(spool.waiting(), 0);
    all
}

#[test]
fn what_was_not_acknowledged_is_sent_again() {
    let directory = Directory::new("again");
    let mut spool = directory.open(1 << 20);
    for number in 0..10 {
        spool.append(&[record(2 * number), record(2 * number + 1)]).expect("room");
    }
    let first = spool.batch(1).expect("it can be read").expect("a batch");
    assert_eq!(numbers(&first), [0, 1]);
    spool.failed();
    assert_eq!(spool.batch(1).expect("it can be read").as_ref(), Some(&first));
    spool.acknowledge(&first);
    drop(spool);
    let mut spool = directory.open(1 << 20);
    assert_eq!(spool.waiting(), 18);
    assert_eq!(drain(&mut spool), (2..20).collect::<Vec<_>>());
    spool.append(&[record(20)]).expect("room");
    drop(spool);
    assert_eq!(drain(&mut directory.open(1 << 20)), [20]);
}

#[test]
fn the_oldest_go_where_there_is_no_room_and_are_counted() {
    const MOST: u64 = 4096;
    let directory = Directory::new("bound");
    let mut spool = directory.open(MOST);
    let mut on_disk = 0;
    for number in 0..1000 {
        spool.append(&[record(number)]).expect("room");
        on_disk = on_disk.max(spool.bytes());
    }
    assert!(on_disk <= MOST, "{on_disk}");
    let lost = spool.take_lost();
    let left = drain(&mut spool);
    assert_eq!(left, (lost..1000).collect::<Vec<_>>());
    assert!(left.len() > 30, "{}", left.len());
    // What is on its way is lost only where it does not arrive.
    for arrives in [true, false] {
        for number in 0..20 {
            spool.append(&[record(number)]).expect("room");
        }
        let batch = spool.batch(1).expect("it can be read").expect("a batch");
        for number in 20..500 {
            spool.append(&[record(number)]).expect("room");
        }
        if arrives {
            spool.acknowledge(&batch);
        } else {
            spool.failed();
        }
        let lost = spool.take_lost();
        let left = drain(&mut spool).len() as u64;
        assert_eq!(lost + left + u64::from(arrives), 500);
    }
}

#[test]
fn one_process_at_a_time() {
    let directory = Directory::new("lock");
    let _spool = directory.open(1 << 20);
    let error = Spool::open(&directory.0, 1 << 20).expect_err("it is taken");
    assert!(format!("{error:#}").contains("another process"), "{error:#}");
}

#[test]
fn a_full_disk_takes_nothing_and_leaves_what_is_there() {
    // In a mount namespace of this thread's own.
    let test = thread::spawn(|| {
        let directory = Directory::new("full");
        fs::create_dir(&directory.0).expect("a directory");
        unshare(CloneFlags::CLONE_NEWNS).expect("root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("root");
        mount(Some("tmpfs"), &directory.0, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))
            .expect("root");
        let mut spool = directory.open(1 << 30);
        let mut appended = 0;
        let error = loop {
            match spool.append(&[record(appended)]) {
                Ok(()) => appended += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.os_code(), Some(libc::ENOSPC), "{error:#}");
        for _ in 0..10 {
            assert!(spool.append(&[record(appended), vec![b'x'; 100_000]]).is_err());
        }
        // So it is after a crash.
        drop(spool);
        let mut spool = directory.open(1 << 30);
        assert_eq!(drain(&mut spool), (0..appended).collect::<Vec<_>>());
        assert_eq!(spool.take_lost(), 0);
    });
    test.join().expect("it holds");
}

const CHILD: &str = "TRACKER_SPOOL_OF_A_CHILD";

/// Not a test: what another one kills.
#[test]
fn killed() {
    let Some(directory) = env::var_os(CHILD) else { return };
    let mut spool = Spool::open(Path::new(&directory), 1 << 16).expect("a spool");
    let first: u64 = env::var("TRACKER_SPOOL_FIRST").expect("set").parse().expect("a number");
    for number in first.. {
        spool
            .append(&[record(3 * number), record(3 * number + 1), record(3 * number + 2)])
            .expect("room");
        println!("\nappended {number}");
        if number % 5 == 0
            && let Some(batch) = spool.batch(100).expect("it can be read")
        {
            println!("\nsent {} {}", batch.numbers.start, batch.numbers.end);
            spool.acknowledge(&batch);
        }
    }
}

#[test]
fn kill_9_loses_nothing_that_was_appended() {
    let directory = Directory::new("kill");
    let (mut next, mut delivered, mut appended) = (0, BTreeSet::new(), 0);
    for round in 0..20 {
        let mut child = Command::new(env::current_exe().expect("this"))
            .args(["--exact", "export::spool::tests::killed", "--nocapture"])
            .env(CHILD, &directory.0)
            .env("TRACKER_SPOOL_FIRST", next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut read = |most: usize| {
            let mut count = 0;
            for line in lines.by_ref().map_while(std::result::Result::ok) {
                let words: Vec<_> = line.split(' ').collect();
                match words[..] {
                    ["appended", number] => {
                        appended = number.parse::<u64>().expect("a number") + 1;
                    }
                    ["sent", from, to] => {
                        let number = |text: &str| text.parse::<u64>().expect("a number");
                        delivered.extend(number(from)..number(to));
                    }
                    _ => continue,
                }
                count += 1;
                if count == most {
                    break;
                }
            }
        };
        // At any point of its work.
        read(7 + round * 13 % 31);
        child.kill().expect("it runs");
        read(usize::MAX);
        child.wait().expect("it ended");
        let mut spool = directory.open(1 << 16);
        assert_eq!(spool.take_lost(), 0);
        let here: BTreeSet<_> = drain(&mut spool).into_iter().collect();
        // A record's number is its content here.
        delivered.extend(here);
        let missing: Vec<_> = (0..3 * appended).filter(|it| !delivered.contains(it)).collect();
        assert!(missing.is_empty(), "{missing:?} of {appended}");
        next = spool.next.div_ceil(3);
        assert_eq!(spool.next % 3, 0, "a frame is whole or not there");
        assert!(next >= appended);
    }
    assert!(appended > 50, "{appended}");
}

/// What happens to a spool.
#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Send {
        most_bytes: usize,
        arrives: bool,
    },
    Reopen,
    /// So many bytes of the last segment are missing, as after a crash of the host.
    Tear(u64),
    /// A byte somewhere is another one.
    Damage {
        segment: usize,
        at: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u64).prop_map(Step::Append),
        3 => (1..400_usize, any::<bool>())
            .prop_map(|(most_bytes, arrives)| Step::Send { most_bytes, arrives }),
        1 => Just(Step::Reopen),
        1 => (1..200_u64).prop_map(Step::Tear),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(segment, at)| Step::Damage { segment, at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each record that was appended is delivered, counted as lost, or was cut off at the very end; as it was, and in order.
    #[test]
    fn nothing_goes_unseen(steps in prop::collection::vec(step(), 1..60)) {
        let directory = Directory::new("property");
        let mut spool = directory.open(6000);
        // By the spool's numbers: what was cut off is written over.
        let mut contents = Vec::<u64>::new();
        let (mut fresh, mut lost, mut delivered) = (0, 0, BTreeSet::new());
        let mut was_damaged = false;
        for step in steps {
            match step {
                Step::Append(count) => {
                    let records: Vec<_> = (fresh..fresh + count).map(record).collect();
                    spool.append(&records).expect("room");
                    contents.extend(fresh..fresh + count);
                    fresh += count;
                }
                Step::Send { most_bytes, arrives } => {
                    if let Some(batch) = spool.batch(most_bytes).expect("it can be read") {
                        let sent = numbers(&batch);
                        let span = usize::try_from(batch.numbers.start).expect("small")
                            ..usize::try_from(batch.numbers.end).expect("small");
                        prop_assert_eq!(&sent[..], &contents[span]);
                        if arrives {
                            spool.acknowledge(&batch);
                            delivered.extend(sent);
                        } else {
                            spool.failed();
                        }
                    }
                }
                Step::Reopen | Step::Tear(_) | Step::Damage { .. } => {
                    lost += spool.take_lost();
                    let paths: Vec<_> =
                        spool.segments.iter().map(|it| (it.path.clone(), it.length)).collect();
                    drop(spool);
                    if let (Step::Tear(bytes), Some((path, length))) = (&step, paths.last()) {
                        let file = OpenOptions::new().write(true).open(path).expect("it is there");
                        file.set_len(length.saturating_sub(*bytes)).expect("it is ours");
                        was_damaged = true;
                    }
                    if let Step::Damage { segment, at } = step && !paths.is_empty() {
                        let (path, length) = &paths[segment % paths.len()];
                        if *length > 0 {
                            let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
                            let mut byte = [0];
                            file.read_exact_at(&mut byte, at % length).expect("it is there");
                            file.write_all_at(&[!byte[0]], at % length).expect("it is ours");
                            was_damaged = true;
                        }
                    }
                    spool = directory.open(6000);
                    // Only a damaged end is cut off.
                    let next = usize::try_from(spool.next).expect("small");
                    prop_assert!(next == contents.len() || was_damaged);
                    prop_assert!(next <= contents.len());
                    // Those that were sent before are not missing.
                    contents.truncate(next);
                }
            }
        }
        let (mut rest, mut last) = (Vec::new(), None);
        while let Some(batch) = spool.batch(300).expect("it can be read") {
            rest.extend(numbers(&batch));
            spool.acknowledge(&batch);
        }
        for number in &rest {
            prop_assert!(last < Some(*number), "in order");
            last = Some(*number);
        }
        delivered.extend(rest);
        lost += spool.take_lost();
        let missing = contents.iter().filter(|number| !delivered.contains(number)).count() as u64;
        prop_assert!(missing <= lost, "{} are missing, and {} were counted", missing, lost);
        if !was_damaged {
            // What was sent, and then went before it was acknowledged, may be counted, too.
            prop_assert_eq!(missing, lost);
        }
    }
}
