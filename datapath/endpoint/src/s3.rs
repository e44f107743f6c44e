//! The table of operations. What is not in it, `s3s` answers with NotImplemented.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use crate::store::Store;
use crate::{listing, multipart, objects};

/// The S3 operations on a store.
pub(crate) struct Operations {
    store: Arc<Store>,
}

impl Operations {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    fn require_bucket(&self, name: &str) -> S3Result<()> {
        self.store.with_bucket(name, |_| Ok(()))
    }
}

type Reply<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Operations {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> Reply<CreateBucketOutput> {
        self.store.create_bucket(&request.input.bucket)?;
        let location = Some(format!("/{}", request.input.bucket));
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Reply<HeadBucketOutput> {
        self.require_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> Reply<GetBucketLocationOutput> {
        self.require_bucket(&request.input.bucket)?;
        // No constraint stands for us-east-1; requests signed for other regions are served as well.
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(&self, request: S3Request<ListBucketsInput>) -> Reply<ListBucketsOutput> {
        objects::refuse_unknown(
            request.input.continuation_token.is_some() || request.input.prefix.is_some(),
        )?;
        let buckets = self.store.with_buckets(|buckets| {
            let describe = |(name, bucket): (&String, &crate::store::Bucket)| Bucket {
                name: Some(name.clone()),
                creation_date: Some(bucket.created.into()),
                ..Default::default()
            };
            buckets.iter().map(describe).collect()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets),
            ..Default::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        objects::put(&self.store, request)
            .await
            .map(S3Response::new)
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Reply<GetObjectOutput> {
        objects::get(&self.store, &request.input).map(S3Response::new)
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Reply<HeadObjectOutput> {
        objects::head(&self.store, &request.input).map(S3Response::new)
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> Reply<DeleteObjectOutput> {
        objects::delete(&self.store, &request.input).map(S3Response::new)
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Reply<DeleteObjectsOutput> {
        objects::delete_many(&self.store, request.input).map(S3Response::new)
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Reply<ListObjectsV2Output> {
        listing::objects(&self.store, request.input).map(S3Response::new)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Reply<CreateMultipartUploadOutput> {
        multipart::create(&self.store, request.input).map(S3Response::new)
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Reply<UploadPartOutput> {
        multipart::upload_part(&self.store, request)
            .await
            .map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Reply<CompleteMultipartUploadOutput> {
        multipart::complete(&self.store, request.input)
            .await
            .map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Reply<AbortMultipartUploadOutput> {
        multipart::abort(&self.store, request.input).map(S3Response::new)
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Reply<ListPartsOutput> {
        listing::parts(&self.store, request.input).map(S3Response::new)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Reply<ListMultipartUploadsOutput> {
        listing::uploads(&self.store, request.input).map(S3Response::new)
    }
}
