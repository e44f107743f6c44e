//! The log's protocol, run through all orders in which its steps can come: appends, checkpoints
//! and truncation by two clients (`docs/formats/log.md`, `docs/formats/checkpoint.md`).
//!
//! Each planted mistake is a test that passes only when the checker finds what it breaks.

mod model;

use stateright::{Checker, HasDiscoveries, Model};

use model::{Mistake, Protocol};

/// Two clients that want the same name first; one of them, or both, go on with others.
///
/// A third name for the second client of the second makes 1.6 million states, 50 s, and no difference.
fn protocols(mistake: Mistake) -> [Protocol; 2] {
    [
        (vec![vec![1], vec![1, 2, 3]], 5),
        (vec![vec![1, 2], vec![1, 3]], 5),
    ]
    .map(|(names, tries_max)| Protocol {
        names,
        tries_max,
        mistake,
    })
}

#[test]
fn in_no_order_of_requests_is_an_acknowledged_backup_lost() {
    for protocol in protocols(Mistake::None) {
        let checker = protocol.checker().threads(2).spawn_bfs().join();
        println!("{} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

/// What the mistake breaks must be this.
fn finds(mistake: Mistake, broken: &'static str) {
    for protocol in protocols(mistake) {
        let checker = protocol.checker().threads(2);
        let checker = checker.finish_when(HasDiscoveries::AnyOf([broken].into()));
        let path = checker.spawn_bfs().join().discovery(broken);
        let steps = path.expect("the checker finds the mistake").into_actions();
        println!("{mistake:?} in {} steps: {steps:?}", steps.len());
    }
}

#[test]
fn truncating_under_the_highest_checkpoint_is_found() {
    let broken = "every reader finds all that was appended";
    finds(Mistake::TruncateUnderHighest, broken);
}

#[test]
fn an_append_without_a_read_back_is_found() {
    let broken = "an acknowledged commit is in the log";
    finds(Mistake::NoReadBack, broken);
}

#[test]
fn deleting_before_the_checkpoint_is_durable_is_found() {
    let broken = "every reader finds all that was appended";
    finds(Mistake::DeleteBeforeDurable, broken);
}
