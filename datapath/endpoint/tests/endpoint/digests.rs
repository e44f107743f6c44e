//! Digests of bodies: verified before anything is stored, kept, echoed.

use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::bed::{
    BUCKET, digesting_client, get, on_both_backings, refusal, reply, wait_for, wait_until_idle,
};

/// Half a body: longer than the chunks of aws-chunked, 64 KiB.
static HALF: [u8; 200_000] = [7; 200_000];
const HALF_LEN: i64 = 200_000;

const CRC32C_OF_BYTES: &str = "0G6ckg==";

on_both_backings! {
    async fn a_wrong_digest_stores_nothing(bed: &Bed) {
        let put = || bed.client.put_object().bucket(BUCKET).key("key").body(b"bytes".to_vec().into());
        for wrong in [
            put().checksum_crc32("AAAAAA=="),
            put().checksum_crc32_c("AAAAAA=="),
            put().checksum_crc64_nvme("AAAAAAAAAAA="),
            put().checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            put().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            put().content_md5("AAAAAAAAAAAAAAAAAAAAAA=="),
        ] {
            assert_eq!(refusal(wrong.send().await), reply(400, "BadDigest"));
        }
        assert_eq!(bed.get("key").await, None);
        assert_eq!(bed.partial_count(), 0);
    }

    async fn a_right_digest_is_kept_and_echoed(bed: &Bed) {
        let client = digesting_client(&bed.endpoint);
        for algorithm in [
            ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme,
            ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256,
        ] {
            let put = client.put_object().bucket(BUCKET).key("key").checksum_algorithm(algorithm.clone());
            let put = put.body(b"bytes".to_vec().into()).send().await.unwrap();
            let head = bed.client.head_object().bucket(BUCKET).key("key").checksum_mode(ChecksumMode::Enabled);
            let head = head.send().await.unwrap();
            assert_eq!(head.checksum_crc32(), put.checksum_crc32());
            assert_eq!(head.checksum_crc32_c(), put.checksum_crc32_c());
            assert_eq!(head.checksum_crc64_nvme(), put.checksum_crc64_nvme());
            assert_eq!(head.checksum_sha1(), put.checksum_sha1());
            assert_eq!(head.checksum_sha256(), put.checksum_sha256());
            assert_eq!(head.checksum_type(), Some(&ChecksumType::FullObject));
            let echoed = [
                head.checksum_crc32(), head.checksum_crc32_c(), head.checksum_crc64_nvme(),
                head.checksum_sha1(), head.checksum_sha256(),
            ];
            assert_eq!(echoed.iter().flatten().count(), 1, "{algorithm:?}: {echoed:?}");
        }
        let put = bed.client.put_object().bucket(BUCKET).key("key").checksum_crc32_c(CRC32C_OF_BYTES);
        let put = put.body(b"bytes".to_vec().into()).send().await.unwrap();
        assert_eq!(put.checksum_crc32_c(), Some(CRC32C_OF_BYTES));
        put_with_md5(&bed.client, "SzpiGLs+OnMD6KFxpg/Pkg==").await;
    }

    async fn digests_in_trailers_are_verified_too(bed: &Bed) {
        let client = digesting_client(&bed.endpoint);
        let put = client.put_object().bucket(BUCKET).key("key").checksum_algorithm(ChecksumAlgorithm::Crc32C);
        let put = put.body(streamed([Ok(b"by"), Ok(b"tes")])).content_length(5).send().await.unwrap();
        assert_eq!(put.checksum_crc32_c(), Some(CRC32C_OF_BYTES));
        assert_eq!(get(&client, "key").await.unwrap(), b"bytes");
    }

    async fn a_body_that_breaks_off_stores_nothing(bed: &Bed) {
        let upload = bed.client.create_multipart_upload().bucket(BUCKET).key("key").send().await.unwrap();
        let upload = upload.upload_id().unwrap();
        // With a Content-Length, and in chunks with a trailer.
        for (clients, client) in (1..).zip([&bed.client, &digesting_client(&bed.endpoint)]) {
            let put = client.put_object().bucket(BUCKET).key("key").content_length(2 * HALF_LEN);
            put.body(streamed([Ok(&HALF), Err("gone")])).send().await.expect_err("the body fails");
            let part = client.upload_part().bucket(BUCKET).key("key").upload_id(upload).part_number(1);
            let part = part.content_length(2 * HALF_LEN).body(streamed([Ok(&HALF), Err("gone")]));
            part.send().await.expect_err("the body fails");

            // The server notices a little later than the client.
            for operation in ["PutObject", "UploadPart"] {
                wait_for(&bed.endpoint, operation, clients).await;
                wait_until_idle(&bed.endpoint, operation).await;
            }
            assert_eq!(bed.get("key").await, None);
            let parts = bed.client.list_parts().bucket(BUCKET).key("key").upload_id(upload);
            assert!(parts.send().await.unwrap().parts().is_empty());
            assert_eq!(bed.partial_count(), 0);
        }
        // Of the chunked bodies, only the chunks that were full have come.
        let received = bed.endpoint.counters().bytes_received;
        assert!(received > 3 * HALF.len() as u64, "{received} bytes did arrive");
    }
}

async fn put_with_md5(client: &aws_sdk_s3::Client, md5: &str) {
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("md5")
        .content_md5(md5)
        .body(b"bytes".to_vec().into());
    put.send().await.unwrap();
}

/// A body that the client cannot look at in advance, and so sends piece by piece.
fn streamed<const N: usize>(pieces: [Result<&'static [u8], &'static str>; N]) -> ByteStream {
    let frames = stream::iter(pieces).then(|piece| async move {
        match piece {
            Ok(bytes) => Ok(Frame::data(Bytes::from_static(bytes))),
            Err(text) => {
                // Or the client would notice before it has sent anything.
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(std::io::Error::other(text))
            }
        }
    });
    ByteStream::new(SdkBody::from_body_1_x(StreamBody::new(frames)))
}
