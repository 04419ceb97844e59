//! Places for clients: so many are served at a time, and a further one takes the place of another. So those that hang keep nobody
//! else out, and no address or user can take the places of others.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::AbortHandle;

/// Who has a place.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// An IPv4 address, or the network of 64 bits that an IPv6 address is in.
    Address(IpAddr),
    /// A user of this host; `None` where the kernel does not say which.
    User(Option<u32>),
}

impl Source {
    /// The source of a client with this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address => address,
        })
    }
}

/// Places, shared by all who hand them out.
#[derive(Clone, Debug)]
pub struct Places {
    count: usize,
    taken: Arc<Mutex<VecDeque<(Source, AbortHandle)>>>,
}

impl Places {
    /// So many free ones.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { count, taken: Arc::default() }
    }

    /// Gives a place to a client's task. Where there is none, the source with the most places loses its oldest, and its task is
    /// ended.
    pub fn give(&self, source: Source, task: AbortHandle) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|(_, task)| !task.is_finished());
        if taken.len() >= self.count
            && let Some(victim) = victim(taken.iter().map(|(source, _)| *source))
            && let Some((_, task)) = taken.remove(victim)
        {
            task.abort();
        }
        taken.push_back((source, task));
    }
}

/// Which place is lost, of those that these sources have, the oldest first.
fn victim(sources: impl Iterator<Item = Source> + Clone) -> Option<usize> {
    let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
    for source in sources.clone() {
        *counts.entry(source).or_default() += 1;
    }
    let most = counts.values().max()?;
    sources.into_iter().position(|source| counts.get(&source) == Some(most))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().expect(address))
    }

    #[test]
    fn who_has_the_most_loses_the_oldest() {
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(source);
        for (sources, expected) in [
            (&[][..], None),
            (&[a, a], Some(0)),
            (&[b, a, a], Some(1)),
            (&[a, b, b, a], Some(0)),
            (&[c, a, b, b, a, b], Some(2)),
        ] {
            assert_eq!(victim(sources.iter().copied()), expected, "{sources:?}");
        }
        assert_eq!(source("2001:db8::2"), c);
        assert_ne!(source("2001:db8:0:1::1"), c);
        assert_eq!(source("::ffff:192.0.2.1"), a);
    }

    #[tokio::test]
    async fn a_further_client_gets_a_place() {
        let places = Places::new(2);
        let mut tasks: Vec<_> = (0..3).map(|_| tokio::spawn(pending::<()>())).collect();
        for task in &tasks {
            places.give(Source::User(None), task.abort_handle());
        }
        let first = tasks.remove(0);
        assert!(first.await.is_err_and(|error| error.is_cancelled()));
        // One that has ended has no place any more.
        let second = tasks.remove(0);
        second.abort();
        assert!(second.await.is_err());
        let fourth = tokio::spawn(pending::<()>());
        places.give(Source::User(None), fourth.abort_handle());
        tokio::task::yield_now().await;
        assert!(tasks.iter().chain([&fourth]).all(|task| !task.is_finished()));
    }
}
