//! Counters and withheld replies.

use std::time::Duration;

use ringback_endpoint::{Moment, Stop};

use crate::bed::{BUCKET, on_both_backings, pattern, refusal, reply, wait_for, wait_until_idle};

on_both_backings! {
    async fn requests_and_bytes_are_counted(bed: &Bed) {
        bed.put("key", vec![0; 100_000]).await;
        bed.get("key").await;
        bed.get("key").await;
        bed.get("absent").await;
        let counters = bed.endpoint.counters();
        assert_eq!((counters.requests("PutObject"), counters.requests("GetObject")), (1, 3));
        assert_eq!((counters.requests("DeleteObject"), counters.refused), (0, 0));
        assert_eq!(counters.bytes_received, 100_000);
        assert!((200_000..201_000).contains(&counters.bytes_sent), "{counters:?}");
    }

    async fn the_high_water_mark_shows_requests_at_the_same_time(bed: &Bed) {
        for key in ["one", "two"] {
            bed.put(key, "one after the other").await;
        }
        assert_eq!(bed.endpoint.counters().active_max("PutObject"), 1);
        let upload = bed.client.create_multipart_upload().bucket(BUCKET).key("key").send().await.unwrap();
        let held = bed.endpoint.hold_replies();
        let parts: Vec<_> = (1..=4).map(|number| {
            let part = bed.client.upload_part().bucket(BUCKET).key("key").part_number(number);
            tokio::spawn(part.upload_id(upload.upload_id().unwrap()).body(pattern(1000, 0).into()).send())
        }).collect();
        wait_for(&bed.endpoint, "UploadPart", 4).await;
        drop(held);
        for part in parts {
            part.await.unwrap().unwrap();
        }
        wait_until_idle(&bed.endpoint, "UploadPart").await;
        assert_eq!(bed.endpoint.counters().active_max("UploadPart"), 4);
    }

    async fn a_withheld_reply_goes_out_when_the_guard_is_dropped(bed: &Bed) {
        let (one, other) = (bed.endpoint.hold_replies(), bed.endpoint.hold_replies());
        let put = bed.client.put_object().bucket(BUCKET).key("key").if_none_match("*");
        let put = tokio::spawn(put.body(b"bytes".to_vec().into()).send());
        wait_for(&bed.endpoint, "PutObject", 1).await;
        drop(one);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!put.is_finished());
        drop(other);
        put.await.unwrap().unwrap();
        assert_eq!(bed.get("key").await.unwrap(), b"bytes");
    }

    async fn a_request_whose_reply_is_withheld_is_applied(bed: &Bed) {
        let put = || bed.client.put_object().bucket(BUCKET).key("key").if_none_match("*");
        let held = bed.endpoint.hold_replies();
        let gives_up = tokio::spawn(put().body(b"bytes".to_vec().into()).send());
        while bed.endpoint.counters().bytes_received < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The whole body is there, and what is left to do takes microseconds.
        tokio::time::sleep(Duration::from_millis(300)).await;
        gives_up.abort();
        wait_until_idle(&bed.endpoint, "PutObject").await;
        drop(held);
        assert_eq!(bed.get("key").await.unwrap(), b"bytes");
        assert_eq!(refusal(put().send().await), reply(412, "PreconditionFailed"));
    }

    async fn a_request_stopped_on_its_arrival_is_never_applied(bed: &Bed) {
        let stopped = bed.endpoint.stop_at(second_put_of_key(Moment::Arrived));
        let put = || bed.client.put_object().bucket(BUCKET);
        put().key("other").body(b"bytes".to_vec().into()).send().await.unwrap();
        bed.put("key", "one").await;
        let two = tokio::spawn(put().key("key").body(b"two".to_vec().into()).send());
        stopped.reached().await;
        assert_eq!(bed.get("key").await.unwrap(), b"one");
        drop(stopped);
        assert_eq!(refusal(two.await.unwrap()), reply(503, "SlowDown"));
        assert_eq!(bed.get("key").await.unwrap(), b"one");
        bed.put("key", "three").await;
    }

    async fn a_request_stopped_when_applied_is_seen_by_others_before_it_is_answered(bed: &Bed) {
        let stopped = bed.endpoint.stop_at(second_put_of_key(Moment::Applied));
        bed.put("key", "one").await;
        let put = bed.client.put_object().bucket(BUCKET).key("key");
        let two = tokio::spawn(put.body(b"two".to_vec().into()).send());
        stopped.reached().await;
        assert_eq!(bed.get("key").await.unwrap(), b"two");
        assert!(!two.is_finished());
        drop(stopped);
        two.await.unwrap().unwrap();
    }
}

fn second_put_of_key(moment: Moment) -> Stop {
    Stop {
        operation: "PutObject".to_owned(),
        path_contains: "/key".to_owned(),
        nth: 2,
        moment,
    }
}
