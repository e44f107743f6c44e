//! The daemon's socket: who gets it, who may use it, and what else is served on it.

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Output,
};

use nix::sys::signal::Signal;
use protox::prost_reflect::{DescriptorPool, prost::Message, prost_types::FileDescriptorProto};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    client::{Client, ok, synchronous},
    harness::{Daemon, MIB, class, ended_well, ringback, run, signal, wait_for},
    store::Store,
};

/// Runs a daemon that is not expected to stay.
fn serve(folder: &Path, socket: &Path) -> Output {
    let config = format!(
        "socket-name: {}\ndevice-classes:\n{}",
        socket.display(),
        class("other", folder, 0, true)
    );
    let path = folder.join("other.yaml");
    fs::write(&path, config).expect("writes the configuration");
    run(ringback().arg("serve").arg("--config").arg(path))
}

fn assert_failed(output: &Output, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[tokio::test]
async fn only_its_owner_may_use_the_socket() {
    let daemon = Daemon::start();
    let mode = fs::metadata(daemon.socket())
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_daemon_is_refused_the_socket_and_the_first_serves_on() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let other = tempfile::tempdir().expect("a folder");
    let output = serve(other.path(), &daemon.socket());
    assert_failed(&output, "is in use: another daemon answers on it");
    assert!(
        !other.path().join("other").exists(),
        "it took its folder all the same"
    );
    client.create("data", MIB).await;
    daemon.client().await;
}

#[tokio::test]
async fn a_second_daemon_is_refused_the_volumes() {
    let daemon = Daemon::start();
    // It has its socket before it has its volumes.
    daemon.client().await.list().await;
    let config = fs::read_to_string(daemon.path("lvmd.yaml")).expect("reads");
    let other = daemon.path("other.yaml");
    fs::write(&other, config.replace("lvmd.sock", "other.sock")).expect("writes");
    let output = run(ringback().arg("serve").arg("--config").arg(other));
    assert_failed(&output, "already served by another ringback");
    assert!(!daemon.path("other.sock").exists());
}

#[tokio::test]
async fn an_abandoned_socket_is_replaced_and_another_file_is_not() {
    let mut daemon = Daemon::start();
    daemon.kill();
    assert!(daemon.socket().exists(), "a killed daemon cannot remove it");
    daemon.restart();
    daemon.client().await.create("data", MIB).await;

    let other = tempfile::tempdir().expect("a folder");
    let file = other.path().join("file");
    fs::write(&file, "precious").expect("writes");
    assert_failed(&serve(other.path(), &file), "is no socket");
    assert_eq!(
        fs::read_to_string(&file).expect("is still there"),
        "precious"
    );
}

#[tokio::test]
async fn a_socket_that_somebody_else_listens_on_is_left_to_him() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("binds");
    assert_failed(&serve(folder.path(), &socket), "is in use");
    assert!(socket.exists());
}

#[tokio::test]
async fn sigint_ends_the_daemon_as_sigterm_does() {
    let mut daemon = Daemon::start();
    let _idle = daemon.client().await;
    signal(daemon.id(), Signal::SIGINT);
    wait_for("the socket's end", async || {
        (!daemon.socket().exists()).then_some(())
    })
    .await;
    let status = daemon.end().await;
    assert!(ended_well(status), "{status}");
}

#[tokio::test]
async fn clients_that_do_not_hang_up_do_not_keep_the_daemon_from_ending() {
    let mut daemon = Daemon::start();
    let _silent = UnixStream::connect(daemon.socket()).expect("connects");
    let mut health = HealthClient::new(daemon.client().await.channel);
    let mut states = ok(health.watch(HealthCheckRequest::default()).await);
    let state = states.message().await.expect("a message");
    assert_eq!(state.expect("one").status(), ServingStatus::Serving);
    signal(daemon.id(), Signal::SIGTERM);
    let path = daemon.socket();
    wait_for("the socket's end", async || (!path.exists()).then_some(())).await;
    // While it still waits for them, another may begin.
    let _another = UnixListener::bind(&path).expect("the path is free");
    let status = daemon.end().await;
    assert!(ended_well(status), "{status}");
    assert!(path.exists(), "it is the other one's");
}

#[tokio::test]
async fn a_daemon_whose_log_cannot_be_written_works_on_and_ends_well() {
    let store = Store::start().await;
    let mut daemon = Daemon::logging_to("/dev/full");
    let client = daemon.client().await;
    client.create("data", MIB).await;
    client.back_up("data", &store.s3("monday")).await;
    let source = synchronous(&store.s3("monday"));
    let again = client.restore("again", 1, &source).await;
    again.expect("it is restored");
    let status = daemon.terminate().await;
    assert!(ended_well(status), "{status}");
}

#[tokio::test]
async fn a_configuration_that_is_wrong_ends_the_start_with_its_key_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lvmd.yaml");
    let class = class("fast", folder.path(), 0, true);
    fs::write(&path, format!("device-classes:\n{class}sokket-name: x\n")).expect("writes");
    let output = run(ringback().arg("serve").arg("--config").arg(&path));
    assert_failed(&output, "sokket-name");
    assert_failed(&output, "line 7");
    let output = run(ringback().args(["serve", "--config", "/absent.yaml"]));
    assert_failed(&output, "/absent.yaml");
}

#[tokio::test]
async fn health_says_that_both_services_serve() {
    let daemon = Daemon::start();
    let mut health = HealthClient::new(daemon.client().await.channel);
    for service in ["", "proto.LVService", "proto.VGService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = ok(health.check(request).await);
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

async fn reflect(client: &Client, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let mut reflection = ServerReflectionClient::new(client.channel.clone());
    let requests = tokio_stream::iter([request]);
    let mut answers = ok(reflection.server_reflection_info(requests).await);
    let answer = answers
        .message()
        .await
        .expect("no error")
        .expect("an answer");
    answer.message_response.expect("not empty")
}

#[tokio::test]
async fn reflection_shows_the_services_and_field_5_as_the_seeds_message() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let listed = reflect(&client, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else {
        panic!("not a list");
    };
    let names: Vec<&str> = listed
        .service
        .iter()
        .map(|service| &service.name[..])
        .collect();
    for wanted in [
        "proto.LVService",
        "proto.VGService",
        "ringback.v1.Ringback",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&wanted), "{names:?}");
    }

    let symbol = MessageRequest::FileContainingSymbol("proto.CreateLVRequest".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&client, symbol).await else {
        panic!("not a file");
    };
    let mut pool = DescriptorPool::new();
    for file in files.file_descriptor_proto {
        let file = FileDescriptorProto::decode(&file[..]).expect("a file");
        pool.add_file_descriptor_proto(file).expect("a valid file");
    }
    let request = pool
        .get_message_by_name("proto.CreateLVRequest")
        .expect("is there");
    let field = request.get_field(5).expect("is there");
    assert_eq!(field.name(), "data_source");
    let kind = field.kind();
    let message = kind.as_message().expect("a message");
    assert_eq!(message.full_name(), "proto.DataSource");
}
