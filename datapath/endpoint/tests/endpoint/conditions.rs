//! Conditional writes and reads.

use crate::bed::{BUCKET, on_both_backings, refusal, reply};

/// Large enough for bodies to arrive in several pieces, so that writers overlap.
const BODY_LEN: usize = 300_000;

on_both_backings! {
    async fn of_16_racing_writers_exactly_one_creates_the_object(bed: &Bed) {
        for round in 0..20 {
            let key = format!("slot-{round}");
            let writers = (0..16_u8).map(|writer| {
                let put = bed.client.put_object().bucket(BUCKET).key(&key).if_none_match("*");
                tokio::spawn(put.body(vec![writer; BODY_LEN].into()).send())
            });
            let mut winners = Vec::new();
            for (writer, outcome) in (0..).zip(writers.collect::<Vec<_>>()) {
                match outcome.await.unwrap() {
                    Ok(_) => winners.push(writer),
                    refused => assert_eq!(refusal(refused), reply(412, "PreconditionFailed")),
                }
            }
            assert_eq!(winners.len(), 1, "round {round}");
            assert!(bed.get(&key).await.unwrap().iter().all(|byte| *byte == winners[0]));
        }
        assert_eq!(bed.partial_count(), 0);
    }

    async fn a_key_is_free_again_after_its_object_was_deleted(bed: &Bed) {
        let create = || bed.client.put_object().bucket(BUCKET).key("key").if_none_match("*").send();
        create().await.unwrap();
        assert_eq!(refusal(create().await), reply(412, "PreconditionFailed"));
        bed.client.delete_object().bucket(BUCKET).key("key").send().await.unwrap();
        create().await.unwrap();
    }

    async fn a_write_if_match_replaces_only_the_version_it_names(bed: &Bed) {
        let put = |etag: &str| bed.client.put_object().bucket(BUCKET).key("key").if_match(etag).send();
        assert_eq!(refusal(put("\"x\"").await), reply(404, "NoSuchKey"));
        bed.put("key", "1").await;
        let first = bed.client.head_object().bucket(BUCKET).key("key").send().await.unwrap();
        put(first.e_tag().unwrap()).await.unwrap();
        assert_eq!(refusal(put(first.e_tag().unwrap()).await), reply(412, "PreconditionFailed"));
    }

    async fn reads_heed_etags(bed: &Bed) {
        bed.put("key", "bytes").await;
        let get = || bed.client.get_object().bucket(BUCKET).key("key");
        let etag = get().send().await.unwrap().e_tag().unwrap().to_owned();
        get().if_match(&etag).send().await.unwrap();
        get().if_none_match("\"x\"").send().await.unwrap();
        assert_eq!(refusal(get().if_match("\"x\"").send().await), reply(412, "PreconditionFailed"));
        assert_eq!(refusal(get().if_none_match(&etag).send().await).0, 304);
    }
}
