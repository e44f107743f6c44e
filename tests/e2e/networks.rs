//! The ways between a daemon and its store: certificates, proxies, addresses, names.

use std::{fs, sync::Arc};

use crate::{
    client::{Client, backup, synchronous},
    harness::{Daemon, MIB, class},
    store::{BUCKET, Store, assert_same_content, fill},
    ways::{
        Authority, BEHIND_PROXIES, Identity, Proxy, closed_port, credentials_server,
        tls_in_front_of,
    },
};
use ringback_proto::{
    control::ListBackupsRequest,
    lvmd::{StateType, data_source::S3},
};

/// base64 of `user:pass/word`, which is the login of the proxies here.
const AUTHORIZATION: &str = "Basic dXNlcjpwYXNzL3dvcmQ=";
const PASSWORD: &str = "pass%2Fword";
const WRONG_PASSWORD: &str = "hush";

/// Backs a volume up and restores it; every byte must come back.
async fn assert_round_trip(client: &Client, s3: &S3) {
    let volume = client.create("data", 8 * MIB).await;
    fill(&volume.path, 0, 2 * MIB, &s3.path);
    client.back_up("data", s3).await;
    let restored = client.restore("again", 1, &synchronous(s3)).await;
    let restored = restored.expect("it is restored");
    assert_same_content(&volume.path, &restored.path);
    let shown = client.show(s3).await.expect("it is shown");
    assert!(s3.path.ends_with(&format!("/{}", shown.name)), "{shown:?}");
    for name in ["data", "again"] {
        client.remove(name).await.expect("it is removed");
    }
}

/// What restore, list and show say, none of which may succeed.
async fn failures(client: &Client, volume: &str, s3: &S3) -> Vec<String> {
    let repository = ListBackupsRequest {
        repository: Some(s3.clone()),
    };
    let mut own = client.own.clone();
    let source = synchronous(s3);
    let (restored, listed, shown) = tokio::join!(
        client.restore(volume, 1, &source),
        own.list_backups(repository),
        client.show(s3),
    );
    [
        restored.map(drop).expect_err("restored"),
        listed.map(drop).expect_err("listed"),
        shown.map(drop).expect_err("shown"),
    ]
    .map(|status| status.message().to_owned())
    .into()
}

/// The same and what a backup ends with: it ends at once, for a backup that hopes on goes on for
/// a quarter of an hour.
async fn final_failures(client: &Client, s3: &S3) -> Vec<String> {
    client.create("data", MIB).await;
    let state = client.end_of(&backup("nightly", "data", s3)).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    client.remove("data").await.expect("it is removed");
    let mut told = failures(client, "again", s3).await;
    told.push(state.msg);
    told
}

#[track_caller]
fn assert_all_say(told: &[String], says: &str) {
    for sentence in told {
        assert!(sentence.contains(says), "{says:?}: {sentence}");
    }
}

