//! How many clients the agent's socket serves, in all and of one user: none can take the places of all others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Who is being served.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Mutex<Served>>);

#[derive(Debug, Default)]
struct Served {
    all: usize,
    /// Those that are not the owner's, by user.
    others: BTreeMap<u32, usize>,
}

impl Served {
    fn of_others(&self) -> usize {
        self.others.values().sum()
    }
}

/// A client's place, given up when dropped.
#[derive(Debug)]
pub struct Admitted {
    served: Arc<Mutex<Served>>,
    /// `None` for the owner.
    user: Option<u32>,
}

impl Admission {
    /// A place for a client of this user; the owner of the socket has some that no other can take.
    ///
    /// # Errors
    ///
    /// Where there is none, in words for the client.
    pub fn admit(&self, user: u32, is_owner: bool) -> Result<Admitted, String> {
        let mut served = lock(&self.0);
        if served.all >= MOST {
            return Err(format!("the agent serves {MOST} clients, and no more at a time"));
        }
        if !is_owner {
            let of_user = served.others.get(&user).copied().unwrap_or_default();
            if of_user >= MOST_OF_A_USER {
                return Err(format!(
                    "the agent serves {MOST_OF_A_USER} clients of one user, and no more at a time"
                ));
            }
            if served.of_others() >= MOST - OWNERS {
                return Err(format!(
                    "the agent serves {} clients of other users than its own, and no more at a time",
                    MOST - OWNERS
                ));
            }
            served.others.insert(user, of_user + 1);
        }
        served.all += 1;
        Ok(Admitted { served: Arc::clone(&self.0), user: (!is_owner).then_some(user) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut served = lock(&self.served);
        served.all -= 1;
        if let Some(user) = self.user
            && let Some(count) = served.others.get_mut(&user)
        {
            *count -= 1;
            if *count == 0 {
                served.others.remove(&user);
            }
        }
    }
}

fn lock(served: &Mutex<Served>) -> MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients at a time.
pub const MOST: usize = 256;

/// Clients of one user at a time, the owner aside.
pub const MOST_OF_A_USER: usize = 64;

/// Places that are the owner's alone.
const OWNERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_takes_the_places_of_others() {
        let admission = Admission::default();
        let admit = |user, is_owner| admission.admit(user, is_owner);
        let mut held: Vec<_> = (0..MOST_OF_A_USER).map(|_| admit(1, false).expect("one")).collect();
        assert!(admit(1, false).is_err_and(|why| why.contains("of one user")));
        for user in 2..4 {
            held.extend((0..MOST_OF_A_USER).map(|_| admit(user, false).expect("one")));
        }
        assert!(admit(4, false).is_err_and(|why| why.contains("other users")));
        held.extend((0..OWNERS).map(|_| admit(0, true).expect("the owner's")));
        assert!(admit(0, true).is_err_and(|why| why.contains("256")));
        // What is given up is free for others.
        held.truncate(MOST_OF_A_USER - 1);
        assert!(admit(1, false).is_ok() && admit(4, false).is_ok());
        drop(held);
        assert!(lock(&admission.0).others.is_empty() && lock(&admission.0).all == 0);
    }
}
