//! `ringback health`, as a liveness probe runs it.

use std::{
    os::unix::net::UnixListener as StdUnixListener,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic_health::{ServingStatus, server::health_reporter};

use crate::harness::{Daemon, ringback, run};

/// What a busy machine may add to a time limit.
const SLACK: Duration = Duration::from_secs(10);

fn health(socket: &Path, arguments: &[&str]) -> Output {
    run(ringback()
        .arg("health")
        .arg("--socket")
        .arg(socket)
        .args(arguments))
}

#[track_caller]
fn assert_says(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_daemon_that_serves_is_healthy_by_its_socket_and_by_its_configuration() {
    let daemon = Daemon::start();
    let output = health(&daemon.socket(), &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("serves"));

    let mut by_configuration = ringback();
    by_configuration.args(["health", "--json", "--config"]);
    let output = run(by_configuration.arg(daemon.path("lvmd.yaml")));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"{\"status\":\"SERVING\"}\n");
}

#[test]
fn where_nobody_is_there_is_no_health() {
    let mut daemon = Daemon::start();
    daemon.kill();
    let left = health(&daemon.socket(), &[]);
    assert_says(&left, 5, "no daemon answers at");
    let never = health(&daemon.path("never.sock"), &[]);
    assert_says(&never, 5, "No such file or directory");
}

#[test]
fn whoever_takes_the_call_and_does_not_answer_is_given_up_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let _deaf = StdUnixListener::bind(&socket).expect("binds");
    for (arguments, ms) in [(&["--timeout", "200ms"][..], 200), (&[], 3000)] {
        let began = Instant::now();
        assert_says(&health(&socket, arguments), 5, &format!("within {ms} ms"));
        let took = began.elapsed();
        let limit = Duration::from_millis(ms);
        assert!(took >= limit && took < limit + SLACK, "{took:?}");
    }
    let too_long = health(&socket, &["--timeout", "4s"]);
    assert_eq!(too_long.status.code(), Some(2), "{too_long:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_it_does_not_serve_has_an_exit_code_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("binds");
    let (reporter, service) = health_reporter();
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    assert_says(&health(&socket, &[]), 9, "NOT_SERVING");
}
