//! The brokers of a topic: which one leads a partition, a connection to each of these, and what they have taken.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use futures::future::join_all;
use sha1::{Digest, Sha1};
use tokio::time::{Instant, sleep};

use super::{
    Broker, Settings, batch,
    connection::{Access, Connection},
    message::{self, MOVED, OF_CONTENT},
    partitioner::partition,
    row::Row,
};
use crate::{
    export::relay::Refusal,
    model::error::{Context, Error, Result},
};

/// What is known of a cluster.
#[derive(Default)]
pub(super) struct Cluster {
    topology: Option<Topology>,
    /// To leaders, by their numbers.
    connections: HashMap<i32, Connection>,
    /// Rows that a broker has, though others of the same batches have to be sent again.
    taken: HashSet<[u8; 20]>,
}

/// Where the partitions are.
struct Topology {
    brokers: HashMap<i32, Broker>,
    leaders: Vec<Option<i32>>,
    asked: Instant,
}

/// Why a partition does not have rows.
enum Trouble {
    /// Its leader may be another broker by now.
    Moved(Error),
    Later(Error),
    Content(Error),
}

/// Rows of one partition, in their order.
struct Share<'a> {
    partition: i32,
    rows: VecDeque<Row<'a>>,
    trouble: Option<Trouble>,
}

impl Cluster {
    /// Sends rows, but for those that a broker has already, and returns when all are there.
    pub(super) async fn send(
        &mut self,
        settings: &Settings,
        access: &Access,
        rows: &[Row<'_>],
    ) -> Result<(), Refusal> {
        let mut left: Vec<Row<'_>> =
            rows.iter().filter(|row| !self.has_taken(row)).copied().collect();
        let outcome = self.send_all(settings, access, &mut left).await;
        if outcome.is_ok() {
            if !self.taken.is_empty() {
                rows.iter().for_each(|row| {
                    self.taken.remove(&digest(row));
                });
            }
            return Ok(());
        }
        if self.taken.len() > MOST_TAKEN {
            // These are of rows that the spool has lost. Others come twice.
            self.taken.clear();
        }
        let left: HashSet<_> = left.iter().map(|row| row.bytes.as_ptr()).collect();
        let taken = rows.iter().filter(|row| !left.contains(&row.bytes.as_ptr()));
        self.taken.extend(taken.map(digest));
        outcome
    }

    fn has_taken(&self, row: &Row<'_>) -> bool {
        !self.taken.is_empty() && self.taken.contains(&digest(row))
    }

    /// Sends rows, and takes those away that are there.
    async fn send_all(
        &mut self,
        settings: &Settings,
        access: &Access,
        left: &mut Vec<Row<'_>>,
    ) -> Result<(), Refusal> {
        for attempt in 1.. {
            if left.is_empty() {
                break;
            }
            let topology = self.topology(settings, access).await?;
            let shares = std::mem::take(left);
            let shares = self.send_once(settings, access, topology, shares).await;
            let mut first = None;
            let mut has_moved = false;
            for Share { rows, trouble, .. } in shares {
                left.extend(rows);
                has_moved |= matches!(trouble, Some(Trouble::Moved(_)));
                first = match (first, trouble) {
                    // What is to be sent again is before what is refused: only then is that known to be all.
                    (None | Some(Trouble::Content(_)), Some(trouble)) => Some(trouble),
                    (first, _) => first,
                };
            }
            match first {
                None => {}
                Some(Trouble::Moved(_)) if attempt < ATTEMPTS => {
                    self.topology = None;
                    sleep(BETWEEN_ATTEMPTS).await;
                }
                Some(Trouble::Moved(error) | Trouble::Later(error)) => {
                    self.topology = None;
                    return Err(error.into());
                }
                Some(Trouble::Content(error)) => {
                    if has_moved {
                        self.topology = None;
                    }
                    return Err(Refusal::Content(error));
                }
            }
        }
        Ok(())
    }

    /// Where the partitions are. Any broker that answers knows.
    async fn topology(&mut self, settings: &Settings, access: &Access) -> Result<Topology> {
        if let Some(topology) = self.topology.take()
            && topology.asked.elapsed() < LONGEST_TOPOLOGY
        {
            return Ok(topology);
        }
        let mut error = None;
        for broker in &settings.brokers {
            let asking = async {
                let mut connection = Connection::open(broker, access).await?;
                let metadata = connection.metadata(settings.topic.name()).await;
                metadata.with_context(|| format!("{broker}, topic {}", settings.topic.name()))
            };
            match asking.await {
                Ok(metadata) => {
                    let known = metadata.brokers.into_iter();
                    let brokers: HashMap<_, _> =
                        known.map(|(number, host, port)| (number, Broker { host, port })).collect();
                    return Ok(Topology {
                        brokers,
                        leaders: metadata.leaders,
                        asked: Instant::now(),
                    });
                }
                // What the first one says is what people look for.
                Err(it) => error = error.or(Some(it)),
            }
        }
        Err(error.unwrap_or_else(|| Error::text("no broker is named")))
    }

    /// Sends each partition's rows to its leader, all leaders at once, and returns what each partition does not have.
    async fn send_once<'a>(
        &mut self,
        settings: &Settings,
        access: &Access,
        topology: Topology,
        rows: Vec<Row<'a>>,
    ) -> Vec<Share<'a>> {
        let mut shares: BTreeMap<u32, VecDeque<Row<'a>>> = BTreeMap::new();
        let count = u32::try_from(topology.leaders.len()).unwrap_or(u32::MAX);
        for row in rows {
            // What has no key is anywhere, but always in the same place.
            let partition = partition(row.key.unwrap_or(row.value), count);
            shares.entry(partition).or_default().push_back(row);
        }
        let mut by_leader: BTreeMap<Option<i32>, Vec<Share<'a>>> = BTreeMap::new();
        for (partition, rows) in shares {
            let leader = topology.leaders.get(partition as usize).copied().flatten();
            let share = Share { partition: partition.cast_signed(), rows, trouble: None };
            by_leader.entry(leader).or_default().push(share);
        }
        let sending = by_leader.into_iter().map(|(leader, mut shares)| {
            let broker = leader.and_then(|leader| topology.brokers.get(&leader));
            let connection = leader.and_then(|leader| self.connections.remove(&leader));
            async move {
                let Some(broker) = broker else {
                    for share in &mut shares {
                        let error = format!("partition {} has no leader", share.partition);
                        share.trouble = Some(Trouble::Moved(Error::text(error)));
                    }
                    return (leader, None, shares);
                };
                let mut leader_of = Leader { settings, access, broker, connection };
                leader_of.send(&mut shares).await;
                (leader, leader_of.connection, shares)
            }
        });
        let mut all = Vec::new();
        for (leader, connection, shares) in join_all(sending).await {
            if let (Some(leader), Some(connection)) = (leader, connection) {
                self.connections.insert(leader, connection);
            }
            all.extend(shares);
        }
        self.topology = Some(topology);
        all
    }
}

