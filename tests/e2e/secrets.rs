//! Credentials: in requests, and nowhere else.

use std::fs;

use ringback_endpoint::Options;
use ringback_proto::{control::ListBackupsRequest, lvmd::data_source::S3};

use crate::{
    client::{Client, asynchronous, backup, synchronous},
    harness::{Daemon, MIB, class, ringback, run},
    store::{Store, fill},
};

const ACCESS_KEY_ID: &str = "AKIDthatisunique4711";
const SECRET: &str = "secretthatisunique4712";
const WRONG_SECRET: &str = "wrongthatisunique4713";
const TOKEN: &str = "tokenthatisunique4714";
const KEY: &str = "passphrasethatisunique4715";
const PROXY_PASSWORD: &str = "proxythatisunique4716";

/// A daemon that says all it can.
fn talkative() -> Daemon {
    let environment = vec![("RINGBACK_LOG", "trace".to_owned())];
    Daemon::in_environment(environment, |folder| class("fast", folder, 0, true))
}

/// Backs up and restores, and fails to in every way that concerns credentials; all that the
/// callers were told.
async fn go_round(client: &Client, store: &Store) -> Vec<String> {
    let good = store.s3("monday");
    let volume = client.create("data", 8 * MIB).await;
    fill(&volume.path, 0, MIB, "content");
    let mut told = vec![client.back_up("data", &good).await];
    client
        .restore("again", 1, &synchronous(&good))
        .await
        .expect("it is restored");

    let with = |change: fn(&mut S3)| {
        let mut s3 = store.s3("tuesday");
        change(&mut s3);
        s3
    };
    for s3 in [
        with(|s3| s3.secret_access_key = WRONG_SECRET.to_owned()),
        with(|s3| s3.session_token = TOKEN.to_owned()),
        with(|s3| s3.encryption_key = KEY.to_owned()),
        with(|s3| s3.https_proxy = format!("nonsense://user:{PROXY_PASSWORD}@127.0.0.1:1")),
        with(|s3| s3.endpoint = format!("http://id:{SECRET}@127.0.0.1:1")),
        with(|s3| s3.path = format!("s3://id:{SECRET}@backups/team/monday")),
        with(|s3| s3.access_key_id = String::new()),
    ] {
        let request = backup("nightly", "data", &s3);
        match client.poll(&request).await {
            Ok(_) => told.push(client.end_of(&request).await.msg),
            Err(status) => told.push(format!("{status} {status:?}")),
        }
        let repository = ListBackupsRequest {
            repository: Some(s3.clone()),
        };
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
    let proxied = with(|s3| s3.http_proxy = format!("http://user:{PROXY_PASSWORD}@127.0.0.1:1"));
    let refused = client.poll(&backup("nightly", "absent", &proxied)).await;
    let status = refused.expect_err("the proxy does not answer");
    told.push(format!("{status} {status:?}"));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_logged_told_or_in_the_command_line() {
    let store = Store::with(Options {
        access_key_id: Some(ACCESS_KEY_ID.to_owned()),
        secret_access_key: Some(SECRET.to_owned()),
        ..Options::default()
    })
    .await;
    let daemon = talkative();
    let client = daemon.client().await;
    let told = go_round(&client, &store).await;
    assert!(told.len() > 10, "{told:?}");
    let log = daemon.log();
    assert!(log.contains("TRACE"), "the log does not say all it can");
    let process = format!("/proc/{}", daemon.id());
    let read = |name| fs::read(format!("{process}/{name}")).expect("reads");
    let command_line = [read("cmdline"), read("environ")].concat();
    let command_line = String::from_utf8_lossy(&command_line).into_owned();
    let mut client = ringback();
    client
        .env("RINGBACK_LOG", "trace")
        .env("RINGBACK_SOCKET", daemon.socket())
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .args([
            "show",
            "s3://backups/team/monday",
            "--endpoint",
            &store.endpoint.url(),
        ]);
    let output = run(&mut client);
    assert!(output.status.success(), "{output:?}");
    let mut shown = told;
    shown.push(String::from_utf8_lossy(&output.stderr).into_owned());
    shown.extend(log.lines().map(str::to_owned));
    shown.push(command_line);
    for secret in [
        SECRET,
        WRONG_SECRET,
        TOKEN,
        KEY,
        PROXY_PASSWORD,
        ACCESS_KEY_ID,
    ] {
        let found: Vec<&String> = shown
            .iter()
            .filter(|text| text.contains(secret))
            .take(5)
            .collect();
        assert!(found.is_empty(), "{secret}: {found:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_credentials_from_the_environment_alone() {
    let help = run(ringback().args(["backup", "--help"]));
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("AWS_ACCESS_KEY_ID"), "{help}");
    for option in ["--access-key", "--secret", "--token", "--encryption-key"] {
        let refused = run(ringback().args(["backup", "v", "s3://b/r/n", option, "x"]));
        assert_eq!(refused.status.code(), Some(2), "{option}");
    }
}
