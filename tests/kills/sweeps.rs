//! Kills in the start that sweeps what an earlier kill left.

use std::time::Duration;

use ringback_proto::lvmd::{GetLvListRequest, StateType, data_source::S3};

use crate::{
    bed::{AGAIN, Bed, DATA},
    client::{Client, backup},
    jobs::restored,
    phase::{Blow, Phase},
    plan::{Plan, Replay, Tally, candidates},
    tracer::{Call, Trace, Traced},
};

const POLL: Duration = Duration::from_millis(5);

/// Kills in a start that finds a snapshot and a volume that was about to be published.
pub(crate) async fn kill_in_sweeps(bed: &mut Bed, plan: Plan, test: &'static str) -> Tally {
    let mut tally = Tally::default();
    if !plan.has(&[Phase::Sweep]) {
        return tally;
    }
    let s3 = bed.store.at("s3://backups/swept/monday");
    let state = bed.client.end_of(&backup("swept", DATA, &s3)).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    leave_much(bed, &s3).await;
    let points = start(bed, |_| false).await.calls.len();
    bed.start_on_what_is_left().await;
    for blow in plan.blows(Phase::Sweep, points) {
        let _replay = Replay { test, blow };
        tally.count(Phase::Sweep, kill_in_sweep(bed, blow, &s3).await);
    }
    tally
}

async fn kill_in_sweep(bed: &mut Bed, blow: Blow, s3: &S3) -> String {
    for point in candidates(blow.point) {
        leave_much(bed, s3).await;
        let mut points_left = point;
        let trace = start(bed, move |_| {
            let is_it = points_left == 0;
            points_left -= usize::from(points_left > 0);
            is_it
        });
        let killed_at = trace.await.killed_at;
        bed.start_on_what_is_left().await;
        if let Some(call) = killed_at {
            return bed.describe(&call);
        }
    }
    panic!("no kill in a start hit anything");
}

/// Kills the daemon with a backup in its data and a restore before its rename.
async fn leave_much(bed: &mut Bed, s3: &S3) {
    let first_part = Blow {
        phase: Phase::Part,
        point: 0,
    };
    let first_part = first_part.stop().expect("a request");
    let stopped = bed.store.endpoint.stop_at(first_part);
    let unfinished = bed.store.at("s3://backups/never/monday");
    let request = backup("never", DATA, &unfinished);
    bed.client.poll(&request).await.expect("it starts");
    stopped.reached().await;
    let volume = bed.place.group.join("volumes").join(AGAIN);
    let rename = bed
        .strike_call(restored(bed.client.clone(), s3.clone()), move |call| {
            call.to.as_ref() == Some(&volume)
        })
        .await;
    rename.expect("a restored volume is renamed");
    for part in ["pending", "temporary"] {
        assert_eq!(bed.passing(part).len(), 1, "there is something to sweep");
    }
}

/// Starts the daemon, and kills it at the call that `is_it` picks, or when it has started.
async fn start(bed: &mut Bed, is_it: impl FnMut(&Call) -> bool + Send + 'static) -> Trace {
    let mut traced = None;
    let group = bed.place.group.clone();
    bed.daemon.start_again(|process| {
        traced = Some(Traced::kill_at(process, &group, is_it));
    });
    let traced = traced.expect("it was called");
    while !traced.is_over() && !has_started(bed).await {
        tokio::time::sleep(POLL).await;
    }
    bed.daemon.kill();
    traced.trace()
}

async fn has_started(bed: &Bed) -> bool {
    match Client::try_connect(&bed.daemon.socket()).await {
        Ok(mut client) => {
            let listed = client.vg.get_lv_list(GetLvListRequest::default()).await;
            listed.is_ok()
        }
        Err(_) => false,
    }
}