/// A broker that leads partitions.
struct Leader<'a> {
    settings: &'a Settings,
    access: &'a Access,
    broker: &'a Broker,
    connection: Option<Connection>,
}

impl Leader<'_> {
    /// Sends the rows of its partitions, and takes those away that it has. The next rows of a partition are sent when it has those
    /// before them, so they are in order.
    async fn send(&mut self, shares: &mut [Share<'_>]) {
        let named = |error: Error| error.context(self.broker.to_string());
        loop {
            let is_open = |share: &Share<'_>| share.trouble.is_none() && !share.rows.is_empty();
            let mut open: Vec<_> = shares.iter_mut().filter(|share| is_open(share)).collect();
            if open.is_empty() {
                return;
            }
            let outcome = send_round(
                self.settings,
                self.access,
                self.broker,
                self.connection.take(),
                &mut open,
            );
            match outcome.await {
                Ok(connection) => self.connection = Some(connection),
                Err(trouble) => {
                    for share in open {
                        share.trouble = Some(match &trouble {
                            Broken::Connecting(error) => {
                                Trouble::Moved(Error::text(format!("{error:#}")))
                            }
                            Broken::Asking(error) => {
                                Trouble::Later(named(Error::text(format!("{error:#}"))))
                            }
                        });
                    }
                    return;
                }
            }
        }
    }
}

/// What is wrong with a leader as a whole.
enum Broken {
    /// It is not there: another one may lead by now.
    Connecting(Error),
    /// Whether it has what was sent is unknown.
    Asking(Error),
}

/// Sends one batch of each partition.
async fn send_round(
    settings: &Settings,
    access: &Access,
    broker: &Broker,
    connection: Option<Connection>,
    open: &mut [&mut Share<'_>],
) -> Result<Connection, Broken> {
    let mut connection = match connection.filter(|connection| !connection.is_over()) {
        Some(connection) => connection,
        None => Connection::open(broker, access).await.map_err(Broken::Connecting)?,
    };
    let (mut batches, mut counts) = (Vec::new(), Vec::new());
    for share in &mut *open {
        let count = count_of_batch(&share.rows);
        let rows: Vec<_> = share.rows.iter().take(count).copied().collect();
        let batch = batch::of(&rows, settings.compression);
        let batch = batch.context("compressing records").map_err(Broken::Asking)?;
        batches.push((share.partition, batch));
        counts.push(count);
    }
    let topic = settings.topic.name();
    let produced = connection.produce(topic, &batches).await.map_err(Broken::Asking)?;
    for (share, count) in open.iter_mut().zip(counts) {
        let named = |error: Error| {
            error.context(format!("{broker}, topic {topic}, partition {}", share.partition))
        };
        let found = produced.iter().find(|it| it.partition == share.partition);
        let Some(found) = found else {
            let error = Error::text("the broker says nothing of a batch");
            share.trouble = Some(Trouble::Later(named(error)));
            continue;
        };
        match message::refused(found.code, &found.said) {
            Ok(()) => drop(share.rows.drain(..count)),
            Err(error) => {
                let kind = match found.code {
                    code if MOVED.contains(&code) => Trouble::Moved,
                    code if OF_CONTENT.contains(&code) => Trouble::Content,
                    _ => Trouble::Later,
                };
                share.trouble = Some(kind(named(error)));
            }
        }
    }
    Ok(connection)
}

/// How many of some rows are a batch: one at least.
fn count_of_batch(rows: &VecDeque<Row<'_>>) -> usize {
    let mut bytes = 0;
    let fits = |row: &&Row<'_>| {
        bytes += row.bytes.len() + OVERHEAD;
        bytes <= MOST_OF_BATCH
    };
    rows.iter().take_while(fits).count().max(1)
}

fn digest(row: &Row<'_>) -> [u8; 20] {
    Sha1::digest(row.bytes).into()
}

/// How often rows are sent before there is a pause.
const ATTEMPTS: u32 = 3;

/// For brokers to agree on another leader.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// How long it is believed where partitions are, so that new ones are noticed.
const LONGEST_TOPOLOGY: Duration = Duration::from_secs(300);

/// Bytes of a batch before compression: a broker takes 1 MiB at most, unless it has another limit (`max.message.bytes`).
const MOST_OF_BATCH: usize = 1_000_000;

/// Bytes of a message besides key and value, at most.
const OVERHEAD: usize = 24;

/// Rows that are known to be there while others of their batches are not, at most.
const MOST_TAKEN: usize = 200_000;
