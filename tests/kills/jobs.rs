//! Kills in the midst of backups and restores.

use ringback_proto::lvmd::{CreateBackupRequest, StateType, data_source::S3};
use tonic::Code;

use crate::{
    bed::{AGAIN, Bed, DATA, uploads},
    client::{Client, assert_refused, backup, synchronous},
    phase::{Blow, Phase},
    plan::{Plan, Replay, Tally, candidates},
};

/// Kills in every phase of a backup, each of a repository of its own.
pub(crate) async fn kill_in_backups(bed: &mut Bed, plan: Plan, test: &'static str) -> Tally {
    let mut tally = Tally::default();
    if !plan.has(&Phase::OF_BACKUPS) {
        return tally;
    }
    let s3 = bed.store.at("s3://backups/points/monday");
    let work = to_its_end(bed.client.clone(), backup("points", DATA, &s3));
    let points = bed.points(Phase::of_backup, work).await;
    let parts = points[&Phase::Part] / 2;
    for phase in Phase::OF_BACKUPS {
        for (number, blow) in plan.blows(phase, points[&phase]).into_iter().enumerate() {
            let _replay = Replay { test, blow };
            let name = format!("{phase}-{number}");
            let what = kill_in_backup(bed, blow, parts, &name).await;
            tally.count(phase, what);
        }
    }
    tally
}

/// Kills in every phase of a restore.
pub(crate) async fn kill_in_restores(bed: &mut Bed, plan: Plan, test: &'static str) -> Tally {
    let mut tally = Tally::default();
    if !plan.has(&Phase::OF_RESTORES) {
        return tally;
    }
    let s3 = bed.store.at("s3://backups/source/monday");
    let state = bed.client.end_of(&backup("source", DATA, &s3)).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    bed.expect_volume(AGAIN, DATA);
    let points = bed
        .points(Phase::of_restore, restored(bed.client.clone(), s3.clone()))
        .await;
    bed.remove_volume(AGAIN).await;
    for phase in Phase::OF_RESTORES {
        for blow in plan.blows(phase, points[&phase]) {
            let _replay = Replay { test, blow };
            let what = kill_in_restore(bed, blow, &s3).await;
            tally.count(phase, what);
        }
    }
    tally
}

/// Polls like a controller; the daemon may be killed meanwhile.
async fn to_its_end(client: Client, request: CreateBackupRequest) {
    while let Ok(state) = client.poll(&request).await {
        if state.state() != StateType::Inprogress {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A restore of `again`; the daemon may be killed meanwhile.
pub(crate) async fn restored(client: Client, s3: S3) {
    let _ = client.restore(AGAIN, 1, &synchronous(&s3)).await;
}

async fn kill_in_backup(bed: &mut Bed, blow: Blow, parts: usize, name: &str) -> String {
    for point in candidates(blow.point) {
        let s3 = bed
            .store
            .at(&format!("s3://backups/{name}-at-{point}/monday"));
        let request = backup(&format!("{name}-at-{point}"), DATA, &s3);
        let work = to_its_end(bed.client.clone(), request.clone());
        let now = Blow { point, ..blow };
        let struck = match blow.phase {
            Phase::Read => strike_before_any_part(bed, now, parts, work).await,
            _ => bed.strike(now, Phase::of_backup, work).await,
        };
        bed.start_on_what_is_left().await;
        let committed = assert_backup_is_whole_or_absent(bed, &s3).await;
        if let (Some(_), Some(expected)) = (&struck, is_committed_at(now)) {
            assert_eq!(committed, expected, "whether it exists after {struck:?}");
        }
        assert_repeated_call_finishes(bed, &request, &s3, committed).await;
        if let Some(what) = struck {
            return what;
        }
    }
    panic!("no kill in {} hit anything", blow.phase);
}

/// Strikes while the store holds back all parts: none is acknowledged while the volume is read. It
/// has been read when the last of its parts has arrived.
async fn strike_before_any_part(
    bed: &mut Bed,
    blow: Blow,
    parts: usize,
    work: impl Future<Output = ()> + Send + 'static,
) -> Option<String> {
    let part = |number: usize| {
        let blow = Blow {
            phase: Phase::Part,
            point: 2 * (number - 1),
        };
        blow.stop().expect("a part is a request")
    };
    let first = bed.store.endpoint.stop_at(part(1));
    let last = bed.store.endpoint.stop_at(part(parts));
    let until_all_is_read = async move {
        tokio::select! {
            () = work => {}
            () = last.reached() => {}
        }
    };
    let struck = bed.strike(blow, Phase::of_backup, until_all_is_read).await;
    drop(first);
    struck
}

/// Whether a backup killed there exists; `None` where both may be.
fn is_committed_at(blow: Blow) -> Option<bool> {
    match blow.phase {
        Phase::LogPut => Some(blow.point % 2 == 1),
        Phase::Release => Some(true),
        _ => Some(false),
    }
}

/// Whether there is the backup, which must then be the only one.
async fn assert_backup_is_whole_or_absent(bed: &mut Bed, s3: &S3) -> bool {
    let backups = bed.backups(s3).await;
    match &backups[..] {
        [] => false,
        [name] if name == "monday" => true,
        _ => panic!("backups: {backups:?}"),
    }
}

async fn assert_repeated_call_finishes(
    bed: &mut Bed,
    request: &CreateBackupRequest,
    s3: &S3,
    committed: bool,
) {
    let before = uploads(&bed.store.endpoint.counters());
    let state = bed.client.end_of(request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let sent = uploads(&bed.store.endpoint.counters()) - before;
    if committed {
        assert_eq!(sent, 0, "uploads for a backup that was there");
    }
    assert_eq!(bed.backups(s3).await, ["monday"]);
    bed.assert_holds_the_data(s3).await;
}

async fn kill_in_restore(bed: &mut Bed, blow: Blow, s3: &S3) -> String {
    for point in candidates(blow.point) {
        let work = restored(bed.client.clone(), s3.clone());
        let struck = bed
            .strike(Blow { point, ..blow }, Phase::of_restore, work)
            .await;
        let has_its_name = bed.has_its_name(AGAIN);
        if has_its_name {
            // Then it must hold all of the backup.
            bed.expect_volume(AGAIN, DATA);
        }
        bed.start_on_what_is_left().await;
        let repeated = bed.client.restore(AGAIN, 1, &synchronous(s3)).await;
        if has_its_name {
            assert_refused(repeated, Code::AlreadyExists, AGAIN);
        } else {
            repeated.expect("a repeated call finishes");
            bed.expect_volume(AGAIN, DATA);
        }
        bed.judge().await;
        bed.remove_volume(AGAIN).await;
        if let Some(what) = struck {
            assert!(
                !has_its_name || blow.phase == Phase::Rename,
                "it had its name in {}",
                blow.phase
            );
            return what;
        }
    }
    panic!("no kill in {} hit anything", blow.phase);
}
