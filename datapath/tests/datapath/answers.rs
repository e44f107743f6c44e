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

/// Before an answer that comes after two seconds.
const LATE: &str = "LATE ";

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
    let answer = match answer.strip_prefix(LATE) {
        Some(late) => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            late
        }
        None => answer,
    };
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

/// A refusal as S3 words it.
fn refusal(status: u16, code: &str) -> String {
    let xml = format!("<Error><Code>{code}</Code><Message>as planned</Message></Error>");
    let len = xml.len();
    format!("HTTP/1.1 {status} odd\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{xml}")
}

#[tokio::test]
async fn a_body_that_came_in_damaged_or_cut_is_sent_again() {
    for code in ["BadDigest", "IncompleteBody", "RequestTimeout"] {
        let server = Server::start(vec![refusal(400, code), refusal(400, code), status(200)]).await;
        let store = server.store(PATIENCE).await;
        let put = store
            .put("object", Bytes::from_static(b"hello").into())
            .await;
        put.expect("the third");
        assert_eq!(server.requests(), 3, "{code}");
    }
}

/// A multipart upload up to its completion, which and what follows are answered so.
async fn completed(answers: Vec<String>) -> (Result<(), StoreError>, usize) {
    let created =
        "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>";
    let part = "HTTP/1.1 200 OK\r\netag: \"1\"\r\n".to_owned() + NO_BODY;
    let before = vec![body(created.len(), created), part];
    let server = Server::start([before, answers].concat()).await;
    let store = server.store(Duration::from_secs(2)).await;
    let upload = store.upload("object", 5 << 20).await.expect("created");
    let sent = upload.part(1, Bytes::from_static(b"hello").into()).await;
    sent.expect("sent");
    (upload.complete(5).await, server.requests() - 2)
}

const MADE: &str = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>";

#[tokio::test]
async fn a_completion_that_fails_with_status_200_is_asked_for_again() {
    let made = body(MADE.len(), MADE);
    let (outcome, requests) = completed(vec![refusal(200, "InternalError"), made]).await;
    outcome.expect("the second");
    assert_eq!(requests, 2);
    let (outcome, _) = completed(vec![refusal(200, "InternalError")]).await;
    let error = outcome.expect_err("never").to_string();
    assert!(
        error.contains("status 200 InternalError as planned"),
        "{error}"
    );
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_found_by_the_object_unless_nobody_can_look() {
    let lost = || refusal(404, "NoSuchUpload");
    let head =
        |len: u64| format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n");
    let (outcome, _) = completed(vec![lost(), status(503), head(5)]).await;
    outcome.expect("it is there");
    for other in [head(4), status(404)] {
        let (outcome, _) = completed(vec![lost(), other]).await;
        let error = outcome.expect_err("it is not there").to_string();
        assert!(error.contains("NoSuchUpload"), "{error}");
        assert!(error.contains("another backup of this volume"), "{error}");
    }
    let (outcome, _) = completed(vec![lost(), status(503)]).await;
    let error = outcome.expect_err("nobody can look");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn when_the_patience_ends_the_error_names_the_last_failure_and_not_the_clock() {
    let server = Server::start(vec![refusal(503, "SlowDown")]).await;
    let store = server.store(Duration::from_secs(2)).await;
    let error = store.get("object").await.expect_err("no store").to_string();
    assert!(
        error.contains("status 503 SlowDown as planned (tried "),
        "{error}"
    );

    // Taken and given back: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    drop(listener);
    let nobody = Server {
        url,
        requests: Arc::default(),
    };
    let store = nobody.store(Duration::from_secs(2)).await;
    let error = store.get("object").await.expect_err("no store").to_string();
    assert!(error.contains("the connection was refused"), "{error}");

    let silent = Server::start(vec![SILENCE.to_owned()]).await;
    let store = silent.store(Duration::from_secs(1)).await;
    let error = store.get("object").await.expect_err("silence").to_string();
    assert!(error.contains("no answer for 1 s"), "{error}");
}

#[tokio::test]
async fn a_large_upload_has_time_for_its_way_and_no_more_patience_than_a_small_one() {
    let large = || Bytes::from(vec![1; 8 << 20]).into();
    let server = Server::start(vec![refusal(503, "SlowDown")]).await;
    let store = server.store(Duration::from_secs(2)).await;
    let put = timeout(Duration::from_secs(20), store.put("object", large())).await;
    let error = put.expect("an end").expect_err("no store").to_string();
    assert!(error.contains("status 503 SlowDown"), "{error}");

    // An answer that takes longer than the patience, to what is on its way.
    let server = Server::start(vec![LATE.to_owned() + &status(200)]).await;
    let store = server.store(Duration::from_secs(1)).await;
    store.put("object", large()).await.expect("it has time");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_expired_token_is_denied_at_once() {
    let server = Server::start(vec![refusal(400, "ExpiredToken")]).await;
    let got = server.store(PATIENCE).await.get("object").await;
    let error = got.expect_err("expired");
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("ExpiredToken"), "{error}");
    assert_eq!(server.requests(), 1);
}

/// 206, and bytes that are fewer than the range, of an object that has so many.
fn part_of(object_bytes: u64, sent: &str) -> String {
    let (len, last) = (sent.len(), sent.len() - 1);
    format!(
        "HTTP/1.1 206 Partial\r\ncontent-length: {len}\r\ncontent-range: bytes \
         0-{last}/{object_bytes}\r\nconnection: close\r\n\r\n{sent}"
    )
}

#[tokio::test]
async fn an_answer_shorter_than_its_range_is_asked_for_again_before_an_object_is_called_short() {
    let server = Server::start(vec![
        part_of(9, "he"),
        part_of(5, "he"),
        part_of(9, "hello"),
    ])
    .await;
    let store = server.store(PATIENCE).await;
    let mut range = store.get_range("object", 0, 5).await.expect("asked");
    assert_eq!(
        range.next().await.expect("the third").expect("bytes"),
        "hello"
    );

    let server = Server::start(vec![part_of(4, "hell")]).await;
    let store = server.store(PATIENCE).await;
    let error = async { store.get_range("object", 0, 5).await?.next().await }.await;
    assert!(
        matches!(error, Err(StoreError::TooShort { .. })),
        "{error:?}"
    );
    assert_eq!(server.requests(), 3);
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
