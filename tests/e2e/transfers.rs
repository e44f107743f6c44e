//! How data travels: signed by whom, and how much of it at once.

use std::path::Path;

use crate::{
    client::{synchronous, with_source},
    harness::{Daemon, MIB, class},
    store::{Store, assert_same_content, fill},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_credentials_is_signed_with_those_of_the_daemon_s_environment() {
    let store = Store::start().await;
    let environment = vec![
        (
            "AWS_ACCESS_KEY_ID",
            store.endpoint.access_key_id().to_owned(),
        ),
        (
            "AWS_SECRET_ACCESS_KEY",
            store.endpoint.secret_access_key().to_owned(),
        ),
    ];
    let daemon = Daemon::in_environment(environment, |folder| class("fast", folder, 0, true));
    let client = daemon.client().await;
    let volume = client.create("data", 8 * MIB).await;
    fill(&volume.path, 0, 4 * MIB, "data");
    let mut s3 = store.s3("monday");
    s3.access_key_id = String::new();
    s3.secret_access_key = String::new();
    client.back_up("data", &s3).await;
    let request = with_source("again", 1, &synchronous(&s3));
    let restored = client.clone().lv.create_lv(request).await;
    let restored = restored.expect("restores").into_inner().volume;
    assert_same_content(&volume.path, &restored.expect("a volume").path);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_parts_go_up_at_once_and_several_ranges_come_down() {
    let large_packs =
        |folder: &Path| class("fast", folder, 0, true) + "datapath: { packs-min: 1 }\n";
    let (daemon, store) = (Daemon::with(large_packs), Store::start().await);
    let client = daemon.client().await;
    let volume = client.create("data", 256 * MIB).await;
    fill(&volume.path, 0, 192 * MIB, "data");
    client.back_up("data", &store.s3("monday")).await;
    let request = with_source("again", 1, &synchronous(&store.s3("monday")));
    let restored = client
        .clone()
        .lv
        .create_lv(request)
        .await
        .expect("restores");
    let restored = restored.into_inner().volume.expect("a volume");
    assert_same_content(&volume.path, &restored.path);
    let counters = store.endpoint.counters();
    assert!(counters.active_max("UploadPart") >= 2, "{counters:?}");
    assert!(counters.active_max("GetObject") >= 2, "{counters:?}");
}
