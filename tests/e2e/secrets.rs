//! Credentials: in requests, and nowhere else.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::sys::signal::Signal;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ringback_endpoint::Options;
use ringback_proto::{control::ListBackupsRequest, lvmd::data_source::S3};

use crate::{
    client::{Client, asynchronous, backup, synchronous},
    harness::{Daemon, MIB, class, ringback, run, signal},
    store::{Store, fill},
    ways::{Proxy, credentials_server},
};

const ACCESS_KEY_ID: &str = "AKIDthatisunique4711";
const SECRET: &str = "secret/that+is \"unique\"\u{e9}4712";
const WRONG_SECRET: &str = "wrong/that+is \"unique\"\u{e9}4713";
const TOKEN: &str = "token/that+is=\"unique\"4714";
const WRONG_TOKEN: &str = "wrongtoken/that+is=\"unique\"4715";
const KEY: &str = "pass phrase that\\is \"unique\"\u{e9}\n4716";
const WRONG_KEY: &str = "wrong phrase that\\is \"unique\"\u{e9}\n4719";
const NEW_KEY: &str = "new phrase that\\is \"unique\"\u{e9}\n4720";
const PROXY_PASSWORD: &str = "proxy/that:is@\"unique\"\u{e9}4717";
const WRONG_PROXY_PASSWORD: &str = "wrongproxy/that:is@\"unique\"4718";

const ALL: [&str; 10] = [
    ACCESS_KEY_ID,
    SECRET,
    WRONG_SECRET,
    TOKEN,
    WRONG_TOKEN,
    KEY,
    WRONG_KEY,
    NEW_KEY,
    PROXY_PASSWORD,
    WRONG_PROXY_PASSWORD,
];

/// What a secret looks like to those who print it or send it.
fn forms(secret: &str) -> Vec<String> {
    let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let debug = format!("{secret:?}");
    let bytes = format!("{:?}", secret.as_bytes());
    let mut forms = vec![
        secret.to_owned(),
        percent.to_lowercase(),
        percent,
        hex.to_uppercase(),
        hex,
        debug.trim_matches('"').to_owned(),
        secret.escape_default().to_string(),
        secret.as_bytes().escape_ascii().to_string(),
        bytes.trim_matches(['[', ']']).to_owned(),
        serde_json::Value::from(secret)
            .to_string()
            .trim_matches('"')
            .to_owned(),
    ];
    // Wherever in an encoded text it begins; what neighbours have a share in is left out.
    for before in 0..3 {
        let padded = [&vec![0; before], secret.as_bytes()].concat();
        let whole = padded.len() / 3 * 3;
        let encoded = BASE64_STANDARD.encode(&padded[..whole]);
        let own = &encoded[if before == 0 { 0 } else { 4 }..];
        forms.push(own.replace('+', "-").replace('/', "_"));
        forms.push(own.to_owned());
    }
    forms.sort();
    forms.dedup();
    forms
}

/// The secrets that are in a text, and in which form.
fn found_in(text: &str) -> Vec<&'static str> {
    static FORMS: LazyLock<Vec<String>> =
        LazyLock::new(|| ALL.iter().flat_map(|secret| forms(secret)).collect());
    let forms = FORMS.iter().map(String::as_str);
    forms.filter(|form| text.contains(form)).collect()
}

#[track_caller]
fn assert_without_secrets(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let found = found_in(&text);
    let with_some = |line: &&str| found.iter().any(|form| line.contains(form));
    let lines: Vec<&str> = text.lines().filter(with_some).take(5).collect();
    assert!(found.is_empty(), "{place}: {found:?} in {lines:#?}");
}

