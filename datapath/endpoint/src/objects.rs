//! The operations on single objects: put, get, head, delete.

use std::time::SystemTime;

use s3s::dto::{
    ChecksumType, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
    DeletedObject, ETagCondition, Error, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, PutObjectInput, PutObjectOutput, Range,
};
use s3s::{S3ErrorCode, S3Request, S3Result, s3_error};

use crate::body::{ReceivedBody, receive};
use crate::checksums::fill_checksums;
use crate::store::{Attributes, Object, Precondition, Store};

/// What S3 replies for objects that were stored without a content type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// S3 takes this many keys in one DeleteObjects.
const DELETE_KEYS_MAX: usize = 1000;

/// Reads the body whole, then checks the condition and inserts the object under one lock.
pub(crate) async fn put(
    store: &Store,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<PutObjectOutput> {
    let body = request.input.body.take();
    let ReceivedBody { draft, checksums } =
        receive(store, &request, body, request.input.content_length).await?;

    let input = request.input;
    let precondition = Precondition::new(input.if_none_match, input.if_match)?;
    let attributes = Attributes {
        key: input.key,
        etag: store.next_id(),
        modified: SystemTime::now(),
        content_type: input.content_type,
        metadata: input.metadata.unwrap_or_default(),
        checksums,
        composite: false,
    };
    let mut output = PutObjectOutput {
        e_tag: Some(attributes.etag()),
        ..Default::default()
    };
    fill_checksums!(output, attributes.checksums);
    output.checksum_type = checksum_type(&attributes);

    let sealed = store.seal(draft, attributes)?;
    store.with_bucket(&input.bucket, |bucket| {
        precondition.check(
            bucket
                .objects
                .get(&sealed.attributes.key)
                .map(AsRef::as_ref),
        )?;
        store.insert(&input.bucket, bucket, sealed)
    })?;
    Ok(output)
}

/// Replies with the object, or a range of it, as one version of it was when the request came.
pub(crate) fn get(store: &Store, input: &GetObjectInput) -> S3Result<GetObjectOutput> {
    let by_date = input.if_modified_since.is_some() || input.if_unmodified_since.is_some();
    refuse_unknown(by_date || input.part_number.is_some() || input.version_id.is_some())?;

    let (object, reader) = store.open(&input.bucket, &input.key)?;
    check_read_conditions(
        &object,
        input.if_match.as_ref(),
        input.if_none_match.as_ref(),
    )?;
    let len = object.content.len();
    let range = input.range.map(|range| satisfy(&range, len)).transpose()?;
    let content_range = range
        .as_ref()
        .map(|range| format!("bytes {}-{}/{len}", range.start, range.end - 1));
    let whole = range.is_none();
    let range = range.unwrap_or(0..len);

    let attributes = &object.attributes;
    let mut output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(range.end - range.start).ok(),
        content_range,
        body: Some(reader.stream(range)),
        content_type: content_type(attributes),
        e_tag: Some(attributes.etag()),
        last_modified: Some(attributes.modified()),
        metadata: Some(attributes.metadata.clone()),
        ..Default::default()
    };
    // The digests are those of the whole object and say nothing of a range.
    if whole && input.checksum_mode.is_some() {
        fill_checksums!(output, attributes.checksums);
        output.checksum_type = checksum_type(attributes);
    }
    Ok(output)
}

/// Replies with what [`get`] would, without the bytes.
pub(crate) fn head(store: &Store, input: &HeadObjectInput) -> S3Result<HeadObjectOutput> {
    let by_date = input.if_modified_since.is_some() || input.if_unmodified_since.is_some();
    let partial = input.range.is_some() || input.part_number.is_some();
    refuse_unknown(by_date || partial || input.version_id.is_some())?;

    let object = store.with_bucket(&input.bucket, |bucket| bucket.object(&input.key).cloned())?;
    check_read_conditions(
        &object,
        input.if_match.as_ref(),
        input.if_none_match.as_ref(),
    )?;
    let attributes = &object.attributes;
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(object.content.len()).ok(),
        content_type: content_type(attributes),
        e_tag: Some(attributes.etag()),
        last_modified: Some(attributes.modified()),
        metadata: Some(attributes.metadata.clone()),
        ..Default::default()
    };
    if input.checksum_mode.is_some() {
        fill_checksums!(output, attributes.checksums);
        output.checksum_type = checksum_type(attributes);
    }
    Ok(output)
}

pub(crate) fn delete(store: &Store, input: &DeleteObjectInput) -> S3Result<DeleteObjectOutput> {
    let conditional = input.if_match_last_modified_time.is_some() || input.if_match_size.is_some();
    refuse_unknown(conditional || input.version_id.is_some())?;
    let precondition = Precondition::new(None, input.if_match.clone())?;
    store.with_bucket(&input.bucket, |bucket| {
        precondition.check(bucket.objects.get(&input.key).map(AsRef::as_ref))?;
        store.delete(bucket, &input.key)
    })?;
    Ok(DeleteObjectOutput::default())
}

/// Deletes one key after the other; other requests may see the state in between.
pub(crate) fn delete_many(
    store: &Store,
    input: DeleteObjectsInput,
) -> S3Result<DeleteObjectsOutput> {
    let quiet = input.delete.quiet.unwrap_or(false);
    if input.delete.objects.is_empty() || input.delete.objects.len() > DELETE_KEYS_MAX {
        return Err(s3_error!(
            MalformedXML,
            "between 1 and {DELETE_KEYS_MAX} keys are allowed"
        ));
    }
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in input.delete.objects {
        let conditional =
            object.e_tag.is_some() || object.last_modified_time.is_some() || object.size.is_some();
        let outcome = refuse_unknown(conditional || object.version_id.is_some()).and_then(|()| {
            store.with_bucket(&input.bucket, |bucket| store.delete(bucket, &object.key))
        });
        match outcome {
            Ok(()) if quiet => {}
            Ok(()) => deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            }),
            // It concerns the whole request.
            Err(error) if *error.code() == S3ErrorCode::NoSuchBucket => return Err(error),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                key: Some(object.key),
                version_id: None,
            }),
        }
    }
    Ok(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..Default::default()
    })
}

/// For what would change the meaning of a request and is not there.
pub(crate) fn refuse_unknown(asked_for: bool) -> S3Result<()> {
    if asked_for {
        Err(s3_error!(
            NotImplemented,
            "a parameter of this request is not supported"
        ))
    } else {
        Ok(())
    }
}

fn check_read_conditions(
    object: &Object,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let matches = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => *etag == object.attributes.etag(),
    };
    if if_match.is_some_and(|condition| !matches(condition)) {
        return Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        ));
    }
    if if_none_match.is_some_and(matches) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

fn satisfy(range: &Range, len: u64) -> S3Result<std::ops::Range<u64>> {
    match range.check(len) {
        Ok(range) if !range.is_empty() => Ok(range),
        // Suffixes of empty objects included, as S3 has it.
        _ => Err(s3_error!(
            InvalidRange,
            "The requested range is not satisfiable"
        )),
    }
}

fn content_type(attributes: &Attributes) -> Option<String> {
    attributes
        .content_type
        .clone()
        .or_else(|| Some(DEFAULT_CONTENT_TYPE.to_owned()))
}

fn checksum_type(attributes: &Attributes) -> Option<ChecksumType> {
    let name = if attributes.composite {
        ChecksumType::COMPOSITE
    } else {
        ChecksumType::FULL_OBJECT
    };
    (!attributes.checksums.is_empty()).then(|| ChecksumType::from_static(name))
}
