//! Listings: objects, parts, uploads, page by page, each in ascending byte order.

use std::ops::Bound;

use s3s::dto::{
    ChecksumAlgorithm, CommonPrefix, ETag, EncodingType, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput,
    ListPartsOutput, MultipartUpload, Object, Part,
};
use s3s::{S3Result, s3_error};

use crate::checksums::fill_checksums;
use crate::objects::refuse_unknown;
use crate::page::{Entry, page};
use crate::store::{self, Store, UploadName};

/// The most entries in one page, and as many as there are unless the client wants fewer.
const PAGE_LEN_MAX: i32 = 1000;

pub(crate) fn objects(store: &Store, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let max_keys = page_len(input.max_keys)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input
        .delimiter
        .clone()
        .filter(|delimiter| !delimiter.is_empty());
    let after = match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => Some(Entry::from_token(token)?),
        (None, Some(key)) => Some(Entry::Key(key.clone())),
        (None, None) => None,
    };
    let encode = encoder(input.encoding_type.as_ref())?;

    let mut output = ListObjectsV2Output {
        prefix: Some(encode(&prefix)),
        delimiter: delimiter.as_deref().map(encode),
        start_after: input.start_after.as_deref().map(encode),
        max_keys: Some(max_keys),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        ..Default::default()
    };
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    store.with_bucket(&input.bucket, |bucket| {
        let page = page(
            &bucket.objects,
            &prefix,
            delimiter.as_deref(),
            after,
            to_len(max_keys),
        );
        for entry in &page.entries {
            match entry {
                Entry::Key(key) => contents.push(describe(bucket.object(key)?, encode(key))),
                Entry::Prefix(prefix) => prefixes.push(CommonPrefix {
                    prefix: Some(encode(prefix)),
                }),
            }
        }
        output.key_count = i32::try_from(page.entries.len()).ok();
        output.is_truncated = Some(page.truncated);
        output.next_continuation_token = page
            .entries
            .last()
            .filter(|_| page.truncated)
            .map(Entry::to_token);
        Ok(())
    })?;
    output.name = Some(input.bucket);
    output.contents = Some(contents);
    output.common_prefixes = Some(prefixes);
    Ok(output)
}

fn describe(object: &store::Object, key: String) -> Object {
    Object {
        key: Some(key),
        size: i64::try_from(object.content.len()).ok(),
        e_tag: Some(object.attributes.etag()),
        last_modified: Some(object.attributes.modified()),
        ..Default::default()
    }
}

pub(crate) fn parts(store: &Store, input: ListPartsInput) -> S3Result<ListPartsOutput> {
    let max_parts = page_len(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let name = UploadName {
        key: input.key,
        id: input.upload_id,
    };
    let mut output = store.with_bucket(&input.bucket, |bucket| {
        let upload = bucket.upload(&name)?;
        let mut rest = upload
            .parts
            .range((Bound::Excluded(marker), Bound::Unbounded));
        let parts: Vec<Part> = rest
            .by_ref()
            .take(to_len(max_parts))
            .map(|(number, part)| describe_part(*number, part))
            .collect();
        Ok(ListPartsOutput {
            is_truncated: Some(max_parts > 0 && rest.next().is_some()),
            next_part_number_marker: parts.last().and_then(|part| part.part_number),
            parts: Some(parts),
            checksum_algorithm: upload
                .checksum_algorithm
                .clone()
                .map(ChecksumAlgorithm::from),
            ..Default::default()
        })
    })?;
    output.bucket = Some(input.bucket);
    output.key = Some(name.key);
    output.upload_id = Some(name.id);
    output.max_parts = Some(max_parts);
    output.part_number_marker = Some(marker);
    Ok(output)
}

fn describe_part(number: i32, part: &store::Part) -> Part {
    let mut described = Part {
        part_number: Some(number),
        size: i64::try_from(part.draft.len()).ok(),
        e_tag: Some(ETag::Strong(part.etag.clone())),
        last_modified: Some(part.modified.into()),
        ..Default::default()
    };
    fill_checksums!(described, part.checksums);
    described
}

pub(crate) fn uploads(
    store: &Store,
    input: ListMultipartUploadsInput,
) -> S3Result<ListMultipartUploadsOutput> {
    refuse_unknown(input.delimiter.is_some())?;
    let max_uploads = page_len(input.max_uploads)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let encode = encoder(input.encoding_type.as_ref())?;
    let after = input
        .key_marker
        .clone()
        .filter(|key| !key.is_empty())
        .map(|key| {
            // Without an id, all uploads of that key are over and done with; ids are hexadecimal
            // and so sort before it.
            let id = input
                .upload_id_marker
                .clone()
                .unwrap_or_else(|| char::MAX.to_string());
            UploadName { key, id }
        });
    let bound = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut output = store.with_bucket(&input.bucket, |bucket| {
        let mut rest = bucket
            .uploads
            .range((bound, Bound::Unbounded))
            .filter(|(name, _)| name.key.starts_with(&prefix));
        let page: Vec<_> = rest.by_ref().take(to_len(max_uploads)).collect();
        let last = page.last().map(|(name, _)| *name);
        Ok(ListMultipartUploadsOutput {
            is_truncated: Some(max_uploads > 0 && rest.next().is_some()),
            next_key_marker: last.map(|name| encode(&name.key)),
            next_upload_id_marker: last.map(|name| name.id.clone()),
            uploads: Some(
                page.into_iter()
                    .map(|(name, upload)| describe_upload(name, upload, encode))
                    .collect(),
            ),
            ..Default::default()
        })
    })?;
    output.bucket = Some(input.bucket);
    output.prefix = Some(encode(&prefix));
    output.key_marker = input.key_marker.as_deref().map(encode);
    output.upload_id_marker = input.upload_id_marker;
    output.max_uploads = Some(max_uploads);
    output.encoding_type = input.encoding_type;
    Ok(output)
}

fn describe_upload(
    name: &UploadName,
    upload: &store::Upload,
    encode: fn(&str) -> String,
) -> MultipartUpload {
    MultipartUpload {
        key: Some(encode(&name.key)),
        upload_id: Some(name.id.clone()),
        initiated: Some(upload.created.into()),
        checksum_algorithm: upload
            .checksum_algorithm
            .clone()
            .map(ChecksumAlgorithm::from),
        ..Default::default()
    }
}

fn page_len(asked_for: Option<i32>) -> S3Result<i32> {
    match asked_for.unwrap_or(PAGE_LEN_MAX) {
        negative if negative < 0 => Err(s3_error!(
            InvalidArgument,
            "a page cannot have {negative} entries"
        )),
        len => Ok(len.min(PAGE_LEN_MAX)),
    }
}

fn to_len(page_len: i32) -> usize {
    usize::try_from(page_len).expect("page_len() gives no negative lengths")
}

/// How keys are written in the reply: as they are, or percent-escaped for clients that fear what
/// XML cannot hold.
fn encoder(encoding: Option<&EncodingType>) -> S3Result<fn(&str) -> String> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(str::to_owned),
        Some(EncodingType::URL) => Ok(percent_encode),
        Some(_) => Err(s3_error!(
            InvalidArgument,
            "Invalid Encoding Method specified in Request"
        )),
    }
}

fn percent_encode(key: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    key.bytes().map(encode).collect()
}
