//! What a scrape tells of rooms is what LVM tells of them.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use ringback_proto::lvmd::Empty;

use crate::{
    client::ok,
    harness::{Daemon, GIB, MIB, wait_for},
    vg::{Bed, POOL, PROMISED_BYTES_MAX, VG, field, run, vg_free_bytes, write},
};

/// A bed whose classes spare 1 GiB each and whose daemon tells of them.
async fn bed() -> Bed {
    let mut bed = Bed::new().await;
    bed.daemon.kill();
    let address = ("RINGBACK_METRICS_BIND_ADDRESS", "127.0.0.1:0".to_owned());
    bed.daemon = Daemon::in_environment(vec![address], |_| {
        format!(
            "- {{ name: thick, volume-group: {VG}, default: true, spare-gb: 1 }}\n\
             - {{ name: thin, volume-group: {VG}, type: thin, spare-gb: 1,\n\
             \x20   thin-pool: {{ name: {POOL}, overprovision-ratio: 20.0 }} }}\n"
        )
    });
    bed.client = bed.daemon.client().await;
    bed
}

/// The address in the daemon's log.
async fn address(daemon: &Daemon) -> SocketAddr {
    wait_for("metrics", async || {
        let log = daemon.log();
        let (_, after) = log.split_once("metrics address=")?;
        let address = after.split_whitespace().next()?;
        Some(address.parse().expect("an address"))
    })
    .await
}

/// The series that tell of rooms.
async fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(address(daemon).await).expect("connects");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is answered");
    let series = answer.lines().filter(|line| line.starts_with("topolvm_"));
    let series = series.map(|line| line.rsplit_once(' ').expect("has a value"));
    series
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

fn number(text: &str) -> f64 {
    text.trim().parse().expect("a number")
}

/// What the series are to be.
#[expect(clippy::cast_precision_loss, reason = "values of metrics are doubles")]
fn expected(promised_bytes: u64) -> BTreeMap<String, f64> {
    let group = ["vgs", "--noheadings", "--units", "b", "--nosuffix"];
    let size = number(&run(&[&group[..], &["-o", "vg_size", VG]].concat()));
    let free = vg_free_bytes() as f64;
    let of_pool = |name| number(&field(POOL, name));
    let (data, metadata) = (of_pool("data_percent"), of_pool("metadata_percent"));
    assert!((data - metadata).abs() > 2.0, "{data} {metadata}");
    let overprovisioned = (PROMISED_BYTES_MAX - promised_bytes) as f64;
    [
        ("volumegroup_size_bytes", "thick", size),
        ("volumegroup_available_bytes", "thick", free - GIB as f64),
        ("volumegroup_size_bytes", "thin", size),
        ("volumegroup_available_bytes", "thin", free),
        ("thinpool_size_bytes", "thin", of_pool("lv_size")),
        ("thinpool_data_percent", "thin", data),
        ("thinpool_metadata_percent", "thin", metadata),
        (
            "thinpool_overprovisioned_available",
            "thin",
            overprovisioned,
        ),
    ]
    .map(|(name, class, value)| (format!("topolvm_{name}{{device_class=\"{class}\"}}"), value))
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_and_spares_are_told_to_scrapers_and_watchers_as_lvm_has_them() {
    let bed = bed().await;
    bed.create("thin", "data", 100 * MIB).await;
    write("data", 0, 32 * MIB, 7);
    let mut told = scrape(&bed.daemon).await;
    for (name, value) in &mut told {
        if name.contains("percent") {
            // As LVM rounds them.
            *value = number(&format!("{value:.2}"));
        }
    }
    assert_eq!(told, expected(100 * MIB));

    // A spare is kept back from those who ask, and is no matter of the pool's own figures.
    let left = PROMISED_BYTES_MAX - 100 * MIB;
    assert_eq!(bed.free_bytes("thin").await, left - GIB);
    let mut states = ok(bed.client.clone().vg.watch(Empty {}).await);
    let state = states.message().await.expect("a message").expect("one");
    let thin = state.items.iter().find(|item| item.device_class == "thin");
    let thin = thin.expect("an item of each class");
    let pool = thin.thin_pool.as_ref().expect("a pool");
    assert_eq!(
        (thin.free_bytes, pool.overprovision_bytes),
        (vg_free_bytes(), left)
    );
}
