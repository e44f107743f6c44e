//! What a scrape is told: names, types and values.
//!
//! Where a stock TopoLVM node has a metric of the same meaning, it has that name here, too.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    jobs::ledger::{Balance, Moved},
    rooms::ClassSpace,
};

type Labels = Vec<(&'static str, String)>;

/// All metrics, in the text format.
pub(super) fn write(spaces: &[ClassSpace], balance: &Balance) -> String {
    let mut registry = Registry::default();
    add_rooms(&mut registry, spaces);
    add_jobs(&mut registry, balance);
    add_bytes(&mut registry, &balance.moved);
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes all that is written");
    text
}

#[expect(clippy::cast_precision_loss, reason = "values of metrics are doubles")]
fn add_rooms(registry: &mut Registry, spaces: &[ClassSpace]) {
    let mut add = |name, help, of: &dyn Fn(&ClassSpace) -> Option<f64>| {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for space in spaces {
            if let Some(value) = of(space) {
                let labels = vec![("device_class", space.name.clone())];
                family.get_or_create(&labels).set(value);
            }
        }
        registry.register(name, help, family);
    };
    add(
        "topolvm_volumegroup_size_bytes",
        "Size of the class's volume group",
        &|space| Some(space.group.size_bytes as f64),
    );
    add(
        "topolvm_volumegroup_available_bytes",
        "What the class's volume group has free, less the class's spare unless it is thin",
        &|space| {
            let pool = space.group.pool;
            Some(pool.map_or(space.free_bytes, |pool| pool.group_free_bytes) as f64)
        },
    );
    add(
        "topolvm_thinpool_size_bytes",
        "Size of the class's thin pool",
        &|space| space.group.pool.map(|pool| pool.size_bytes as f64),
    );
    add(
        "topolvm_thinpool_data_percent",
        "How much of the pool's data is in use",
        &|space| space.group.pool.map(|pool| pool.data_percent),
    );
    add(
        "topolvm_thinpool_metadata_percent",
        "How much of the pool's metadata is in use",
        &|space| space.group.pool.map(|pool| pool.metadata_percent),
    );
    add(
        "topolvm_thinpool_overprovisioned_available",
        "Bytes that may still be promised to volumes of the pool",
        &|space| space.group.pool.map(|_| space.group.free_bytes as f64),
    );
}

fn add_jobs(registry: &mut Registry, balance: &Balance) {
    let running = Family::<Labels, Gauge>::default();
    for (kind, count) in balance.running {
        let labels = vec![("kind", kind.name().to_owned())];
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        running.get_or_create(&labels).set(count);
    }
    registry.register(
        "ringback_jobs_running",
        "Jobs that have not ended, those that wait for their turn included",
        running,
    );
    let ended = Family::<Labels, Counter>::default();
    for (kind, outcome, count) in &balance.ended {
        let labels = vec![
            ("kind", kind.name().to_owned()),
            ("outcome", outcome.name().to_owned()),
        ];
        ended.get_or_create(&labels).inc_by(*count);
    }
    registry.register("ringback_jobs_ended", "Jobs that have ended", ended);
}

fn add_bytes(registry: &mut Registry, moved: &Moved) {
    for (name, help, bytes) in [
        (
            "ringback_read_bytes",
            "Bytes that backups read from volumes",
            moved.read,
        ),
        (
            "ringback_restored_bytes",
            "Bytes that restores wrote to volumes",
            moved.restored,
        ),
        (
            "ringback_sent_bytes",
            "Bytes of objects that stores acknowledged",
            moved.sent,
        ),
        (
            "ringback_received_bytes",
            "Bytes of objects that came from stores",
            moved.received,
        ),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(bytes);
        registry.register(name, help, counter);
    }
}
