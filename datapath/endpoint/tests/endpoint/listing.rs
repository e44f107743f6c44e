//! ListObjectsV2: order, prefixes, delimiters, pages.

use aws_sdk_s3::types::EncodingType;
use futures::{StreamExt, stream};

use crate::bed::{BUCKET, Bed, on_both_backings, refusal, reply};

on_both_backings! {
    async fn pages_hold_2500_keys_in_byte_order(bed: &Bed) {
        let keys: Vec<String> = (0..2500).map(|number| format!("key/{number:04}")).collect();
        // In no order in particular.
        stream::iter(keys.iter().rev()).for_each_concurrent(8, |key| bed.put(key, "")).await;

        let first = bed.client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        assert_eq!((first.key_count(), first.is_truncated()), (Some(1000), Some(true)));
        for max_keys in [None, Some(1000), Some(5000), Some(700), Some(1250), Some(2500)] {
            let (listed, pages) = list_all(bed, max_keys).await;
            assert_eq!(listed, keys);
            let page_len = max_keys.unwrap_or(1000).min(1000);
            assert_eq!(pages, (2500 + page_len - 1) / page_len, "{max_keys:?}");
        }
    }

    async fn prefixes_and_delimiters_make_folders(bed: &Bed) {
        for key in ["a/1", "a/2", "a/b/3", "ab", "b", "Z", "ä"] {
            bed.put(key, key).await;
        }
        let list = |prefix: &str, delimiter: &str| {
            let list = bed.client.list_objects_v2().bucket(BUCKET).prefix(prefix).delimiter(delimiter);
            async move { entries(&list.send().await.unwrap()) }
        };
        assert_eq!(list("", "/").await, ["Z", "ab", "b", "ä", "a/*"]);
        assert_eq!(list("a", "/").await, ["ab", "a/*"]);
        assert_eq!(list("a/", "/").await, ["a/1", "a/2", "a/b/*"]);
        assert_eq!(list("a/", "").await, ["a/1", "a/2", "a/b/3"]);
        assert_eq!(list("a", "/b").await, ["a/1", "a/2", "ab", "a/b*"]);
        assert!(list("c", "/").await.is_empty());
    }

    async fn a_listing_starts_after_a_key_and_ends_on_demand(bed: &Bed) {
        for key in ["a", "b", "c", "d"] {
            bed.put(key, "12345").await;
        }
        let list = || bed.client.list_objects_v2().bucket(BUCKET);
        assert_eq!(entries(&list().start_after("b").send().await.unwrap()), ["c", "d"]);
        assert_eq!(entries(&list().start_after("bb").send().await.unwrap()), ["c", "d"]);
        let two = list().max_keys(2).send().await.unwrap();
        assert_eq!((entries(&two), two.is_truncated()), (vec!["a".to_owned(), "b".to_owned()], Some(true)));
        assert!(two.contents().iter().all(|object| object.size() == Some(5) && object.last_modified().is_some()));
        let none = list().max_keys(0).send().await.unwrap();
        assert_eq!((none.key_count(), none.is_truncated()), (Some(0), Some(false)));
        let garbage = list().continuation_token("garbage").send().await;
        assert_eq!(refusal(garbage), reply(400, "InvalidArgument"));
    }

    async fn keys_are_escaped_on_demand(bed: &Bed) {
        bed.put("a b+c/ä", "").await;
        let list = bed.client.list_objects_v2().bucket(BUCKET).encoding_type(EncodingType::Url);
        assert_eq!(entries(&list.send().await.unwrap()), ["a%20b%2Bc/%C3%A4"]);
    }

    async fn an_overwritten_object_is_listed_once_as_it_is_now(bed: &Bed) {
        bed.put("key", "1").await;
        bed.put("key", "22").await;
        let listed = bed.client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        let head = bed.client.head_object().bucket(BUCKET).key("key").send().await.unwrap();
        assert_eq!(listed.contents().len(), 1);
        assert_eq!((listed.contents()[0].size(), listed.contents()[0].e_tag()), (Some(2), head.e_tag()));
    }
}

type Listed = aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

/// Keys, then common prefixes with a star.
fn entries(listed: &Listed) -> Vec<String> {
    let keys = listed
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .map(str::to_owned);
    let prefixes = listed
        .common_prefixes()
        .iter()
        .filter_map(|common| common.prefix());
    let entries: Vec<String> = keys
        .chain(prefixes.map(|prefix| format!("{prefix}*")))
        .collect();
    assert_eq!(listed.key_count(), i32::try_from(entries.len()).ok());
    entries
}

/// All keys, and the number of pages that it took.
async fn list_all(bed: &Bed, max_keys: Option<i32>) -> (Vec<String>, i32) {
    let (mut keys, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let list = bed
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .set_max_keys(max_keys);
        let listed = list.set_continuation_token(token).send().await.unwrap();
        keys.extend(entries(&listed));
        pages += 1;
        token = listed.next_continuation_token().map(str::to_owned);
        assert_eq!(listed.is_truncated(), Some(token.is_some()));
        if token.is_none() {
            return (keys, pages);
        }
    }
}
