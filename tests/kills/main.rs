//! `kill -9` of the daemon at any moment, and what is there after its next start: nothing
//! unfinished, nothing lost, nothing of others touched; and a repeated call finishes.
//!
//! A kill hits an exact point: the store stops a request when it has arrived or when it was
//! applied, or a tracer stops the daemon before a system call ([`tracer`]). What is counted is what
//! was hit ([`plan`]).
//!
//! A command that backs up to a folder is killed in the same way ([`folder`]).

mod bed;
#[path = "../e2e/client.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod client;
#[cfg(feature = "privileged")]
mod devices;
mod folder;
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod harness;
mod jobs;
mod phase;
mod place;
mod plan;
#[path = "../e2e/store.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod store;
#[cfg(feature = "privileged")]
#[path = "../privileged/support.rs"]
#[expect(dead_code, reason = "the privileged tests ask for more")]
mod support;
mod sweeps;
mod tracer;
mod volumes;

use bed::Bed;
use place::Place;
use plan::Plan;

/// Kills in every phase, and prints what was hit.
async fn kill_in_every_phase(place: Place, test: &'static str) {
    let plan = Plan::from_environment();
    let mut bed = Bed::start(place).await;
    let mut tally = jobs::kill_in_backups(&mut bed, plan, test).await;
    tally.add(jobs::kill_in_restores(&mut bed, plan, test).await);
    tally.add(sweeps::kill_in_sweeps(&mut bed, plan, test).await);
    tally.add(volumes::kill_in_volume_calls(&mut bed, plan, test).await);
    println!("{test}: {}", tally.histogram());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_any_phase_nothing_unfinished_is_left_and_a_repeated_call_finishes() {
    let test = "killed_in_any_phase_nothing_unfinished_is_left_and_a_repeated_call_finishes";
    kill_in_every_phase(Place::ordinary(), test).await;
}

#[cfg(feature = "privileged")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_any_phase_with_loop_devices_and_reflinks_on_xfs() {
    let test = "killed_in_any_phase_with_loop_devices_and_reflinks_on_xfs";
    kill_in_every_phase(Place::mounted(devices::Mounted::xfs()), test).await;
}

#[cfg(feature = "privileged")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_any_phase_with_loop_devices_and_copies_on_ext4() {
    let test = "killed_in_any_phase_with_loop_devices_and_copies_on_ext4";
    kill_in_every_phase(Place::mounted(devices::Mounted::ext4()), test).await;
}