/// All files at and below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("lists the folder") {
        let entry = entry.expect("has an entry");
        let kind = entry.file_type().expect("has a type");
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn a_secret_is_recognised_in_each_form() {
    let login = format!("user:{PROXY_PASSWORD}");
    for text in [
        format!("...{SECRET}..."),
        format!("{:?}", Some(SECRET)),
        format!("Basic {}", BASE64_STANDARD.encode(&login)),
        format!("Basic {}", BASE64_STANDARD.encode(format!("{login}-"))),
        format!("?X-Token={}", utf8_percent_encode(TOKEN, NON_ALPHANUMERIC)),
        format!("{:?}", [b"12", KEY.as_bytes(), b"34"].concat()),
        serde_json::json!({ "key": KEY }).to_string(),
    ] {
        assert_ne!(found_in(&text), [""; 0], "{text}");
    }
    assert_eq!(found_in("nothing of that kind"), [""; 0]);
}

/// Backs up and restores, and fails to in every way that concerns credentials; all that the
/// callers were told.
async fn go_round(client: &Client, store: &Store, proxy: &Proxy) -> Vec<String> {
    let by = |password| {
        let password = utf8_percent_encode(password, NON_ALPHANUMERIC);
        format!("http://user:{password}@127.0.0.1:{}", proxy.port())
    };
    let good = S3 {
        session_token: TOKEN.to_owned(),
        http_proxy: by(PROXY_PASSWORD),
        ..store.s3("monday")
    };
    let volume = client.create("data", 8 * MIB).await;
    fill(&volume.path, 0, MIB, "content");
    let mut told = vec![client.back_up("data", &good).await];
    client
        .restore("again", 1, &synchronous(&good))
        .await
        .expect("it is restored");
    assert!(proxy.plain() > 0, "through the proxy");
    // Its image is a whole GiB of mostly nothing to look through.
    client.remove("again").await.expect("it is removed");
    let sealed = S3 {
        path: "s3://backups/sealed/monday".to_owned(),
        encryption_key: KEY.to_owned(),
        ..good.clone()
    };
    told.push(client.back_up("data", &sealed).await);
    client
        .restore("again", 1, &synchronous(&sealed))
        .await
        .expect("it is restored");
    client.remove("again").await.expect("it is removed");

    let with = |change: &dyn Fn(&mut S3)| {
        let mut s3 = S3 {
            path: store.s3("tuesday").path,
            ..good.clone()
        };
        change(&mut s3);
        s3
    };
    for s3 in [
        with(&|s3| s3.secret_access_key = WRONG_SECRET.to_owned()),
        with(&|s3| s3.session_token = WRONG_TOKEN.to_owned()),
        with(&|s3| s3.encryption_key = KEY.to_owned()),
        with(&|s3| s3.encryption_key = KEY.repeat(100)),
        S3 {
            encryption_key: WRONG_KEY.to_owned(),
            ..sealed.clone()
        },
        with(&|s3| s3.http_proxy = by(WRONG_PROXY_PASSWORD)),
        with(&|s3| s3.https_proxy = format!("nonsense://user:{PROXY_PASSWORD}@127.0.0.1:1")),
        with(&|s3| s3.http_proxy = format!("http://user:{PROXY_PASSWORD}@127.0.0.1:1")),
        with(&|s3| s3.http_proxy = format!("{}/path", by(PROXY_PASSWORD))),
        with(&|s3| s3.endpoint = format!("http://id:{SECRET}@127.0.0.1:1")),
        with(&|s3| s3.path = format!("s3://id:{SECRET}@backups/team/monday")),
        with(&|s3| s3.access_key_id = String::new()),
    ] {
        let request = backup("nightly", "data", &s3);
        match client.poll(&request).await {
            Ok(_) => told.push(client.end_of(&request).await.msg),
            Err(status) => told.push(format!("{status} {status:?}")),
        }
        let repository = ListBackupsRequest {
            repository: Some(s3.clone()),
        };
        told.push(format!("{:?} {repository:?}", asynchronous(&s3)));
        for answer in [
            client
                .restore("other", 1, &asynchronous(&s3))
                .await
                .map(drop),
            client.show(&s3).await.map(drop),
            client.clone().own.list_backups(repository).await.map(drop),
        ] {
            told.extend(answer.err().map(|status| format!("{status} {status:?}")));
        }
    }
    told
}

