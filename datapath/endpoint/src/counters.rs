//! What passed through the endpoint: requests by operation, how many at once, bytes in bodies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::faults::Fault;

/// A snapshot of what the endpoint has seen since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By S3 operation name, such as `PutObject`; operations never asked for are absent.
    pub operations: BTreeMap<String, OperationCounters>,
    /// Requests turned away before their operation was accepted: bad signatures, unknown
    /// operations.
    pub refused: u64,
    /// Bytes of request bodies as they came over the wire, aws-chunked framing included.
    pub bytes_received: u64,
    /// Bytes of reply bodies, XML included.
    pub bytes_sent: u64,
    /// Faults that were injected, by kind; those that never were are absent.
    pub faults: BTreeMap<Fault, u64>,
    /// Connections that an outage has cut.
    pub cut_connections: u64,
}

/// The requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounters {
    /// Requests that were accepted, whatever their outcome.
    pub requests: u64,
    /// Requests under way: from the checked signature to the last byte of the reply.
    pub active: u64,
    /// The most requests that were ever under way at the same time.
    pub active_max: u64,
}

impl Counters {
    /// Requests of one operation, by its S3 name.
    #[must_use]
    pub fn requests(&self, operation: &str) -> u64 {
        self.operations
            .get(operation)
            .map_or(0, |counters| counters.requests)
    }

    /// The most requests of one operation that were ever under way at the same time.
    #[must_use]
    pub fn active_max(&self, operation: &str) -> u64 {
        self.operations
            .get(operation)
            .map_or(0, |counters| counters.active_max)
    }

    /// Whether no request was under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.operations.values().all(|it| it.active == 0)
    }

    /// How often this fault was injected.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }
}

/// Where the gate writes down what passes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    operations: Mutex<BTreeMap<String, OperationCounters>>,
    refused: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    faults: Mutex<BTreeMap<Fault, u64>>,
    cut_connections: AtomicU64,
}

impl Ledger {
    pub(crate) fn snapshot(&self) -> Counters {
        Counters {
            operations: self.operations().clone(),
            refused: self.refused.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            faults: locked(&self.faults).clone(),
            cut_connections: self.cut_connections.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn begin(&self, operation: &str) {
        let mut operations = self.operations();
        let counters = operations.entry(operation.to_owned()).or_default();
        counters.requests += 1;
        counters.active += 1;
        counters.active_max = counters.active_max.max(counters.active);
    }

    pub(crate) fn end(&self, operation: &str) {
        if let Some(counters) = self.operations().get_mut(operation) {
            counters.active = counters.active.saturating_sub(1);
        }
    }

    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn receive(&self, byte_len: usize) {
        self.bytes_received
            .fetch_add(byte_len as u64, Ordering::Relaxed);
    }

    pub(crate) fn send(&self, byte_len: usize) {
        self.bytes_sent
            .fetch_add(byte_len as u64, Ordering::Relaxed);
    }

    pub(crate) fn injected(&self, fault: Fault) {
        *locked(&self.faults).entry(fault).or_default() += 1;
    }

    pub(crate) fn cut(&self) {
        self.cut_connections.fetch_add(1, Ordering::Relaxed);
    }

    fn operations(&self) -> MutexGuard<'_, BTreeMap<String, OperationCounters>> {
        locked(&self.operations)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_outlives_the_requests() {
        let ledger = Ledger::default();
        ledger.begin("GetObject");
        ledger.begin("GetObject");
        ledger.end("GetObject");
        ledger.end("GetObject");
        let counters = ledger.snapshot();
        assert_eq!(
            counters.operations["GetObject"],
            OperationCounters {
                requests: 2,
                active: 0,
                active_max: 2
            }
        );
        assert_eq!(counters.requests("PutObject"), 0);
        assert!(counters.is_idle());
        ledger.begin("GetObject");
        assert!(!ledger.snapshot().is_idle());
    }
}
