//! Multipart uploads, with everything that can go wrong.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::complete_multipart_upload::{
    CompleteMultipartUploadError, CompleteMultipartUploadOutput,
};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
};

use crate::bed::{
    BUCKET, Bed, PART_LEN, digesting_client, on_both_backings, pattern, refusal, reply,
};

const KEY: &str = "dir/key";

on_both_backings! {
    async fn parts_in_any_order_make_one_object(bed: &Bed) {
        let upload = create(bed).await;
        let parts = [pattern(PART_LEN + 3, 1), pattern(PART_LEN, 2), pattern(100, 3)];
        let mut etags = [String::new(), String::new(), String::new()];
        for (number, at) in [(3, 2), (1, 0), (2, 1)] {
            etags[at] = upload_part(bed, &upload, number, parts[at].clone()).await;
        }
        assert_eq!(bed.get(KEY).await, None, "not before it is complete");
        let completed = complete(bed, &upload, &listed(&etags)).await.unwrap();
        assert!(completed.e_tag().unwrap().ends_with("-3\""));

        let whole = parts.concat();
        assert_eq!(bed.get(KEY).await.unwrap(), whole);
        let head = bed.client.head_object().bucket(BUCKET).key(KEY).send().await.unwrap();
        assert_eq!((head.e_tag(), head.content_length()), (completed.e_tag(), Some(whole.len() as i64)));
        assert_eq!((head.content_type(), head.metadata().unwrap()["colour"].as_str()), (Some("text/plain"), "blue"));
        // Across the seam between the first two parts.
        let seam = PART_LEN..PART_LEN + 10;
        let range = format!("bytes={}-{}", seam.start, seam.end - 1);
        let got = bed.client.get_object().bucket(BUCKET).key(KEY).range(range).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().to_vec(), whole[seam]);

        assert_eq!(refusal(complete(bed, &upload, &listed(&etags)).await), reply(404, "NoSuchUpload"));
        assert_eq!(bed.partial_count(), 0);
    }

    async fn a_part_uploaded_again_replaces_the_first_and_parts_may_be_left_out(bed: &Bed) {
        let upload = create(bed).await;
        let stale = upload_part(bed, &upload, 1, b"old".to_vec()).await;
        upload_part(bed, &upload, 2, b"left out".to_vec()).await;
        let fresh = upload_part(bed, &upload, 1, b"new".to_vec()).await;
        assert_eq!(refusal(complete(bed, &upload, &[(1, stale)]).await), reply(400, "InvalidPart"));
        complete(bed, &upload, &[(1, fresh)]).await.unwrap();
        assert_eq!(bed.get(KEY).await.unwrap(), b"new");
    }

    async fn a_bad_list_of_parts_completes_nothing_and_spoils_nothing(bed: &Bed) {
        let upload = create(bed).await;
        let small = upload_part(bed, &upload, 1, b"small".to_vec()).await;
        let large = upload_part(bed, &upload, 2, pattern(PART_LEN, 1)).await;
        let last = upload_part(bed, &upload, 3, b"last".to_vec()).await;
        for (parts, code) in [
            (vec![], "MalformedXML"),
            (vec![(3, &last), (2, &large)], "InvalidPartOrder"),
            (vec![(2, &large), (2, &large)], "InvalidPartOrder"),
            (vec![(2, &last)], "InvalidPart"),
            (vec![(2, &large), (9, &last)], "InvalidPart"),
            (vec![(1, &small), (2, &large)], "EntityTooSmall"),
        ] {
            let parts: Vec<_> = parts.into_iter().map(|(number, etag)| (number, etag.clone())).collect();
            assert_eq!(refusal(complete(bed, &upload, &parts).await), reply(400, code));
            assert_eq!(bed.get(KEY).await, None);
        }
        complete(bed, &upload, &[(2, large), (3, last)]).await.unwrap();
        assert_eq!(bed.get(KEY).await.unwrap().len(), PART_LEN + 4);
    }

    async fn an_unknown_upload_is_unknown_to_every_operation(bed: &Bed) {
        let missing = reply(404, "NoSuchUpload");
        let aborted = create(bed).await;
        upload_part(bed, &aborted, 1, b"bytes".to_vec()).await;
        abort(bed, &aborted).await.unwrap();
        assert_eq!(bed.partial_count(), 0);
        let mut foreign = create(bed).await;
        foreign.push('0');
        for id in [aborted, foreign] {
            let part = bed.client.upload_part().bucket(BUCKET).key(KEY).upload_id(&id).part_number(1);
            assert_eq!(refusal(part.body(vec![0; 1 << 20].into()).send().await), missing);
            let parts = [(1, "\"x\"".to_owned())];
            assert_eq!(refusal(complete(bed, &id, &parts).await), missing);
            assert_eq!(refusal(bed.client.list_parts().bucket(BUCKET).key(KEY).upload_id(&id).send().await), missing);
            assert_eq!(refusal(abort(bed, &id).await), missing);
        }
        assert_eq!(bed.partial_count(), 0);
    }

    async fn an_upload_belongs_to_its_key(bed: &Bed) {
        let upload = create(bed).await;
        let part = bed.client.upload_part().bucket(BUCKET).key("other").upload_id(&upload).part_number(1);
        assert_eq!(refusal(part.send().await), reply(404, "NoSuchUpload"));
    }

    async fn part_numbers_have_bounds(bed: &Bed) {
        let upload = create(bed).await;
        for number in [0, 10_001] {
            let part = bed.client.upload_part().bucket(BUCKET).key(KEY).upload_id(&upload).part_number(number);
            assert_eq!(refusal(part.send().await), reply(400, "InvalidArgument"));
        }
        upload_part(bed, &upload, 10_000, b"last".to_vec()).await;
    }

    async fn parts_and_uploads_are_listed_in_pages(bed: &Bed) {
        let (one, two) = (create(bed).await, create(bed).await);
        let other = bed.client.create_multipart_upload().bucket(BUCKET).key("z").send().await.unwrap();
        for number in [7, 3, 5] {
            upload_part(bed, &one, number, vec![0; number as usize]).await;
        }
        let parts = || bed.client.list_parts().bucket(BUCKET).key(KEY).upload_id(&one);
        let page = parts().max_parts(2).send().await.unwrap();
        let numbers: Vec<_> = page.parts().iter().map(|part| (part.part_number().unwrap(), part.size())).collect();
        assert_eq!((numbers, page.is_truncated()), (vec![(3, Some(3)), (5, Some(5))], Some(true)));
        let rest = parts().part_number_marker(page.next_part_number_marker().unwrap()).send().await.unwrap();
        assert_eq!((rest.parts()[0].part_number(), rest.is_truncated()), (Some(7), Some(false)));

        let uploads = || bed.client.list_multipart_uploads().bucket(BUCKET);
        let ids = |listed: &aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput| {
            listed.uploads().iter().map(|upload| upload.upload_id().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let z = other.upload_id().unwrap().to_owned();
        let page = uploads().max_uploads(1).send().await.unwrap();
        assert_eq!((ids(&page), page.is_truncated()), (vec![one.clone()], Some(true)));
        let rest = uploads().key_marker(page.next_key_marker().unwrap());
        let rest = rest.upload_id_marker(page.next_upload_id_marker().unwrap()).send().await.unwrap();
        assert_eq!((ids(&rest), rest.is_truncated()), (vec![two.clone(), z.clone()], Some(false)));
        assert_eq!(ids(&uploads().key_marker(KEY).send().await.unwrap()), [z]);
        assert_eq!(ids(&uploads().prefix("dir/").send().await.unwrap()), [one, two]);
    }

    async fn digests_of_parts_are_verified_kept_and_combined(bed: &Bed) {
        let create = bed.client.create_multipart_upload().bucket(BUCKET).key(KEY);
        let created = create.checksum_algorithm(ChecksumAlgorithm::Crc32C).send().await.unwrap();
        assert_eq!(created.checksum_type(), Some(&ChecksumType::Composite));
        let upload = created.upload_id().unwrap();
        let client = digesting_client(&bed.endpoint);
        let part = || client.upload_part().bucket(BUCKET).key(KEY).upload_id(upload).part_number(1);
        let wrong = part().checksum_crc32_c("AAAAAA==").body(b"bytes".to_vec().into());
        assert_eq!(refusal(wrong.send().await), reply(400, "BadDigest"));
        let right = part().checksum_algorithm(ChecksumAlgorithm::Crc32C).body(b"bytes".to_vec().into());
        let right = right.send().await.unwrap();
        let crc = right.checksum_crc32_c().unwrap();

        let listed = bed.client.list_parts().bucket(BUCKET).key(KEY).upload_id(upload).send().await.unwrap();
        assert_eq!(listed.parts()[0].checksum_crc32_c(), Some(crc));
        let claim = |crc: &str| {
            let part = CompletedPart::builder().part_number(1).e_tag(right.e_tag().unwrap()).checksum_crc32_c(crc);
            let parts = CompletedMultipartUpload::builder().parts(part.build()).build();
            bed.client.complete_multipart_upload().bucket(BUCKET).key(KEY).upload_id(upload).multipart_upload(parts)
        };
        assert_eq!(refusal(claim("AAAAAA==").send().await), reply(400, "InvalidPart"));
        assert_eq!(refusal(claim(crc).checksum_crc32_c("AAAAAA==-1").send().await), reply(400, "BadDigest"));
        assert_eq!(refusal(claim(crc).mpu_object_size(6).send().await), reply(400, "InvalidRequest"));
        let completed = claim(crc).mpu_object_size(5).send().await.unwrap();
        let head = bed.client.head_object().bucket(BUCKET).key(KEY).checksum_mode(ChecksumMode::Enabled);
        let head = head.send().await.unwrap();
        assert!(completed.checksum_crc32_c().unwrap().ends_with("-1"));
        assert_eq!(head.checksum_crc32_c(), completed.checksum_crc32_c());
        assert_eq!(head.checksum_type(), Some(&ChecksumType::Composite));
    }

    async fn conditions_on_completion_are_ignored(bed: &Bed) {
        bed.put(KEY, "first").await;
        let upload = create(bed).await;
        let etag = upload_part(bed, &upload, 1, b"second".to_vec()).await;
        let parts = completed_parts(&[(1, etag)]);
        let complete = bed.client.complete_multipart_upload().bucket(BUCKET).key(KEY).upload_id(upload);
        complete.multipart_upload(parts).if_none_match("*").send().await.unwrap();
        assert_eq!(bed.get(KEY).await.unwrap(), b"second");
    }
}

async fn create(bed: &Bed) -> String {
    let create = bed.client.create_multipart_upload().bucket(BUCKET).key(KEY);
    let created = create
        .content_type("text/plain")
        .metadata("colour", "blue")
        .send()
        .await
        .unwrap();
    created.upload_id().unwrap().to_owned()
}

async fn upload_part(bed: &Bed, upload: &str, number: i32, bytes: Vec<u8>) -> String {
    let part = bed
        .client
        .upload_part()
        .bucket(BUCKET)
        .key(KEY)
        .upload_id(upload)
        .part_number(number);
    part.body(bytes.into())
        .send()
        .await
        .unwrap()
        .e_tag()
        .unwrap()
        .to_owned()
}

async fn abort(
    bed: &Bed,
    upload: &str,
) -> Result<(), SdkError<aws_sdk_s3::operation::abort_multipart_upload::AbortMultipartUploadError>>
{
    bed.client
        .abort_multipart_upload()
        .bucket(BUCKET)
        .key(KEY)
        .upload_id(upload)
        .send()
        .await
        .map(drop)
}

async fn complete(
    bed: &Bed,
    upload: &str,
    parts: &[(i32, String)],
) -> Result<CompleteMultipartUploadOutput, SdkError<CompleteMultipartUploadError>> {
    let complete = bed
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key(KEY)
        .upload_id(upload);
    complete
        .multipart_upload(completed_parts(parts))
        .send()
        .await
}

fn completed_parts(parts: &[(i32, String)]) -> CompletedMultipartUpload {
    let part = |(number, etag): &(i32, String)| {
        CompletedPart::builder()
            .part_number(*number)
            .e_tag(etag)
            .build()
    };
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.iter().map(part).collect()))
        .build()
}

fn listed(etags: &[String]) -> Vec<(i32, String)> {
    (1..).zip(etags.iter().cloned()).collect()
}