fn through(store: &Store, endpoint: &str) -> S3 {
    S3 {
        endpoint: endpoint.to_owned(),
        ..store.s3("monday")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stores_own_authority_is_trusted_where_the_operator_names_it() {
    let (store, authority) = (Store::start().await, Authority::new());
    let port = tls_in_front_of(&store.endpoint.url(), authority.issue(&["localhost"])).await;
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("authorities.pem");
    // Beside one that has nothing to do with it.
    let both = format!("# ours\n{}{}", Authority::new().pem(), authority.pem());
    fs::write(&bundle, both).expect("writes the bundle");
    let bundle = bundle.display().to_string();
    let by_key = format!("s3: {{ region: us-east-1, ca-file: {bundle} }}\n");
    let ways = [
        (vec![], by_key),
        (vec![("AWS_CA_BUNDLE", bundle.clone())], String::new()),
        (vec![("SSL_CERT_FILE", bundle.clone())], String::new()),
        (
            vec![("SSL_CERT_DIR", folder.path().display().to_string())],
            String::new(),
        ),
    ];
    for (number, (environment, s3)) in ways.into_iter().enumerate() {
        let daemon =
            Daemon::in_environment(environment, |folder| class("fast", folder, 0, true) + &s3);
        let mut s3 = through(&store, &format!("https://localhost:{port}"));
        s3.path = format!("s3://{BUCKET}/team/way-{number}");
        assert_round_trip(&daemon.client().await, &s3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_trusted_by_itself_unless_it_is_an_authoritys() {
    let store = Store::start().await;
    let own = Identity::self_signed(&["localhost"]);
    let authoritys = Identity::self_signed_authority(&["localhost"]);
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("certificates.pem");
    fs::write(&bundle, format!("{}{}", own.pem(), authoritys.pem())).expect("writes them");
    let daemon = Daemon::with(|folder| {
        let s3 = format!("s3: {{ ca-file: {} }}\n", bundle.display());
        class("fast", folder, 0, true) + &s3
    });
    let client = daemon.client().await;
    let port = tls_in_front_of(&store.endpoint.url(), own).await;
    assert_round_trip(
        &client,
        &through(&store, &format!("https://localhost:{port}")),
    )
    .await;
    let port = tls_in_front_of(&store.endpoint.url(), authoritys).await;
    let told = final_failures(
        &client,
        &through(&store, &format!("https://localhost:{port}")),
    )
    .await;
    assert_all_say(&told, "its certificate is an authority's own (CA:TRUE)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_verified_is_refused_at_once_and_taken_without_verification() {
    let (store, authority) = (Store::start().await, Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("authorities.pem");
    fs::write(&bundle, authority.pem()).expect("writes the bundle");
    let daemon = Daemon::with(|folder| {
        let s3 = format!(
            "s3: {{ region: us-east-1, ca-file: {} }}\n",
            bundle.display()
        );
        class("fast", folder, 0, true) + &s3
    });
    let client = daemon.client().await;
    let stranger = Authority::new().issue(&["localhost"]);
    for (number, (identity, says)) in [
        (
            Identity::self_signed(&["localhost"]),
            "is issued by no authority that is trusted here",
        ),
        (stranger, "add the authority's to s3.ca-file"),
        (
            authority.issue(&["store.example", "*.store.example"]),
            "is for store.example, *.store.example and not for localhost",
        ),
        (
            authority.issue_expired(&["localhost"]),
            "has expired (2020-01-01T00:00:00Z); renew it, or set verify_tls to false",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let port = tls_in_front_of(&store.endpoint.url(), identity).await;
        let mut s3 = through(&store, &format!("https://localhost:{port}"));
        let told = final_failures(&client, &s3).await;
        assert_all_say(&told, says);
        assert_all_say(
            &told,
            &format!("https://localhost:{port}: its certificate "),
        );
        s3.verify_tls = false;
        s3.path = format!("s3://{BUCKET}/team/certificate-{number}");
        assert_round_trip(&client, &s3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_the_environment_that_cannot_be_read_is_named_when_it_matters() {
    let (store, authority) = (Store::start().await, Authority::new());
    let port = tls_in_front_of(&store.endpoint.url(), authority.issue(&["localhost"])).await;
    let environment = vec![("AWS_CA_BUNDLE", "/nowhere/bundle.pem".to_owned())];
    let daemon = Daemon::in_environment(environment, |folder| class("fast", folder, 0, true));
    let client = daemon.client().await;
    let told = final_failures(
        &client,
        &through(&store, &format!("https://localhost:{port}")),
    )
    .await;
    assert_all_say(&told, "AWS_CA_BUNDLE /nowhere/bundle.pem: cannot be read");
    assert_round_trip(&client, &store.s3("monday")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_through_their_own_proxies_plain_or_by_tunnel_and_by_tls_to_the_proxy() {
    let store = Store::start().await;
    let url = store.endpoint.url();
    let host = url.trim_start_matches("http://").to_owned();
    let https = tls_in_front_of(&url, Identity::self_signed(&["localhost"])).await;
    let https_host = format!("localhost:{https}");
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let open = Proxy::start(None).await;
    let guarded = Proxy::start(Some(AUTHORIZATION)).await;
    let identity = Identity::self_signed(&["localhost"]);
    let encrypted = Proxy::start_tls(identity, Some(AUTHORIZATION)).await;
    let login = format!("user:{PASSWORD}@");
    for (name, proxy, address) in [
        ("open", &open, format!("http://127.0.0.1:{}", open.port())),
        (
            "guarded",
            &guarded,
            format!("http://{login}127.0.0.1:{}", guarded.port()),
        ),
        (
            "encrypted",
            &encrypted,
            format!("https://{login}localhost:{}/", encrypted.port()),
        ),
    ] {
        let plain = S3 {
            http_proxy: address.clone(),
            verify_tls: false,
            ..store.at(&format!("s3://{BUCKET}/{name}/plain"))
        };
        assert_round_trip(&client, &plain).await;
        assert!(proxy.plain() > 0, "{name}");
        let tunnelled = S3 {
            endpoint: format!("https://{https_host}"),
            path: format!("s3://{BUCKET}/{name}/tunnelled"),
            http_proxy: String::new(),
            https_proxy: address,
            ..plain
        };
        assert_round_trip(&client, &tunnelled).await;
        assert!(proxy.tunnels() > 0, "{name}");
        assert_eq!(proxy.refused(), 0, "{name}");
        let strangers = |target: &String| *target != host && *target != https_host;
        assert!(
            !proxy.targets().iter().any(strangers),
            "{:?}",
            proxy.targets()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_a_proxy_is_told_at_once_and_kept_secret() {
    let store = Store::start().await;
    let https = tls_in_front_of(&store.endpoint.url(), Identity::self_signed(&["localhost"])).await;
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let proxy = Proxy::start(Some(AUTHORIZATION)).await;
    let at = format!("127.0.0.1:{}", proxy.port());
    let address = format!("http://user:{WRONG_PASSWORD}@{at}");
    let plain = S3 {
        http_proxy: address.clone(),
        ..store.s3("monday")
    };
    let tunnelled = S3 {
        https_proxy: address,
        verify_tls: false,
        ..through(&store, &format!("https://localhost:{https}"))
    };
    for s3 in [plain, tunnelled] {
        let told = final_failures(&client, &s3).await;
        assert_all_say(
            &told,
            &format!("the proxy http://{at}: it wants another user or password (status 407)"),
        );
        let secret = |sentence: &String| sentence.contains(WRONG_PASSWORD);
        assert!(!told.iter().any(secret), "{told:?}");
    }
    assert!(!daemon.log().contains(WRONG_PASSWORD));
    assert_eq!(store.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_proxies_serve_requests_without_any_and_no_proxy_excepts_hosts() {
    let store = Store::start().await;
    let (theirs, own) = (Proxy::start(None).await, Proxy::start(None).await);
    let environment = |no_proxy: &str| {
        vec![
            ("HTTP_PROXY", format!("http://127.0.0.1:{}", theirs.port())),
            ("NO_PROXY", no_proxy.to_owned()),
        ]
    };
    let proxied = Daemon::in_environment(environment(""), |it| class("fast", it, 0, true));
    let client = proxied.client().await;
    let far = store.endpoint.url().replace("127.0.0.1", BEHIND_PROXIES);
    assert_round_trip(&client, &through(&store, &far)).await;
    let by_environment = theirs.plain();
    assert!(by_environment > 0);
    let near = S3 {
        path: format!("s3://{BUCKET}/team/tuesday"),
        ..through(&store, &store.endpoint.url())
    };
    assert_round_trip(&client, &near).await;
    assert_eq!(
        theirs.plain(),
        by_environment,
        "this host is reached directly"
    );

    let excepting = environment("example.com, .invalid");
    let excepting = Daemon::in_environment(excepting, |it| class("fast", it, 0, true));
    let client = excepting.client().await;
    let told = failures(&client, "again", &through(&store, &far)).await;
    assert_all_say(&told, "the host \"store.invalid\" has no known address");
    assert_eq!(theirs.plain(), by_environment, "excepted");
    // A request's own proxies are what it says, whatever the environment excepts.
    let with_its_own = S3 {
        http_proxy: format!("http://127.0.0.1:{}", own.port()),
        path: format!("s3://{BUCKET}/team/wednesday"),
        ..through(&store, &far)
    };
    assert_round_trip(&client, &with_its_own).await;
    assert!(own.plain() > 0);
    assert_eq!(theirs.plain(), by_environment, "not through both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_proxy_carries_its_requests_to_the_store_and_none_for_credentials() {
    let store = Store::start().await;
    let givers = credentials_server(
        store.endpoint.access_key_id(),
        store.endpoint.secret_access_key(),
        Arc::default(),
    )
    .await;
    let (own, environments) = (Proxy::start(None).await, Proxy::start(None).await);
    let environment = vec![
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("http://127.0.0.1:{givers}/role"),
        ),
        (
            "HTTP_PROXY",
            format!("http://127.0.0.1:{}", environments.port()),
        ),
    ];
    let daemon = Daemon::in_environment(environment, |it| class("fast", it, 0, true));
    let s3 = S3 {
        access_key_id: String::new(),
        secret_access_key: String::new(),
        http_proxy: format!("http://127.0.0.1:{}", own.port()),
        ..store.s3("monday")
    };
    assert_round_trip(&daemon.client().await, &s3).await;
    let url = store.endpoint.url();
    let to_store = url.trim_start_matches("http://");
    let targets = own.targets();
    assert!(!targets.is_empty());
    assert!(
        targets.iter().all(|target| target == to_store),
        "{targets:?}"
    );
    assert_eq!(environments.targets(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_way_is_said() {
    let store = Store::start().await;
    let url = store.endpoint.url();
    let plain = url.trim_start_matches("http://");
    let https = tls_in_front_of(&url, Identity::self_signed(&["localhost"])).await;
    let closed = closed_port().await;
    let daemon = Daemon::start();
    let client = daemon.client().await;

    let confused = [
        (
            format!("https://{plain}"),
            "it does not speak TLS; the endpoint should begin with http://",
        ),
        (
            format!("http://localhost:{https}"),
            "it speaks TLS; the endpoint should begin with https://",
        ),
    ];
    for (endpoint, says) in confused {
        let told = final_failures(&client, &through(&store, &endpoint)).await;
        assert_all_say(&told, &format!("{endpoint}: {says}"));
    }

    let by_proxy = S3 {
        http_proxy: format!("http://user:{WRONG_PASSWORD}@127.0.0.1:{closed}"),
        ..store.s3("monday")
    };
    let proxy_says = format!("the proxy http://127.0.0.1:{closed}: the connection was refused");
    let nobody = through(&store, &format!("http://127.0.0.1:{closed}"));
    let nowhere = through(&store, "http://no-such-store.invalid");
    // These may pass, so that it takes their time to find out that they do not.
    let (by_proxy, nobody, nowhere) = tokio::join!(
        failures(&client, "one", &by_proxy),
        failures(&client, "two", &nobody),
        failures(&client, "three", &nowhere),
    );
    assert_all_say(&by_proxy, &proxy_says);
    assert!(!daemon.log().contains(WRONG_PASSWORD));
    assert_all_say(&nobody, "the connection was refused; nobody listens there");
    assert_all_say(
        &nowhere,
        "the host \"no-such-store.invalid\" has no known address",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_reached_over_ipv6_and_by_a_name_with_addresses_that_do_not_answer() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let over_ipv6 = Store::with(ringback_endpoint::Options {
        bind: "[::1]:0".parse().expect("an address"),
        ..ringback_endpoint::Options::default()
    })
    .await;
    assert!(over_ipv6.endpoint.url().starts_with("http://[::1]:"));
    assert_round_trip(&client, &over_ipv6.s3("monday")).await;

    // On most hosts this name has an address of each kind, and the store is at one of them.
    let store = Store::start().await;
    let by_name = store.endpoint.url().replace("127.0.0.1", "localhost");
    assert_round_trip(&client, &through(&store, &by_name)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_odd_characters_and_of_the_greatest_length_make_the_round_trip() {
    let store = Store::with_buckets(&["my.bucket.example", "b-2"]).await;
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let odd = [
        "team a/back up 1",
        "t\u{e4}\u{142}m/\u{65e5}\u{672c}\u{8a9e} e\u{301}",
        "a+b/c+d e",
        "100%/50%25",
        "a&b=c/d&e=f;g",
        "~user/it's \"quoted\"",
        "\u{1f4be}\u{1f469}\u{200d}\u{1f680}/\u{1f389}",
        "dots.../...end.",
        "*(star)!/[x]{y}|z^`@$,:",
        "back\\slash/<angle>",
        " leading/trailing ",
    ];
    for path in odd {
        assert_round_trip(&client, &store.at(&format!("s3://{BUCKET}/{path}"))).await;
    }
    // In the repository of one odd name all backups are listed by theirs.
    let names = ["50%25", "50%", "50 %", "50+"];
    for name in names {
        let s3 = store.at(&format!("my.bucket.example/100%/{name}"));
        assert_round_trip(&client, &s3).await;
    }
    let repository = ListBackupsRequest {
        repository: Some(store.at("my.bucket.example/100%")),
    };
    let listed = client.clone().own.list_backups(repository).await;
    let listed = listed.expect("it is listed").into_inner().backups;
    let listed: Vec<&str> = listed.iter().map(|backup| &backup.name[..]).collect();
    assert_eq!(listed, names);

    // 900 bytes are the most of a path; the name is part of the log's entry, not of a key.
    let prefix = "p".repeat(900 - "b-2/".len() - "/n".len());
    assert_round_trip(&client, &store.at(&format!("b-2/{prefix}/n"))).await;
    let name = "\u{e9}".repeat(440);
    assert_round_trip(&client, &store.at(&format!("b-2/{name}"))).await;
    let too_long = store.at(&format!("b-2/{prefix}p/n"));
    let refused = client.show(&too_long).await.expect_err("too long");
    assert!(refused.message().contains("has 901 bytes"), "{refused}");
}
