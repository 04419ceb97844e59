//! The tables of flows, and the SYN cache, on ordinary memory.

extern crate std;

use std::{cell::RefCell, collections::HashMap, rc::Rc, vec::Vec};

use crate::{
    key::FlowKey,
    syn_cache::{CacheSet, CacheSettings, CachedAddresses},
    track::Inserted,
};

/// A hash map whose records stay where they are until a packet is done with, as the kernel's do while a program runs.
#[derive(Debug)]
pub(super) struct Table<V> {
    pub(super) records: RefCell<HashMap<FlowKey, Rc<V>>>,
    deleted: RefCell<Vec<Rc<V>>>,
    capacity: usize,
}

impl<V: Clone> Table<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { records: RefCell::default(), deleted: RefCell::default(), capacity }
    }

    pub(super) fn get(&self, key: &FlowKey) -> Option<&V> {
        // SAFETY: a deleted record is kept until `forget_deleted`, which takes the table mutably.
        self.records.borrow().get(key).map(|record| unsafe { &*Rc::as_ptr(record) })
    }

    pub(super) fn insert(&self, key: &FlowKey, value: &V, replace: bool) -> Inserted {
        let mut records = self.records.borrow_mut();
        let exists = records.contains_key(key);
        if exists && !replace {
            return Inserted::Exists;
        }
        if !exists && records.len() >= self.capacity {
            return Inserted::Full;
        }
        self.deleted.borrow_mut().extend(records.insert(*key, Rc::new(value.clone())));
        Inserted::Done
    }

    pub(super) fn delete(&self, key: &FlowKey) {
        self.deleted.borrow_mut().extend(self.records.borrow_mut().remove(key));
    }

    pub(super) fn forget_deleted(&mut self) {
        self.deleted.get_mut().clear();
    }
}

/// Handshakes that have no record yet.
#[derive(Debug, Default)]
pub(super) struct SynCache {
    pub(super) settings: CacheSettings,
    pub(super) sets: Vec<CacheSet>,
    pub(super) addresses: Vec<CachedAddresses>,
}
