//! What the store's client makes of answers, odd ones above all: a server that says what it is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ringback_datapath::store::{
    Authorities, ObjectStore, PutNew, SharedCredentials, StoreError,
    location::{Credentials, Endpoint, RepositoryPath, Secret, StoreConfig},
    s3::S3Store,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

const NO_BODY: &str = "content-length: 0\r\nconnection: close\r\n\r\n";
/// An answer that never comes.
const SILENCE: &str = "";

/// A server with one answer to each request, the last one to all that follow.
struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let answers = Arc::new(answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, counter) = (Arc::clone(&answers), Arc::clone(&counter));
                tokio::spawn(serve(stream, answers, counter));
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    async fn store(&self, patience: Duration) -> S3Store {
        let credentials = Credentials::Static {
            access_key_id: Secret::new("key"),
            secret_access_key: Secret::new("secret"),
            session_token: None,
        };
        let config = StoreConfig {
            endpoint: Endpoint::parse(&self.url).expect("a URL"),
            region: Some("us-east-1".to_owned()),
            verify_tls: true,
            authorities: Authorities::default(),
            http_proxy: None,
            https_proxy: None,
            credentials: credentials.clone(),
        };
        let path = RepositoryPath::parse("bucket/repo").expect("a path");
        let credentials = SharedCredentials::new(credentials);
        S3Store::connect(path, &config, credentials, patience, 8).await
    }
}

async fn serve(stream: TcpStream, answers: Arc<Vec<String>>, counter: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    let mut body_bytes = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(len) = line.strip_prefix("content-length: ") {
            body_bytes = len.parse().expect("a length");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; body_bytes];
    stream.read_exact(&mut body).await.expect("the body");
    let number = counter.fetch_add(1, Ordering::Relaxed);
    let answer = &answers[number.min(answers.len() - 1)];
    if answer == SILENCE {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} as planned\r\n{NO_BODY}")
}

/// 200, and a body that may end before its announced length.
fn body(announced: usize, sent: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {announced}\r\nconnection: close\r\n\r\n{sent}")
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn answers_that_may_change_are_asked_for_again() {
    for odd in [408, 429, 500, 502, 503, 504, 507, 520, 522] {
        let server = Server::start(vec![status(odd), status(odd), body(5, "hello")]).await;
        let got = server.store(PATIENCE).await.get("object").await;
        assert_eq!(got.expect("the third"), "hello", "{odd}");
        assert_eq!(server.requests(), 3, "{odd}");
    }
}

#[tokio::test]
async fn answers_that_stay_come_out_at_once() {
    for (odd, expected) in [
        (400, "Refused"),
        (401, "Denied"),
        (403, "Denied"),
        (404, "NotFound"),
        (405, "Refused"),
        (416, "TooShort"),
        (501, "Refused"),
    ] {
        let server = Server::start(vec![status(odd)]).await;
        let got = server.store(PATIENCE).await.get("object").await;
        let error = format!("{:?}", got.expect_err("refused"));
        assert!(error.starts_with(expected), "{odd}: {error}");
        assert_eq!(server.requests(), 1, "{odd}");
    }
    for taken in [409, 412] {
        let server = Server::start(vec![status(taken)]).await;
        let store = server.store(PATIENCE).await;
        let put = store.put_new("object", Bytes::from_static(b"hello")).await;
        assert_eq!(put.expect("an answer"), PutNew::Exists, "{taken}");
        assert_eq!(server.requests(), 1, "{taken}");
    }
}

#[tokio::test]
async fn retries_end_with_the_patience() {
    let server = Server::start(vec![status(503)]).await;
    let store = server.store(Duration::from_secs(2)).await;
    let got = timeout(Duration::from_secs(10), store.get("object")).await;
    let error = got.expect("an end").expect_err("no store");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(server.requests() > 3, "{}", server.requests());
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_where_it_broke_and_not_in_a_hurry() {
    let answers = vec![
        body(5, "he"),
        body(3, ""),
        body(3, ""),
        body(3, ""),
        body(3, "llo"),
    ];
    let server = Server::start(answers).await;
    let begun = Instant::now();
    let got = server.store(PATIENCE).await.get("object").await;
    assert_eq!(got.expect("whole"), "hello");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_range_of_nothing_is_not_asked_for() {
    let server = Server::start(vec![status(416)]).await;
    let store = server.store(PATIENCE).await;
    for at in [0, 7] {
        let mut range = store.get_range("object", at, at).await.expect("nothing");
        assert!(range.next().await.expect("nothing").is_none());
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_transfer_that_does_not_end_in_time_halves_how_many_there_may_be() {
    let server = Server::start(vec![SILENCE.to_owned()]).await;
    let store = server.store(Duration::from_millis(300)).await;
    assert_eq!(store.throttle().limit(), 8);
    store.get("object").await.expect_err("silence");
    assert_eq!(store.throttle().limit(), 4);
}
