//! Parts to the store and ranges from it: the client's whole way over a local connection. The
//! endpoint is in this process, and takes its share of the cores.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures::{StreamExt, TryStreamExt, stream};
use ringback_datapath::store::{
    Authorities, ObjectStore, Payload, SharedCredentials, StoreError,
    location::{self, Credentials, RepositoryPath, Secret, StoreConfig},
    s3::S3Store,
};
use ringback_endpoint::{Endpoint, Options};
use tokio::runtime::Runtime;

use crate::bed::shared_noise;

const PART: usize = 8 << 20;
const PARTS: i32 = 16;
const AT_ONCE: [usize; 2] = [1, 8];
const BUCKET: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(30);

/// Uploads an object of 16 parts of 8 MiB.
pub(crate) fn parts_up(criterion: &mut Criterion) {
    let bed = Bed::new();
    let part = shared_noise(PART);
    bed.measure(criterion, "part upload", |store, at_once| {
        let part = part.clone();
        async move { upload(&*store, &part, at_once).await }
    });
}

/// Fetches an object of 128 MiB in ranges of 8 MiB.
pub(crate) fn ranges_down(criterion: &mut Criterion) {
    let bed = Bed::new();
    let part = shared_noise(PART);
    bed.runtime
        .block_on(upload(&*bed.store, &part, 8))
        .expect("uploads");
    bed.measure(criterion, "ranged GET", |store, at_once| async move {
        stream::iter(0..u64::try_from(PARTS).expect("few"))
            .map(|number| fetch(&*store, number))
            .buffer_unordered(at_once)
            .try_collect::<()>()
            .await
    });
}

async fn upload(store: &dyn ObjectStore, part: &Bytes, at_once: usize) -> Result<(), StoreError> {
    let upload = store.upload("object", PART as u64).await?;
    stream::iter(1..=PARTS)
        .map(|number| upload.part(number, Payload::from(part.clone())))
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await?;
    upload
        .complete(PART as u64 * u64::try_from(PARTS).expect("few"))
        .await
}

async fn fetch(store: &dyn ObjectStore, number: u64) -> Result<(), StoreError> {
    let start = number * PART as u64;
    let mut download = store
        .get_range("object", start, start + PART as u64)
        .await?;
    while download.next().await?.is_some() {}
    Ok(())
}

/// An endpoint, and a client of it.
struct Bed {
    runtime: Runtime,
    store: Arc<S3Store>,
    _endpoint: Endpoint,
}

impl Bed {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let options = Options {
            buckets: vec![BUCKET.to_owned()],
            ..Options::default()
        };
        let endpoint = runtime.block_on(Endpoint::start(options)).expect("starts");
        let credentials = Credentials::Static {
            access_key_id: Secret::new(endpoint.access_key_id()),
            secret_access_key: Secret::new(endpoint.secret_access_key()),
            session_token: None,
        };
        let config = StoreConfig {
            endpoint: location::Endpoint::parse(&endpoint.url()).expect("a URL"),
            region: Some("us-east-1".to_owned()),
            verify_tls: true,
            authorities: Authorities::default(),
            http_proxy: None,
            https_proxy: None,
            credentials: credentials.clone(),
        };
        let path = RepositoryPath::parse(BUCKET).expect("a bucket");
        let shared = SharedCredentials::new(credentials);
        let store = runtime.block_on(S3Store::connect(path, &config, shared, PATIENCE, 8));
        Self {
            runtime,
            store: Arc::new(store),
            _endpoint: endpoint,
        }
    }

    fn measure<F: Future<Output = Result<(), StoreError>>>(
        &self,
        criterion: &mut Criterion,
        name: &str,
        work: impl Fn(Arc<S3Store>, usize) -> F,
    ) {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        group.throughput(Throughput::Bytes(
            PART as u64 * u64::from(PARTS.unsigned_abs()),
        ));
        for at_once in AT_ONCE {
            let id = BenchmarkId::new("8 MiB", format!("{at_once} at once"));
            group.bench_function(id, |bencher| {
                let once = || work(Arc::clone(&self.store), at_once);
                bencher.iter(|| self.runtime.block_on(once()).expect("done"));
            });
        }
        group.finish();
    }
}
