//! Faults on purpose, as a client sees them that tries everything once.

use std::time::Duration;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use ringback_endpoint::{Fault, FaultPlan, Outage};
use tokio::time::{sleep, timeout};

use crate::bed::{BUCKET, Bed, PART_LEN, on_both_backings, pattern, refusal, reply, wait_for};

/// A PUT while each request meets this fault; what became of it.
async fn put_under(bed: &Bed, fault: Fault) -> (u16, String) {
    bed.endpoint.set_faults(Some(FaultPlan::always(fault)));
    let body = pattern(100_000, 1).into();
    let put = bed.client.put_object().bucket(BUCKET).key("key").body(body);
    let outcome = put.send().await;
    bed.endpoint.set_faults(None);
    assert_eq!(bed.endpoint.counters().faults(fault), 1, "{fault}");
    refusal(outcome)
}

/// Bytes of a GET while each request meets this fault; `None` when the body breaks off.
async fn get_under(bed: &Bed, fault: Fault) -> Option<Vec<u8>> {
    bed.endpoint.set_faults(Some(FaultPlan::always(fault)));
    let get = bed
        .client
        .get_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await;
    let body = get.unwrap().body.collect().await;
    bed.endpoint.set_faults(None);
    assert_eq!(bed.endpoint.counters().faults(fault), 1, "{fault}");
    Some(body.ok()?.to_vec())
}

/// The object once the outage is over. The client's pool may hold connections that are still being
/// reset: each of them costs one try.
async fn after_an_outage(bed: &Bed) -> Vec<u8> {
    for _ in 0..20 {
        let get = bed.client.get_object().bucket(BUCKET).key("key").send();
        if let Ok(reply) = get.await {
            return reply.body.collect().await.unwrap().to_vec();
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the outage is over and nothing comes");
}

on_both_backings! {
    async fn an_upload_that_meets_a_fault_is_refused_or_reset_and_not_applied(bed: &Bed) {
        for (fault, expected) in [
            (Fault::InternalError, reply(500, "InternalError")),
            (Fault::SlowDown, reply(503, "SlowDown")),
            (Fault::AccessDenied, reply(403, "AccessDenied")),
            (Fault::FlippedUpload, reply(400, "BadDigest")),
            (Fault::CutUpload, reply(400, "IncompleteBody")),
            // No status: nothing came.
            (Fault::ResetBefore, reply(0, "")),
        ] {
            assert_eq!(put_under(bed, fault).await, expected, "{fault}");
            assert_eq!(bed.get("key").await, None, "{fault}");
        }
    }

    async fn a_request_whose_reply_is_lost_is_applied(bed: &Bed) {
        assert_eq!(put_under(bed, Fault::ResetAfter).await, reply(0, ""));
        assert_eq!(bed.get("key").await.unwrap(), pattern(100_000, 1));
    }

    async fn a_download_arrives_with_one_bit_flipped_or_cut_or_short(bed: &Bed) {
        let bytes = pattern(3_000_000, 1);
        bed.put("key", bytes.clone()).await;
        let flipped = get_under(bed, Fault::FlippedDownload).await.unwrap();
        let bits = bytes.iter().zip(&flipped).map(|(sent, came)| (sent ^ came).count_ones());
        assert_eq!((flipped.len(), bits.sum::<u32>()), (bytes.len(), 1));
        assert_eq!(get_under(bed, Fault::CutDownload).await, None);
        let short = get_under(bed, Fault::ShortDownload).await.unwrap();
        assert!(!short.is_empty() && short.len() < bytes.len() && bytes.starts_with(&short));
        assert_eq!(bed.get("key").await.unwrap(), bytes);
    }

    async fn a_late_reply_comes(bed: &Bed) {
        bed.put("key", pattern(10, 1)).await;
        assert_eq!(get_under(bed, Fault::Delay).await.unwrap(), pattern(10, 1));
    }

    async fn a_completion_that_fails_with_status_200_leaves_the_upload(bed: &Bed) {
        let create = bed.client.create_multipart_upload().bucket(BUCKET).key("key");
        let upload = create.send().await.unwrap().upload_id.unwrap();
        let part = bed.client.upload_part().bucket(BUCKET).key("key").upload_id(&upload);
        let part = part.part_number(1).body(pattern(PART_LEN, 1).into()).send().await.unwrap();
        let listed = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag).build();
        let parts = CompletedMultipartUpload::builder().parts(listed).build();
        let complete = || {
            let complete = bed.client.complete_multipart_upload().bucket(BUCKET).key("key");
            complete.upload_id(&upload).multipart_upload(parts.clone()).send()
        };
        bed.endpoint.set_faults(Some(FaultPlan::always(Fault::ErrorInCompletion)));
        assert_eq!(refusal(complete().await), reply(200, "InternalError"));
        bed.endpoint.set_faults(None);
        assert_eq!(bed.endpoint.counters().faults(Fault::ErrorInCompletion), 1);
        assert_eq!(bed.get("key").await, None);
        complete().await.unwrap();
        assert_eq!(bed.get("key").await.unwrap(), pattern(PART_LEN, 1));
    }

    async fn in_an_outage_connections_are_reset_old_and_new_ones(bed: &Bed) {
        bed.put("key", pattern(10, 1)).await;
        let held = bed.endpoint.hold_replies();
        let get = tokio::spawn(bed.client.get_object().bucket(BUCKET).key("key").send());
        wait_for(&bed.endpoint, "GetObject", 1).await;
        bed.endpoint.set_outage(Some(Outage::Reset));
        assert_eq!(refusal(get.await.unwrap()), reply(0, ""));
        let get = || bed.client.get_object().bucket(BUCKET).key("key").send();
        assert_eq!(refusal(get().await), reply(0, ""));
        assert!(bed.endpoint.counters().cut_connections >= 2);
        drop(held);
        bed.endpoint.set_outage(None);
        assert_eq!(after_an_outage(bed).await, pattern(10, 1));
    }

    async fn in_a_silence_nothing_comes_and_afterwards_what_waited_is_reset(bed: &Bed) {
        bed.put("key", pattern(10, 1)).await;
        bed.endpoint.set_outage(Some(Outage::Silence));
        let mut get = tokio::spawn(bed.client.get_object().bucket(BUCKET).key("key").send());
        assert!(timeout(Duration::from_millis(300), &mut get).await.is_err());
        bed.endpoint.set_outage(None);
        assert_eq!(refusal(get.await.unwrap()), reply(0, ""));
        assert_eq!(after_an_outage(bed).await, pattern(10, 1));
    }

    async fn of_many_requests_some_meet_a_fault_and_the_counters_say_how_many(bed: &Bed) {
        bed.endpoint.set_faults(Some(FaultPlan {
            faults: vec![Fault::SlowDown, Fault::AccessDenied],
            ..FaultPlan::mixed(1, 300)
        }));
        let mut failed = 0;
        for _ in 0..100 {
            failed += u64::from(bed.client.head_bucket().bucket(BUCKET).send().await.is_err());
        }
        let counters = bed.endpoint.counters();
        let (slow, denied) = (counters.faults(Fault::SlowDown), counters.faults(Fault::AccessDenied));
        assert_eq!(slow + denied, failed);
        assert!(slow > 5 && denied > 5 && failed < 60, "{counters:?}");
    }
}
