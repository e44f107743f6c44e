//! Multipart uploads that nobody finishes, and what a listing tells.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ringback_datapath::store::{Listed, ObjectStore, Payload, Upload};
use tokio::time::timeout;

use crate::support::Bed;

const PATIENCE: Duration = Duration::from_secs(20);

async fn begun(store: &impl ObjectStore, object: &str) -> Arc<dyn Upload> {
    let upload = store.upload(object, 5 << 20).await.expect("begun");
    let payload = Payload::from(Bytes::from_static(b"part"));
    upload.part(1, payload).await.expect("sent");
    upload
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_below_a_prefix_are_given_up_however_many_and_no_others() {
    let bed = Bed::new().await;
    let store = bed.client(PATIENCE).store().await;
    // More than fit into one page of a listing, several of one name among them.
    for number in 0..1_010 {
        let name = format!("data/one/{}", number / 2);
        store.upload(&name, 5 << 20).await.expect("begun");
    }
    let other = begun(&store, "data/other/1").await;
    assert_eq!(
        store.abandon_uploads("data/one/").await.expect("listed"),
        1_010
    );
    assert_eq!(store.abandon_uploads("data/one/").await.expect("listed"), 0);
    other.complete(4).await.expect("still there");
    let expected = Listed {
        name: "data/other/1".to_owned(),
        bytes: 4,
    };
    assert_eq!(store.list("data/", None).await.expect("listed"), [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_settles_when_the_aborts_have_ended_that_it_was_given() {
    let bed = Bed::new().await;
    let store = bed.client(PATIENCE).store().await;
    let upload = begun(&store, "data/one/1").await;
    let held = bed.endpoint.hold_replies();
    store
        .background()
        .spawn(async move { upload.abort().await });
    let clone = store.with_patience(PATIENCE);
    timeout(Duration::from_millis(200), clone.settle())
        .await
        .expect_err("the abort has no reply yet");
    drop(held);
    clone.settle().await;
    assert_eq!(bed.endpoint.counters().requests("AbortMultipartUpload"), 1);
    assert_eq!(store.abandon_uploads("").await.expect("listed"), 0);
}
