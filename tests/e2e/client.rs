//! A client of all services, with short forms of what most tests ask.

use std::path::Path;

use hyper_util::rt::TokioIo;
use prost::Message;
use ringback_proto::{
    control::{
        BackupInfo, JobKind, JobPhase, JobProgress, ShowBackupRequest, WatchJobRequest,
        ringback_client::RingbackClient,
    },
    lvmd::{
        Backup, BackupState, CreateBackupRequest, CreateLvRequest, DataSource, GetLvListRequest,
        LogicalVolume, RemoveLvRequest, StateType, data_source, data_source::S3,
        lv_service_client::LvServiceClient, vg_service_client::VgServiceClient,
    },
};
use tokio::net::UnixStream;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint, Error, Uri},
};
use tower::service_fn;

use crate::harness::wait_for;

/// Clients of all services, on one connection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) lv: LvServiceClient<Channel>,
    pub(crate) vg: VgServiceClient<Channel>,
    pub(crate) own: RingbackClient<Channel>,
    pub(crate) channel: Channel,
}

impl Client {
    pub(crate) async fn connect(socket: &Path) -> Self {
        let connected = Self::try_connect(socket).await;
        connected.expect("the daemon answers")
    }

    /// The same for a daemon that may not be there.
    pub(crate) async fn try_connect(socket: &Path) -> Result<Self, Error> {
        let socket = socket.to_owned();
        let connector = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://lvmd.invalid")
            .connect_with_connector(connector)
            .await?;
        Ok(Self {
            lv: LvServiceClient::new(channel.clone()),
            vg: VgServiceClient::new(channel.clone()),
            own: RingbackClient::new(channel.clone()),
            channel,
        })
    }

    /// Makes an empty volume of the default class.
    pub(crate) async fn create(&self, name: &str, size_bytes: u64) -> LogicalVolume {
        let created = self
            .clone()
            .lv
            .create_lv(sized_bytes(name, size_bytes))
            .await;
        let volume = created.expect("the volume is made").into_inner().volume;
        volume.expect("the answer has the volume")
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<(), Status> {
        let request = RemoveLvRequest {
            name: name.to_owned(),
            device_class: String::new(),
        };
        self.clone().lv.remove_lv(request).await.map(drop)
    }

    /// The volumes of the default class.
    pub(crate) async fn list(&self) -> Vec<LogicalVolume> {
        let listed = self
            .clone()
            .vg
            .get_lv_list(GetLvListRequest::default())
            .await;
        listed.expect("volumes are listed").into_inner().volumes
    }

    pub(crate) async fn find(&self, name: &str) -> Option<LogicalVolume> {
        self.list()
            .await
            .into_iter()
            .find(|volume| volume.name == name)
    }

    /// One CreateBackup.
    pub(crate) async fn poll(&self, request: &CreateBackupRequest) -> Result<BackupState, Status> {
        let answer = self.clone().lv.create_backup(request.clone()).await?;
        let state = answer.into_inner().backup_state;
        Ok(state.expect("the answer has a state"))
    }

    /// Polls until a backup does not run any more.
    pub(crate) async fn end_of(&self, request: &CreateBackupRequest) -> BackupState {
        wait_for("the backup's end", async || {
            let state = self.poll(request).await.expect("the backup can be polled");
            (state.state() != StateType::Inprogress).then_some(state)
        })
        .await
    }

    /// Backs up, which must succeed; the summary.
    pub(crate) async fn back_up(&self, volume: &str, s3: &S3) -> String {
        let state = self.end_of(&backup("a-backup", volume, s3)).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        state.msg
    }

    /// A CreateLV with data source, in the seed's dialect.
    pub(crate) async fn restore(
        &self,
        name: &str,
        size_gb: u64,
        source: &DataSource,
    ) -> Result<LogicalVolume, Status> {
        let request = with_source(name, size_gb, source);
        let answer = self.clone().lv.create_lv(request).await?;
        let volume = answer.into_inner().volume;
        Ok(volume.expect("the answer has the volume"))
    }

    /// What the store says of a backup.
    pub(crate) async fn show(&self, s3: &S3) -> Result<BackupInfo, Status> {
        let request = ShowBackupRequest {
            backup: Some(s3.clone()),
        };
        let answer = self.clone().own.show_backup(request).await?;
        Ok(answer
            .into_inner()
            .backup
            .expect("the answer has the backup"))
    }

    /// Follows a restore to its end.
    pub(crate) async fn end_of_restore(&self, volume: &str) -> JobProgress {
        let request = WatchJobRequest {
            kind: JobKind::Restore.into(),
            name: volume.to_owned(),
            device_class: String::new(),
        };
        let states = self.clone().own.watch_job(request).await;
        let mut states = states.expect("the job is there").into_inner();
        loop {
            let state = states.message().await.expect("the job can be followed");
            let state = state.expect("a job ends with its result");
            if matches!(state.phase(), JobPhase::Done | JobPhase::Failed) {
                return state;
            }
        }
    }
}

/// A CreateLV of an empty volume in the seed's dialect.
pub(crate) fn sized_gb(name: &str, size_gb: u64) -> CreateLvRequest {
    CreateLvRequest {
        name: name.to_owned(),
        size_gb,
        ..CreateLvRequest::default()
    }
}

/// The same in the current dialect.
pub(crate) fn sized_bytes(name: &str, size_bytes: u64) -> CreateLvRequest {
    CreateLvRequest {
        name: name.to_owned(),
        size_bytes: i64::try_from(size_bytes).expect("a size"),
        ..CreateLvRequest::default()
    }
}

/// A CreateLV of a volume that is to hold a backup.
pub(crate) fn with_source(name: &str, size_gb: u64, source: &DataSource) -> CreateLvRequest {
    CreateLvRequest {
        data_source_or_option_class: Some(source.encode_to_vec().into()),
        ..sized_gb(name, size_gb)
    }
}

/// A restore that is answered when the volume holds the backup.
pub(crate) fn synchronous(s3: &S3) -> DataSource {
    DataSource {
        synchronous_restore: true,
        r#type: Some(data_source::Type::S3(s3.clone())),
    }
}

/// A restore that is answered at once.
pub(crate) fn asynchronous(s3: &S3) -> DataSource {
    DataSource {
        synchronous_restore: false,
        ..synchronous(s3)
    }
}

/// A CreateBackup.
pub(crate) fn backup(name: &str, volume_handle: &str, s3: &S3) -> CreateBackupRequest {
    CreateBackupRequest {
        backup: Some(Backup {
            name: name.to_owned(),
            volume_handle: volume_handle.to_owned(),
            data_source: Some(asynchronous(s3)),
        }),
    }
}

/// Asserts that a call was refused with this code and a sentence that contains `says`.
#[track_caller]
pub(crate) fn assert_refused<T>(answer: Result<T, Status>, code: Code, says: &str) {
    match answer {
        Ok(_) => panic!("it was not refused; expected {code:?}: {says}"),
        Err(status) => {
            assert_eq!(status.code(), code, "{}", status.message());
            assert!(status.message().contains(says), "{:?}", status.message());
        }
    }
}

/// What a call answered.
#[track_caller]
pub(crate) fn ok<T>(answer: Result<Response<T>, Status>) -> T {
    answer.expect("the call succeeds").into_inner()
}
