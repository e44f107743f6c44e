//! CreateBucket, HeadBucket, ListBuckets, GetBucketLocation, and what is not there.

use crate::bed::{BUCKET, on_both_backings, refusal, reply};

on_both_backings! {
    async fn buckets_are_created_once_and_listed_in_order(bed: &Bed) {
        let create = |name: &str| bed.client.create_bucket().bucket(name).send();
        create("another").await.unwrap();
        assert_eq!(refusal(create("another").await), reply(409, "BucketAlreadyOwnedByYou"));
        let listed = bed.client.list_buckets().send().await.unwrap();
        let names: Vec<_> = listed.buckets().iter().filter_map(|bucket| bucket.name()).collect();
        assert_eq!(names, ["another", BUCKET]);
        assert!(listed.buckets().iter().all(|bucket| bucket.creation_date().is_some()));
    }

    async fn a_bucket_is_found_or_it_is_not(bed: &Bed) {
        bed.client.head_bucket().bucket(BUCKET).send().await.unwrap();
        bed.client.get_bucket_location().bucket(BUCKET).send().await.unwrap();
        assert_eq!(refusal(bed.client.head_bucket().bucket("absent").send().await).0, 404);
        let location = bed.client.get_bucket_location().bucket("absent").send().await;
        assert_eq!(refusal(location), reply(404, "NoSuchBucket"));
    }

    async fn every_operation_wants_its_bucket(bed: &Bed) {
        let (client, missing) = (&bed.client, reply(404, "NoSuchBucket"));
        let put = client.put_object().bucket("absent").key("key").body(vec![0; 1 << 20].into()).send().await;
        assert_eq!(refusal(put), missing);
        assert_eq!(refusal(client.get_object().bucket("absent").key("key").send().await), missing);
        assert_eq!(refusal(client.delete_object().bucket("absent").key("key").send().await), missing);
        assert_eq!(refusal(client.list_objects_v2().bucket("absent").send().await), missing);
        assert_eq!(refusal(client.create_multipart_upload().bucket("absent").key("key").send().await), missing);
        assert_eq!(refusal(client.list_multipart_uploads().bucket("absent").send().await), missing);
        assert_eq!(bed.partial_count(), 0);
    }

    async fn what_is_not_there_is_not_implemented(bed: &Bed) {
        let refused = reply(501, "NotImplemented");
        bed.put("key", "bytes").await;
        assert_eq!(refusal(bed.client.delete_bucket().bucket(BUCKET).send().await), refused);
        let copy = bed.client.copy_object().bucket(BUCKET).key("copy").copy_source("bucket/key").send().await;
        assert_eq!(refusal(copy), refused);
        let dated = bed.client.get_object().bucket(BUCKET).key("key").if_modified_since(
            aws_sdk_s3::primitives::DateTime::from_secs(0)).send().await;
        assert_eq!(refusal(dated), refused);
    }
}
