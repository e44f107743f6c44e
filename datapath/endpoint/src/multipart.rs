//! Multipart uploads: parts received in any order, objects made of them without copying bytes in
//! memory.

use std::sync::Arc;
use std::time::SystemTime;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumType,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};

use crate::body::{ReceivedBody, receive};
use crate::checksums::{Checksums, fill_checksums, take_checksums};
use crate::content::{Draft, Rope};
use crate::folder::Folder;
use crate::store::{Attributes, Part, Store, Upload, UploadName};

/// S3's smallest part, the last one excepted.
const PART_LEN_MIN: u64 = 5 * 1024 * 1024; // 5 MiB

const PART_NUMBER_MAX: i32 = 10_000;

pub(crate) fn create(
    store: &Store,
    input: CreateMultipartUploadInput,
) -> S3Result<CreateMultipartUploadOutput> {
    let name = UploadName {
        key: input.key,
        id: store.next_id(),
    };
    let checksum_type = input.checksum_algorithm.as_ref().map(|algorithm| {
        let by_default = if algorithm.as_str() == "CRC64NVME" {
            ChecksumType::FULL_OBJECT
        } else {
            ChecksumType::COMPOSITE
        };
        input
            .checksum_type
            .unwrap_or_else(|| ChecksumType::from_static(by_default))
    });
    let upload = Upload {
        created: SystemTime::now(),
        content_type: input.content_type,
        metadata: input.metadata.unwrap_or_default(),
        composite: checksum_type
            .as_ref()
            .is_some_and(|kind| kind.as_str() == ChecksumType::COMPOSITE),
        checksum_algorithm: input
            .checksum_algorithm
            .as_ref()
            .map(|algorithm| algorithm.as_str().to_owned()),
        parts: Default::default(),
    };
    store.with_bucket(&input.bucket, |bucket| {
        bucket.uploads.insert(name.clone(), upload);
        Ok(())
    })?;
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(name.key),
        upload_id: Some(name.id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type,
        ..Default::default()
    })
}

/// Reads the part whole; then it takes the place of an earlier one of the same number.
pub(crate) async fn upload_part(
    store: &Store,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<UploadPartOutput> {
    let body = request.input.body.take();
    let ReceivedBody { draft, checksums } =
        receive(store, &request, body, request.input.content_length).await?;

    let input = request.input;
    if !(1..=PART_NUMBER_MAX).contains(&input.part_number) {
        return Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and {PART_NUMBER_MAX}"
        ));
    }
    let part = Part {
        etag: store.next_id(),
        modified: SystemTime::now(),
        checksums,
        draft,
    };
    let mut output = UploadPartOutput {
        e_tag: Some(ETag::Strong(part.etag.clone())),
        ..Default::default()
    };
    fill_checksums!(output, part.checksums);

    let name = UploadName {
        key: input.key,
        id: input.upload_id,
    };
    store.with_bucket(&input.bucket, |bucket| {
        bucket
            .upload(&name)?
            .parts
            .insert(input.part_number, Arc::new(part));
        Ok(())
    })?;
    Ok(output)
}

