//! `proto.LVService`: volumes and backups.

use ringback_proto::lvmd::{
    self, CreateBackupRequest, CreateBackupResponse, CreateLvRequest, CreateLvResponse,
    CreateLvSnapshotRequest, CreateLvSnapshotResponse, Empty, RemoveLvRequest, ResizeLvRequest,
    ResizeLvResponse, StateType, lv_service_server,
};
use tonic::{Request, Response, Status, async_trait};

use super::LvService;
use crate::{
    dialect,
    failure::Failure,
    jobs::backup::BackupState,
    names::Invalid,
    request::{CreateBackup, CreateSnapshot, CreateVolume, RemoveVolume, ResizeVolume},
};

/// Reads a request; what is wrong with it is INVALID_ARGUMENT.
fn read<W, R: TryFrom<W, Error = Invalid>>(request: Request<W>) -> Result<R, Status> {
    R::try_from(request.into_inner()).map_err(|invalid| Failure::from(invalid).into())
}

#[async_trait]
impl lv_service_server::LvService for LvService {
    async fn create_lv(
        &self,
        request: Request<CreateLvRequest>,
    ) -> Result<Response<CreateLvResponse>, Status> {
        let volume = self.0.create(read::<_, CreateVolume>(request)?).await?;
        Ok(Response::new(CreateLvResponse {
            volume: Some(dialect::volume_reply(&volume)),
        }))
    }

    async fn remove_lv(
        &self,
        request: Request<RemoveLvRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.0.remove(&read::<_, RemoveVolume>(request)?).await?;
        Ok(Response::new(Empty {}))
    }

    async fn resize_lv(
        &self,
        request: Request<ResizeLvRequest>,
    ) -> Result<Response<ResizeLvResponse>, Status> {
        let size_bytes = self.0.resize(&read::<_, ResizeVolume>(request)?).await?;
        Ok(Response::new(dialect::resize_reply(size_bytes)))
    }

    async fn create_lv_snapshot(
        &self,
        request: Request<CreateLvSnapshotRequest>,
    ) -> Result<Response<CreateLvSnapshotResponse>, Status> {
        let snapshot = self.0.snapshot(read::<_, CreateSnapshot>(request)?).await?;
        Ok(Response::new(CreateLvSnapshotResponse {
            snapshot: Some(dialect::volume_reply(&snapshot)),
        }))
    }

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<CreateBackupResponse>, Status> {
        let request: CreateBackup = read(request)?;
        let name = request.name.clone();
        let (state, msg) = match self.0.backups.start_or_poll(request).await? {
            BackupState::InProgress(progress) => (StateType::Inprogress, progress),
            BackupState::Complete(summary) => (StateType::Complete, summary),
            BackupState::Error(reason) => (StateType::Error, reason),
        };
        Ok(Response::new(CreateBackupResponse {
            backup_state: Some(lvmd::BackupState {
                name,
                state: state.into(),
                msg,
            }),
        }))
    }
}
