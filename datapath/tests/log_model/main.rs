//! The log's protocol, run through all orders in which its steps can come: appends, checkpoints
//! and truncation by two clients (`docs/formats/log.md`, `docs/formats/checkpoint.md`).
//!
//! Each planted mistake is a test that passes only when the checker finds what it breaks.

mod model;

use stateright::{Checker, HasDiscoveries, Model};

use model::{Mistake, Protocol};

/// Two clients that want the same name first; one of them goes on with others.
fn protocol(mistake: Mistake) -> Protocol {
    Protocol {
        names: vec![vec![1], vec![1, 2, 3]],
        mistake,
    }
}

#[test]
fn in_no_order_of_requests_is_an_acknowledged_backup_lost() {
    let checker = protocol(Mistake::None).checker().threads(2);
    let checker = checker.spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

/// What the mistake breaks must be this.
fn finds(mistake: Mistake, broken: &str) {
    let checker = protocol(mistake).checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let path = checker.discovery(broken);
    let steps = path.expect("the checker finds the mistake").into_actions();
    println!("{mistake:?}: {} steps: {steps:#?}", steps.len());
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
