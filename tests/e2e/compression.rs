//! Compression as configured: what the store gets, what is told of it, and what comes back.

use std::{fs::File, os::unix::fs::FileExt};

use crate::{
    client::{backup, ok, synchronous, with_source},
    harness::{Daemon, MIB, class},
    store::{Store, assert_same_content, fill},
};

/// Writes lines of text, none of them twice, to the beginning of the volume.
fn write_text(volume: &str, bytes: u64) {
    let lines = (0u64..).flat_map(|line| format!("{line}: nothing to report\n").into_bytes());
    let text: Vec<u8> = lines.take(usize::try_from(bytes).expect("fits")).collect();
    let file = File::options().write(true).open(volume);
    let file = file.expect("opens the volume");
    file.write_all_at(&text, 0).expect("writes to the volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_compression_makes_a_backup_smaller_says_so_and_gives_all_of_it_back() {
    let daemon = Daemon::with(|folder| {
        let class = class("fast", folder, 0, true);
        format!("{class}datapath: {{ compression: zstd-3 }}\n")
    });
    let (client, store) = (daemon.client().await, Store::start().await);
    let volume = client.create("data", 64 * MIB).await;
    write_text(&volume.path, 16 * MIB);
    fill(&volume.path, 32 * MIB, 4 * MIB, "content");

    let state = client
        .end_of(&backup("nightly", "data", &store.s3("monday")))
        .await;
    let told = "64.0 MiB backed up: 20.0 MiB (compressed to ";
    assert!(state.msg.starts_with(told), "{}", state.msg);
    let info = client.show(&store.s3("monday")).await.expect("it is there");
    let stats = info.stats.expect("has them");
    assert_eq!(stats.new_bytes, 20 * MIB);
    // Text becomes a fifth at most, random bytes stay.
    assert!(
        (4 * MIB..7 * MIB).contains(&stats.packed_bytes),
        "{stats:?}"
    );
    let received = store.endpoint.counters().bytes_received;
    assert!(received < stats.packed_bytes + MIB, "{received} {stats:?}");

    let again = with_source("again", 1, &synchronous(&store.s3("monday")));
    let again = ok(client.clone().lv.create_lv(again).await).volume;
    assert_same_content(&volume.path, &again.expect("the answer has it").path);
}
