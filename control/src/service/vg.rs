//! `proto.VGService`: what there is, and how much room.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use ringback_proto::lvmd::{
    Empty, GetFreeBytesRequest, GetFreeBytesResponse, GetLvListRequest, GetLvListResponse,
    ThinPoolItem, WatchItem, WatchResponse, vg_service_server,
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, async_trait};

use super::VgService;
use crate::{
    daemon::Daemon,
    dialect,
    failure::Failure,
    request::ClassRef,
    rooms::{ClassSpace, Told},
};

/// Room changes behind our back, too; watchers hear of it at least so often.
const WATCH_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How long a watcher that can be told of one group waits for the others.
const LVM_PATIENCE: Duration = Duration::from_secs(10);
/// The interval while there is a class of which nothing can be told.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

#[async_trait]
impl vg_service_server::VgService for VgService {
    async fn get_lv_list(
        &self,
        request: Request<GetLvListRequest>,
    ) -> Result<Response<GetLvListResponse>, Status> {
        let volumes = self.0.list(&ClassRef::from(request.into_inner())).await?;
        Ok(Response::new(GetLvListResponse {
            volumes: volumes.iter().map(dialect::listed_volume).collect(),
        }))
    }

    async fn get_free_bytes(
        &self,
        request: Request<GetFreeBytesRequest>,
    ) -> Result<Response<GetFreeBytesResponse>, Status> {
        let class = ClassRef::from(request.into_inner());
        let free_bytes = self.0.free_bytes(&class).await?;
        Ok(Response::new(GetFreeBytesResponse { free_bytes }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, _request: Request<Empty>) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = Watcher {
            changes: self.0.changes(),
            daemon: Arc::clone(&self.0),
            wait: Some(Duration::ZERO),
        };
        Ok(Response::new(Box::pin(stream::unfold(
            watcher,
            Watcher::advance,
        ))))
    }
}

struct Watcher {
    daemon: Arc<Daemon>,
    changes: watch::Receiver<u64>,
    /// How long it waits for a change before it tells all the same; `None` when it has ended.
    wait: Option<Duration>,
}

impl Watcher {
    async fn advance(mut self) -> Option<(Result<WatchResponse, Status>, Self)> {
        let wait = self.wait?;
        let asked = async {
            // Either way there is something to tell.
            let _ = tokio::time::timeout(wait, self.changes.changed()).await;
            self.daemon.rooms.now(LVM_PATIENCE).await
        };
        let told = tokio::select! {
            // A clean end would be taken for "never update again" by a stock node.
            () = self.daemon.stopping().cancelled_owned() => {
                Err(Failure::new(Code::Unavailable, "the daemon is stopping"))
            }
            told = asked => told,
        };
        self.wait = match &told {
            Ok(told) if told.is_whole => Some(WATCH_INTERVAL),
            Ok(_) => Some(RETRY_INTERVAL),
            Err(_) => None,
        };
        Some((told.map(response).map_err(Status::from), self))
    }
}

/// Classes of which nothing is told have no item, as in the stock lvmd.
fn response(told: Told) -> WatchResponse {
    let default = told.spaces.iter().find(|space| space.default);
    WatchResponse {
        free_bytes: default.map_or(0, default_free_bytes),
        items: told.spaces.into_iter().map(item).collect(),
    }
}

/// Schedulers take it for what may be promised: of a thin class, as in the stock lvmd, all of it.
fn default_free_bytes(space: &ClassSpace) -> u64 {
    match space.group.pool {
        Some(_) => space.group.free_bytes,
        None => space.free_bytes,
    }
}

/// A thin class's item tells of its pool, and of the group around it.
fn item(space: ClassSpace) -> WatchItem {
    let ClassSpace {
        name,
        free_bytes,
        group,
        ..
    } = space;
    WatchItem {
        free_bytes: group.pool.map_or(free_bytes, |pool| pool.group_free_bytes),
        device_class: name,
        size_bytes: group.size_bytes,
        thin_pool: group.pool.map(|pool| ThinPoolItem {
            data_percent: pool.data_percent,
            metadata_percent: pool.metadata_percent,
            overprovision_bytes: group.free_bytes,
            size_bytes: pool.size_bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{FreeSpace, PoolSpace};

    #[test]
    fn of_a_thin_default_class_watchers_are_told_all_that_may_be_promised() {
        let pool = PoolSpace {
            data_percent: 0.0,
            metadata_percent: 0.0,
            size_bytes: 400,
            group_free_bytes: 70,
        };
        let told_of = |pool: Option<PoolSpace>| {
            let space = ClassSpace {
                name: "a".to_owned(),
                default: true,
                free_bytes: 500,
                group: FreeSpace {
                    free_bytes: 600,
                    size_bytes: 1000,
                    snapshots_bytes: 0,
                    pool,
                },
            };
            response(Told {
                spaces: vec![space],
                is_whole: true,
            })
        };
        // The spare is subtracted from what a group has, not from promises.
        assert_eq!(told_of(None).free_bytes, 500);
        let thin = told_of(Some(pool));
        assert_eq!(thin.free_bytes, 600);
        let item = thin.items[0].thin_pool.as_ref().expect("a pool");
        assert_eq!(
            (item.overprovision_bytes, thin.items[0].free_bytes),
            (600, 70)
        );
    }
}
