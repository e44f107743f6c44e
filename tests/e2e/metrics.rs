//! `GET /metrics`, asked by a plain TCP client.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use ringback_proto::lvmd::StateType;

use crate::{
    client::{backup, synchronous},
    harness::{DEADLINE, Daemon, MIB, class, ringback, run},
    store::{Store, fill},
    valve::Valve,
};

fn measured() -> Daemon {
    let address = ("RINGBACK_METRICS_BIND_ADDRESS", "127.0.0.1:0".to_owned());
    Daemon::in_environment(vec![address], |folder| {
        class("fast", folder, 0, true) + &class("slow", folder, 1 << 30, false)
    })
}

/// Waits until the daemon serves, which it does later than it has its socket.
fn wait_until_it_serves(daemon: &Daemon) {
    let output = run(ringback()
        .arg("health")
        .arg("--socket")
        .arg(daemon.socket()));
    assert!(output.status.success(), "{output:?}");
}

/// The address in the daemon's log.
fn address(daemon: &Daemon) -> SocketAddr {
    wait_until_it_serves(daemon);
    let log = daemon.log();
    let (_, after) = log.split_once("metrics address=").expect("it is logged");
    let end = after.find(char::is_whitespace).unwrap_or(after.len());
    after[..end].parse().expect("an address")
}

/// What is answered to a request, head and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("is set");
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("has a head");
    (head.to_owned(), body.to_owned())
}

struct Scrape {
    types: HashMap<String, String>,
    values: HashMap<String, f64>,
}

impl Scrape {
    fn of(daemon: &Daemon) -> Self {
        let (head, body) = ask(address(daemon), "GET /metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let content_type = "content-type: application/openmetrics-text; version=1.0.0";
        assert!(head.contains(content_type), "{head}");
        assert!(body.ends_with("# EOF\n"), "{body}");
        let (mut types, mut values) = (HashMap::new(), HashMap::new());
        for line in body.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').expect("has a type");
                let before = types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("has a value");
                let value = value.parse().expect("is a number");
                let before = values.insert(series.to_owned(), value);
                assert_eq!(before, None, "{series} twice");
            }
        }
        Self { types, values }
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        let value = self.values.get(series);
        *value.unwrap_or_else(|| panic!("{series} is not in {:?}", self.values))
    }

    fn ended(&self, kind: &str, outcome: &str) -> f64 {
        self.value(&format!(
            "ringback_jobs_ended_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"
        ))
    }

    fn running(&self, kind: &str) -> f64 {
        self.value(&format!("ringback_jobs_running{{kind=\"{kind}\"}}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_bytes_and_room_are_told_during_a_backup_and_after_it() {
    let (daemon, store) = (measured(), Store::start().await);
    let client = daemon.client().await;
    let volume = client.create("data", 64 * MIB).await;
    fill(&volume.path, 0, 24 * MIB, "content");

    let valve = Valve::to(&store).await;
    let request = backup("monday", "data", &valve.through(store.s3("monday")));
    client.poll(&request).await.expect("it starts");
    valve.is_shut().await;
    let during = Scrape::of(&daemon);
    for (name, kind) in [
        ("topolvm_volumegroup_size_bytes", "gauge"),
        ("topolvm_volumegroup_available_bytes", "gauge"),
        ("ringback_jobs_running", "gauge"),
        ("ringback_jobs_ended", "counter"),
        ("ringback_read_bytes", "counter"),
        ("ringback_restored_bytes", "counter"),
        ("ringback_sent_bytes", "counter"),
        ("ringback_received_bytes", "counter"),
    ] {
        assert_eq!(
            during.types.get(name).map(String::as_str),
            Some(kind),
            "{name}"
        );
    }
    for class in ["fast", "slow"] {
        let of = |what| {
            during.value(&format!(
                "topolvm_volumegroup_{what}{{device_class=\"{class}\"}}"
            ))
        };
        let (size, available) = (of("size_bytes"), of("available_bytes"));
        assert!(
            size > 0.0 && available <= size,
            "{class}: {available} of {size}"
        );
    }
    // All of its room is spare.
    let slow = "topolvm_volumegroup_available_bytes{device_class=\"slow\"}";
    assert_eq!(during.value(slow), 0.0);
    assert_eq!(
        (during.running("backup"), during.running("restore")),
        (1.0, 0.0)
    );
    assert_eq!(during.ended("backup", "complete"), 0.0);

    valve.open();
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let after = Scrape::of(&daemon);
    assert_eq!(after.running("backup"), 0.0);
    assert_eq!(after.ended("backup", "complete"), 1.0);
    let filled = (24 * MIB) as f64;
    for (series, least) in [
        ("ringback_read_bytes_total", filled),
        ("ringback_sent_bytes_total", filled),
    ] {
        assert!(during.value(series) <= after.value(series), "{series}");
        assert!(
            after.value(series) >= least,
            "{series}: {}",
            after.value(series)
        );
        assert!(
            after.value(series) < 2.0 * least + (64 * MIB) as f64,
            "{series}"
        );
    }

    let source = synchronous(&store.s3("monday"));
    client
        .restore("again", 1, &source)
        .await
        .expect("is restored");
    let absent = synchronous(&store.s3("absent"));
    client
        .restore("other", 1, &absent)
        .await
        .expect_err("there is none");
    let last = Scrape::of(&daemon);
    assert_eq!(last.ended("restore", "complete"), 1.0);
    assert_eq!(last.ended("restore", "failed"), 1.0);
    assert_eq!(last.running("restore"), 0.0);
    assert!(last.value("ringback_restored_bytes_total") >= filled);
    assert!(last.value("ringback_received_bytes_total") >= filled);
    let read = "ringback_read_bytes_total";
    assert_eq!(
        last.value(read),
        after.value(read),
        "a restore reads no volume"
    );
}

#[test]
fn what_is_not_for_scrapers_is_told_so() {
    let daemon = measured();
    let address = address(&daemon);
    for (request, answer) in [("GET /", "404 "), ("POST /metrics", "405 ")] {
        let (head, _) = ask(address, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {answer}")), "{head}");
    }
}

#[test]
fn a_port_that_another_daemon_has_ends_the_start_with_a_sentence() {
    let daemon = measured();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("other.yaml");
    let socket = folder.path().join("other.sock");
    let classes = class("other", folder.path(), 0, true);
    let text = format!(
        "socket-name: {}\ndevice-classes:\n{classes}",
        socket.display()
    );
    fs::write(&config, text).expect("writes");
    let start = |address: &str| {
        let mut serve = ringback();
        serve.args(["serve", "--metrics-bind-address", address, "--config"]);
        let output = run(serve.arg(&config));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let taken = address(&daemon).to_string();
    let says = format!("the address for metrics, {taken}, is in use; choose another");
    let said = start(&taken);
    assert!(said.contains(&says), "{said}");
    assert!(!socket.exists() && !folder.path().join("other").exists());
    // By its port alone, as the default is.
    let on_all = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"));
    let on_all = on_all.expect("a port is free");
    let port = on_all.local_addr().expect("has one").port();
    let said = start(&format!(":{port}"));
    assert!(said.contains(&format!(":{port}, is in use")), "{said}");
    for wrong in ["8080", ":http", "localhost"] {
        let said = start(wrong);
        assert!(said.contains("it should be like :8080"), "{wrong}: {said}");
    }
}

#[test]
fn with_0_nothing_listens() {
    // The harness passes it.
    let daemon = Daemon::start();
    wait_until_it_serves(&daemon);
    assert!(!daemon.log().contains("metrics"), "{}", daemon.log());
}
