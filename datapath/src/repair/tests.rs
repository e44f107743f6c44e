//! Repositories that are damaged, repaired, and backed up to again.

use super::*;
use crate::verify::{Depth, tests::Bed};

async fn findings(bed: &Bed) -> Vec<Finding> {
    let (findings, _) = bed.verify(Depth::with_data(100)).await.expect("verifies");
    findings
}

/// Repairs what there is; how much there was to do.
async fn repair(bed: &Bed) -> (usize, usize, usize) {
    let repository = bed.repository().await;
    let mut log = Log::replay(&repository).await.expect("replays");
    let plan = Repair::plan(&repository, &log, &findings(bed).await)
        .await
        .expect("plans");
    plan.carry_out(&repository, &mut log)
        .await
        .expect("repairs");
    assert_eq!(
        Log::replay(&repository).await.expect("replays").marked(),
        log.marked()
    );
    (
        plan.marked_packs(),
        plan.dropped_segments(),
        plan.indexed_packs(),
    )
}

#[tokio::test]
async fn a_chunk_that_was_found_damaged_heals_with_the_next_backup_of_its_data() {
    for damage in ["flipped", "cut off", "lost"] {
        let bed = Bed::new().await;
        let (before, after) = (bed.restored("monday").await, bed.restored("tuesday").await);
        let (monday, _) = bed.data_packs();
        match damage {
            // The second record; the first is in monday's pack as well, and stays whole.
            "flipped" => drop(bed.change(&monday, |pack| pack[70_000] ^= 1)),
            "cut off" => drop(bed.change(&monday, |pack| pack.truncate(200_000))),
            _ => assert_eq!(bed.store.lose(&monday), 1),
        }
        bed.restored("monday").await.expect_err(damage);
        bed.restored("tuesday").await.expect_err(damage);

        // Without a repair nothing heals: nobody has told that the pack is damaged.
        bed.back_up("wednesday").await;
        bed.restored("wednesday").await.expect_err(damage);
        assert_eq!(repair(&bed).await.0, 1, "{damage}");
        bed.back_up("thursday").await;

        assert_eq!(
            bed.restored("thursday").await.expect(damage),
            after.expect("whole")
        );
        // What monday alone had, chunk 10, lies nowhere else.
        let monday_is_back = bed.restored("monday").await;
        match damage {
            "flipped" => assert_eq!(monday_is_back.expect(damage), before.expect("whole")),
            _ => drop(monday_is_back.expect_err(damage)),
        }
        for finding in findings(&bed).await {
            let of_monday = finding.backup.as_deref() == Some("monday");
            let is_chunk_10 = finding
                .bytes
                .as_ref()
                .is_some_and(|it| it.start == 10 << 16);
            assert_eq!(
                finding.is_healed,
                finding.bytes.is_some() && !(of_monday && is_chunk_10),
                "{finding}"
            );
        }
        assert_eq!(repair(&bed).await.0, 0, "{damage}: it is marked already");
    }
}

#[tokio::test]
async fn a_lost_index_is_made_again_from_the_packs() {
    let bed = Bed::new().await;
    assert_eq!(bed.store.lose("index/"), 2);
    assert_eq!(repair(&bed).await, (0, 2, 2));
    assert_eq!(findings(&bed).await, []);
    assert_eq!(repair(&bed).await, (0, 0, 0), "nothing is left to do");
    assert_eq!(bed.names("index/").len(), 1, "both packs fit one");
}

#[tokio::test]
async fn nothing_is_written_where_nothing_is_damaged() {
    let bed = Bed::new().await;
    let before = bed.store.objects().clone();
    assert_eq!(repair(&bed).await, (0, 0, 0));
    assert!(before == *bed.store.objects());
}