/// Makes an object of the parts listed. The upload is gone afterwards, so that a second attempt
/// gets NoSuchUpload.
///
/// `If-Match` and `If-None-Match` are ignored, as many stores do: whoever needs them must not rely
/// on them here.
pub(crate) async fn complete(
    store: &Store,
    input: CompleteMultipartUploadInput,
) -> S3Result<CompleteMultipartUploadOutput> {
    let claimed = take_checksums!(input);
    let name = UploadName {
        key: input.key,
        id: input.upload_id,
    };
    let listed = input
        .multipart_upload
        .and_then(|upload| upload.parts)
        .unwrap_or_default();
    let (parts, mut attributes) = store.with_bucket(&input.bucket, |bucket| {
        let upload = bucket.upload(&name)?;
        let parts = choose_parts(upload, &listed)?;
        Ok((parts.clone(), attributes_of(upload, &name, &parts)))
    })?;
    // S3 clients tell multipart objects by the dash.
    attributes.etag = format!("{}-{}", store.next_id(), parts.len());

    let len: u64 = parts.iter().map(|part| part.draft.len()).sum();
    if input
        .mpu_object_size
        .is_some_and(|declared| u64::try_from(declared) != Ok(len))
    {
        return Err(s3_error!(
            InvalidRequest,
            "x-amz-mp-object-size does not match the parts"
        ));
    }
    if !attributes.checksums.contain(&claimed) {
        return Err(s3_error!(
            BadDigest,
            "the object's checksum is another, or one that is not computed here"
        ));
    }
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, name.key)),
        bucket: Some(input.bucket.clone()),
        key: Some(name.key.clone()),
        e_tag: Some(attributes.etag()),
        ..Default::default()
    };
    fill_checksums!(output, attributes.checksums);
    output.checksum_type = attributes
        .composite
        .then(|| ChecksumType::from_static(ChecksumType::COMPOSITE));

    let draft = join(store, parts).await?;
    let sealed = store.seal(draft, attributes)?;
    store.with_bucket(&input.bucket, |bucket| {
        // Another request may have completed or aborted it in the meantime.
        bucket.upload(&name)?;
        store.insert(&input.bucket, bucket, sealed)?;
        bucket.uploads.remove(&name);
        Ok(())
    })?;
    Ok(output)
}

pub(crate) fn abort(
    store: &Store,
    input: AbortMultipartUploadInput,
) -> S3Result<AbortMultipartUploadOutput> {
    let name = UploadName {
        key: input.key,
        id: input.upload_id,
    };
    store.with_bucket(&input.bucket, |bucket| {
        bucket.upload(&name)?;
        bucket.uploads.remove(&name);
        Ok(AbortMultipartUploadOutput::default())
    })
}

/// The parts that a client lists, if it lists them in order and they are what it believes they are.
fn choose_parts(upload: &Upload, listed: &[CompletedPart]) -> S3Result<Vec<Arc<Part>>> {
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML, "an object has at least one part"));
    }
    let mut parts: Vec<Arc<Part>> = Vec::with_capacity(listed.len());
    let mut number_before = 0;
    for claim in listed {
        let (Some(number), Some(etag)) = (claim.part_number, &claim.e_tag) else {
            return Err(s3_error!(MalformedXML, "a part has a number and an ETag"));
        };
        if number <= number_before {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order."
            ));
        }
        number_before = number;
        let known = |part: &&Arc<Part>| {
            part.etag == etag.value() && part.checksums.contain(&take_checksums!(claim))
        };
        let part = upload.parts.get(&number).filter(known);
        parts.push(Arc::clone(part.ok_or_else(|| {
            s3_error!(InvalidPart, "part {number} was not uploaded like that")
        })?));
    }
    let all_but_last = &parts[..parts.len() - 1];
    if all_but_last
        .iter()
        .any(|part| part.draft.len() < PART_LEN_MIN)
    {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        ));
    }
    Ok(parts)
}

fn attributes_of(upload: &Upload, name: &UploadName, parts: &[Arc<Part>]) -> Attributes {
    let checksums = if upload.composite {
        Checksums::composite(&parts.iter().map(|part| &part.checksums).collect::<Vec<_>>())
    } else {
        Checksums::default()
    };
    Attributes {
        key: name.key.clone(),
        etag: String::new(),
        modified: SystemTime::now(),
        content_type: upload.content_type.clone(),
        metadata: upload.metadata.clone(),
        composite: !checksums.is_empty(),
        checksums,
    }
}

async fn join(store: &Store, parts: Vec<Arc<Part>>) -> S3Result<Draft> {
    let Some(folder) = store.folder() else {
        let ropes = parts.iter().filter_map(|part| match &part.draft {
            Draft::Memory(rope) => Some(rope),
            Draft::File { .. } => None,
        });
        return Ok(Draft::Memory(Rope::join(ropes)));
    };
    let file = folder.temporary(&store.next_id());
    let joined = tokio::task::spawn_blocking(move || Folder::join(file, &parts)).await;
    joined
        .map_err(S3Error::internal_error)?
        .map_err(S3Error::internal_error)
}