fn proxy_authorization() -> &'static str {
    let login = BASE64_STANDARD.encode(format!("user:{PROXY_PASSWORD}"));
    format!("Basic {login}").leak()
}

async fn guarded_store() -> Store {
    let store = Store::with(Options {
        access_key_id: Some(ACCESS_KEY_ID.to_owned()),
        secret_access_key: Some(SECRET.to_owned()),
        ..Options::default()
    })
    .await;
    store.endpoint.want_session_token(TOKEN, "InvalidToken");
    store
}

/// A daemon that says all it can, and keeps its temporary files here.
fn talkative(temporary: &Path, environment: Vec<(&'static str, String)>) -> Daemon {
    let mut all = vec![
        (
            "RINGBACK_LOG",
            "trace,aws_config::profile::credentials=trace,aws_sigv4::http_request=trace,\
             aws_smithy_runtime::client::orchestrator::auth=trace"
                .to_owned(),
        ),
        ("TMPDIR", temporary.display().to_string()),
    ];
    all.extend(environment);
    Daemon::in_environment(all, |folder| class("fast", folder, 0, true))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_request_is_logged_told_kept_in_files_or_shown_to_other_processes() {
    let store = guarded_store().await;
    let proxy = Proxy::start(Some(proxy_authorization())).await;
    let temporary = tempfile::tempdir().expect("a folder");
    let mut daemon = talkative(temporary.path(), Vec::new());
    let client = daemon.client().await;
    let told = go_round(&client, &store, &proxy).await;
    assert!(told.len() > 30, "{}: {told:#?}", told.len());
    assert!(proxy.refused() > 0, "a wrong password was sent");
    assert_without_secrets("what callers were told", told.join("\n").as_bytes());

    let process = PathBuf::from(format!("/proc/{}", daemon.id()));
    for name in ["cmdline", "environ"] {
        let bytes = fs::read(process.join(name)).expect("reads");
        assert!(!bytes.is_empty());
        assert_without_secrets(name, &bytes);
    }
    daemon.terminate().await;
    let log = daemon.log();
    assert!(log.contains("TRACE"), "the log does not say all it can");
    let folder = daemon.path("");
    let mut files = files_below(&folder);
    assert!(
        files.len() >= 4,
        "configuration, log and volumes: {files:?}"
    );
    files.extend(files_below(temporary.path()));
    for file in files {
        let bytes = fs::read(&file).expect("reads the file");
        assert_without_secrets(&file.display().to_string(), &bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_that_the_daemon_finds_by_itself_is_logged_or_told() {
    let store = guarded_store().await;
    let token = Arc::new(Mutex::new(TOKEN.replace('"', "\\\"")));
    let secret = SECRET.replace('"', "\\\"");
    let givers = credentials_server(ACCESS_KEY_ID, &secret, token).await;
    let temporary = tempfile::tempdir().expect("a folder");
    let keys = vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_SESSION_TOKEN", TOKEN.to_owned()),
    ];
    let role = vec![(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        format!("http://127.0.0.1:{givers}/role"),
    )];
    let shared = temporary.path().join("credentials");
    let lines = format!(
        "[default]\naws_access_key_id={ACCESS_KEY_ID}\naws_secret_access_key={SECRET}\n\
         aws_session_token={TOKEN}\n"
    );
    fs::write(&shared, lines).expect("writes a profile");
    let profile = vec![("AWS_SHARED_CREDENTIALS_FILE", shared.display().to_string())];
    for (number, environment) in [keys, role, profile].into_iter().enumerate() {
        let daemon = talkative(temporary.path(), environment);
        let client = daemon.client().await;
        client.create("data", MIB).await;
        let s3 = S3 {
            access_key_id: String::new(),
            secret_access_key: String::new(),
            ..store.s3(&format!("monday-{number}"))
        };
        let told = client.back_up("data", &s3).await;
        assert_without_secrets("what the caller was told", told.as_bytes());
        let log = daemon.log();
        assert!(log.contains("TRACE"), "the log does not say all it can");
        assert_without_secrets("the log", log.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_secrets_from_the_environment_and_shows_none() {
    let store = guarded_store().await;
    let proxy = Proxy::start(Some(proxy_authorization())).await;
    let daemon = Daemon::start();
    daemon.client().await.create("data", MIB).await;
    let password = utf8_percent_encode(PROXY_PASSWORD, NON_ALPHANUMERIC).to_string();
    let by_proxy = format!("http://user:{password}@127.0.0.1:{}", proxy.port());
    let url = store.endpoint.url();
    let file = daemon.path("image");
    fs::write(&file, "content").expect("written");
    let file = file.display().to_string();
    let mut told = Vec::new();
    for (arguments, code) in [
        (&["backup", "data", "s3://backups/team/monday"][..], 0),
        (&["show", "s3://backups/team/monday"], 0),
        (&["show", "s3://backups/team/monday", "--json"], 0),
        (&["verify", "s3://backups/team/monday"], 0),
        (&["show", "s3://backups/team/tuesday", "--json"], 3),
        (&["backup", &file, "s3://backups/sealed/monday"], 0),
        (&["key", "add", "s3://backups/sealed"], 0),
        (&["key", "add", "s3://backups/sealed"], 7),
        (&["key", "list", "s3://backups/sealed", "--json"], 0),
        (&["verify", "s3://backups/sealed", "--data"], 0),
    ] {
        let mut command = ringback();
        command
            .env("RINGBACK_LOG", "trace")
            .env("RINGBACK_SOCKET", daemon.socket())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_SESSION_TOKEN", TOKEN)
            .env("RINGBACK_HTTP_PROXY", &by_proxy)
            .args(arguments)
            .args(["--endpoint", &url]);
        if arguments.iter().any(|argument| argument.contains("sealed")) {
            command
                .env("RINGBACK_PASSPHRASE", KEY)
                .env("RINGBACK_NEW_PASSPHRASE", NEW_KEY);
        }
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
        told.extend([output.stdout, output.stderr].concat());
    }
    assert!(proxy.plain() > 0, "through the proxy");
    assert_without_secrets("the command line's output", &told);

    let help = run(ringback()
        .args(["backup", "--help"])
        .env("RINGBACK_HTTP_PROXY", &by_proxy));
    assert_without_secrets("the help", &help.stdout);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for variable in [
        "AWS_ACCESS_KEY_ID",
        "RINGBACK_HTTP_PROXY",
        "RINGBACK_PASSPHRASE",
    ] {
        assert!(help.contains(variable), "{help}");
    }
    for option in [
        "--access-key",
        "--secret",
        "--token",
        "--encryption-key",
        "--passphrase",
    ] {
        let refused = run(ringback().args(["backup", "v", "s3://b/r/n", option, "x"]));
        assert_eq!(refused.status.code(), Some(2), "{option}");
    }
    for option in ["--http-proxy", "--https-proxy"] {
        let refused = run(ringback().args(["show", "s3://backups/r/n", option, &by_proxy]));
        assert_eq!(refused.status.code(), Some(2), "{option}");
        assert_without_secrets(option, &refused.stderr);
        let sentence = String::from_utf8_lossy(&refused.stderr);
        assert!(sentence.contains("_PROXY instead"), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_dumps_no_core_and_no_memory() {
    let mut daemon = Daemon::start();
    let read = |name: &str| {
        let path = format!("/proc/{}/{name}", daemon.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let limits = read("limits");
    let of_cores = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .expect("cores have a limit");
    let words: Vec<&str> = of_cores.split_whitespace().collect();
    assert_eq!(words[..2], ["0", "0"], "soft and hard");
    let filter = u64::from_str_radix(read("coredump_filter").trim(), 16);
    assert_eq!(filter, Ok(0), "no kind of memory is dumped");
    signal(daemon.id(), Signal::SIGABRT);
    let status = daemon.end().await;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped(), "{status}");
}
