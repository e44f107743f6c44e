//! PutObject, GetObject with ranges, HeadObject, DeleteObject, DeleteObjects.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use crate::bed::{BUCKET, on_both_backings, pattern, refusal, reply};

on_both_backings! {
    async fn what_was_put_is_what_is_got(bed: &Bed) {
        for len in [0, 1, 1000, 64 * 1024, 64 * 1024 + 1, 3 << 20] {
            bed.put("key", pattern(len, 1)).await;
            assert_eq!(bed.get("key").await.unwrap(), pattern(len, 1), "{len} bytes");
        }
        assert_eq!(bed.partial_count(), 0);
    }

    async fn an_object_comes_with_its_attributes(bed: &Bed) {
        let put = bed.client.put_object().bucket(BUCKET).key("key").body(b"bytes".to_vec().into());
        let put = put.content_type("text/plain").metadata("colour", "blue").send().await.unwrap();

        let got = bed.client.get_object().bucket(BUCKET).key("key").send().await.unwrap();
        assert_eq!((got.e_tag(), got.content_length()), (put.e_tag(), Some(5)));
        assert_eq!((got.content_type(), got.accept_ranges()), (Some("text/plain"), Some("bytes")));
        assert_eq!(got.metadata().unwrap()["colour"], "blue");
        assert!(put.e_tag().unwrap().starts_with('"'));

        let head = bed.client.head_object().bucket(BUCKET).key("key").send().await.unwrap();
        assert_eq!((head.e_tag(), head.content_length()), (put.e_tag(), Some(5)));
        assert_eq!((head.last_modified(), head.content_type()), (got.last_modified(), Some("text/plain")));
        assert!(head.last_modified().is_some());
        assert_eq!(head.metadata().unwrap()["colour"], "blue");
    }

    async fn every_version_has_an_etag_of_its_own(bed: &Bed) {
        let put = || bed.client.put_object().bucket(BUCKET).key("key").body(b"same".to_vec().into()).send();
        let (first, second) = (put().await.unwrap(), put().await.unwrap());
        assert_ne!(first.e_tag(), second.e_tag());
    }

    async fn a_missing_object_is_missing(bed: &Bed) {
        let get = bed.client.get_object().bucket(BUCKET).key("absent").send().await;
        assert_eq!(refusal(get), reply(404, "NoSuchKey"));
        assert_eq!(refusal(bed.client.head_object().bucket(BUCKET).key("absent").send().await).0, 404);
    }

    async fn ranges_are_cut_to_the_byte(bed: &Bed) {
        let bytes = pattern(3_000_000, 2);
        bed.put("key", bytes.clone()).await;
        for (range, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=10-19", 10..20),
            ("bytes=1048570-2097160", 1_048_570..2_097_161),
            ("bytes=2999999-", 2_999_999..3_000_000),
            ("bytes=2999990-9999999", 2_999_990..3_000_000),
            ("bytes=-7", 2_999_993..3_000_000),
            ("bytes=-9999999", 0..3_000_000),
        ] {
            let got = bed.client.get_object().bucket(BUCKET).key("key").range(range).send().await.unwrap();
            let content_range = format!("bytes {}-{}/3000000", expected.start, expected.end - 1);
            assert_eq!(got.content_range(), Some(content_range.as_str()));
            assert_eq!(got.content_length(), Some(expected.len() as i64));
            assert_eq!(got.body.collect().await.unwrap().to_vec(), bytes[expected], "{range}");
        }
    }

    async fn ranges_beyond_the_end_are_not_satisfiable(bed: &Bed) {
        bed.put("key", "0123456789").await;
        bed.put("empty", "").await;
        for (key, range) in [("key", "bytes=10-"), ("key", "bytes=10-20"), ("key", "bytes=-0"), ("empty", "bytes=-5")] {
            let got = bed.client.get_object().bucket(BUCKET).key(key).range(range).send().await;
            assert_eq!(refusal(got), reply(416, "InvalidRange"), "{key} {range}");
        }
    }

    async fn a_deleted_object_is_gone_and_stays_readable_to_who_has_it_open(bed: &Bed) {
        let bytes = pattern(8 << 20, 3);
        bed.put("key", bytes.clone()).await;
        let open = bed.client.get_object().bucket(BUCKET).key("key").send().await.unwrap();
        bed.client.delete_object().bucket(BUCKET).key("key").send().await.unwrap();
        assert_eq!(bed.get("key").await, None);
        assert_eq!(open.body.collect().await.unwrap().to_vec(), bytes);
        bed.client.delete_object().bucket(BUCKET).key("key").send().await.unwrap();
    }

    async fn many_objects_are_deleted_at_once(bed: &Bed) {
        for key in ["a", "b", "c"] {
            bed.put(key, key).await;
        }
        let identifiers = ["a", "c", "absent"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
        let delete = Delete::builder().set_objects(Some(identifiers.to_vec())).build().unwrap();
        let deleted = bed.client.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
        let keys: Vec<_> = deleted.deleted().iter().filter_map(|deleted| deleted.key()).collect();
        assert_eq!(keys, ["a", "c", "absent"]);
        assert!(deleted.errors().is_empty());
        assert_eq!((bed.get("a").await, bed.get("b").await, bed.get("c").await), (None, Some(b"b".to_vec()), None));
    }

    async fn any_key_is_a_key(bed: &Bed) {
        let long = "k".repeat(1024);
        let long_sibling = format!("{}x", "k".repeat(1023));
        let keys = [
            "a", "a/b", "a/b/c", "a//b", "a/", "..", "../../etc", ".hidden", "x/.hidden/..", "sp ace", "per%2Fcent",
            "plus+", "ä/ö", "q?x=1&y#z", "~tilde", ".lock", long.as_str(), long_sibling.as_str(),
        ];
        for key in keys {
            bed.put(key, key).await;
        }
        for key in keys {
            assert_eq!(bed.get(key).await.as_deref(), Some(key.as_bytes()), "{key:?}");
        }
        let listed = bed.client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(listed.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>(), expected);
    }
}
