//! Kills in the calls that make, remove and grow volumes.

use ringback_proto::lvmd::{CreateLvSnapshotRequest, ResizeLvRequest};
use tonic::Code;

use crate::{
    bed::{BYSTANDER, Bed, SUBJECT, ZEROS},
    client::{Client, assert_refused, sized_bytes},
    harness::MIB,
    phase::{Blow, Phase, PhaseOf},
    plan::{Plan, Replay, Tally, candidates},
};

const SMALL_BYTES: u64 = MIB;
const LARGE_BYTES: u64 = 8 * MIB;

/// Kills in CreateLV, RemoveLV, ResizeLV and, where there are reflinks, CreateLVSnapshot.
pub(crate) async fn kill_in_volume_calls(bed: &mut Bed, plan: Plan, test: &'static str) -> Tally {
    let mut tally = Tally::default();
    for phase in Phase::OF_CALLS {
        if !plan.has(&[phase]) || (phase == Phase::Snapshots && !bed.place.has_reflinks()) {
            continue;
        }
        prepare(bed, phase).await;
        let points = bed.calls(call(phase, bed.client.clone())).await;
        settle(bed, phase).await;
        for blow in plan.blows(phase, points) {
            let _replay = Replay { test, blow };
            tally.count(phase, kill_in_call(bed, blow).await);
        }
    }
    tally
}

async fn kill_in_call(bed: &mut Bed, blow: Blow) -> String {
    let phase_of: PhaseOf = match blow.phase {
        Phase::Create => |_, _| Phase::Create,
        Phase::Remove => |_, _| Phase::Remove,
        Phase::Resize => |_, _| Phase::Resize,
        _ => |_, _| Phase::Snapshots,
    };
    for point in candidates(blow.point) {
        prepare(bed, blow.phase).await;
        let work = call(blow.phase, bed.client.clone());
        let struck = bed.strike(Blow { point, ..blow }, phase_of, work).await;
        settle(bed, blow.phase).await;
        if let Some(what) = struck {
            return what;
        }
    }
    panic!("no kill in {} hit anything", blow.phase);
}

/// What a call needs to be there.
async fn prepare(bed: &mut Bed, phase: Phase) {
    if matches!(phase, Phase::Remove | Phase::Resize) {
        bed.add_volume(SUBJECT, SMALL_BYTES, &[(0, SMALL_BYTES)])
            .await;
    }
}

/// The call; the daemon may be killed meanwhile.
async fn call(phase: Phase, client: Client) {
    let _ = repeatable(phase, &client).await;
}

async fn repeatable(phase: Phase, client: &Client) -> Result<(), tonic::Status> {
    let mut lv = client.clone().lv;
    match phase {
        Phase::Create => lv
            .create_lv(sized_bytes(SUBJECT, LARGE_BYTES))
            .await
            .map(drop),
        Phase::Remove => client.remove(SUBJECT).await,
        Phase::Resize => lv.resize_lv(to_large()).await.map(drop),
        _ => lv.create_lv_snapshot(of_the_bystander()).await.map(drop),
    }
}

fn to_large() -> ResizeLvRequest {
    ResizeLvRequest {
        name: SUBJECT.to_owned(),
        size_bytes: i64::try_from(LARGE_BYTES).expect("a size"),
        ..ResizeLvRequest::default()
    }
}

fn of_the_bystander() -> CreateLvSnapshotRequest {
    CreateLvSnapshotRequest {
        name: SUBJECT.to_owned(),
        source_volume: BYSTANDER.to_owned(),
        access_type: "rw".to_owned(),
        ..CreateLvSnapshotRequest::default()
    }
}

/// Starts the daemon, judges what the call has left, and makes the call again.
async fn settle(bed: &mut Bed, phase: Phase) {
    let model = match phase {
        Phase::Create => ZEROS,
        Phase::Snapshots => BYSTANDER,
        _ => SUBJECT,
    };
    let was_there = bed.has_its_name(SUBJECT);
    if was_there {
        bed.expect_volume(SUBJECT, model);
    } else {
        bed.forget_volume(SUBJECT);
    }
    bed.start_on_what_is_left().await;

    let repeated = repeatable(phase, &bed.client).await;
    match (phase, was_there) {
        (Phase::Create | Phase::Snapshots, true) => {
            assert_refused(repeated, Code::AlreadyExists, SUBJECT);
        }
        (Phase::Remove, false) => assert_refused(repeated, Code::NotFound, SUBJECT),
        _ => repeated.expect("a repeated call finishes"),
    }
    match phase {
        Phase::Remove => bed.forget_volume(SUBJECT),
        _ => bed.expect_volume(SUBJECT, model),
    }
    bed.judge().await;
    if phase != Phase::Remove {
        let volume = bed.client.find(SUBJECT).await.expect("it is there");
        let wanted = if phase == Phase::Snapshots {
            SMALL_BYTES
        } else {
            LARGE_BYTES
        };
        assert_eq!(volume.size_bytes.unsigned_abs(), wanted);
        bed.remove_volume(SUBJECT).await;
    }
}
