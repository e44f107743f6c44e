//! How far work is: a bar on a terminal, nothing elsewhere.

use std::{
    future::Future,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringback_datapath::verify::Counts;
use ringback_proto::control::{JobPhase, JobProgress, WatchJobRequest};

use super::{Client, Context, exit::CliError, output};
use crate::{
    direct::{Watched, store::Store},
    jobs::{Bytes, with_trouble},
};

/// Between two looks at work in this process.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Whether there is somebody to watch.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Shows how a daemon's job does until it ends; its last state.
pub(crate) async fn follow(
    client: &Client,
    request: WatchJobRequest,
    label: &str,
    shows: bool,
) -> Result<JobProgress, CliError> {
    let mut client = client.clone();
    let mut states = client.own.watch_job(request).await?.into_inner();
    let display = Display::new(label, shows);
    let mut last = JobProgress::default();
    while let Some(state) = states.message().await? {
        let trouble = Some(state.store_trouble.clone()).filter(|trouble| !trouble.is_empty());
        let text = with_trouble(describe(&state), trouble);
        display.show(state.done_bytes, state.total_bytes, text);
        last = state;
    }
    Ok(last)
}

/// Carries out a backup or a restore of this process and shows how it does.
pub(crate) async fn follow_direct<T>(
    context: &Context,
    label: &str,
    store: &Store,
    watched: &Watched,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut display = Display::new(label, context.shows_progress());
    let mut moving_since = None;
    let look = |display: &Display| {
        let (progress, zeroing) = (&watched.progress, &watched.zeroing);
        let (done, total) = (progress.done_bytes(), progress.total_bytes());
        let show = |done, total, text| {
            display.show(done, total, with_trouble(text, store.trouble()));
        };
        if total > 0 {
            let since: &mut Instant = moving_since.get_or_insert_with(Instant::now);
            let text = if done >= total {
                format!("finishing, {} over the wire", Bytes(store.wire_bytes()))
            } else {
                describe_rate(done, total, store.wire_bytes(), since.elapsed())
            };
            show(done, total, text);
        } else if zeroing.total_bytes() > 0 {
            let text = "filling the device with zeros first".to_owned();
            show(zeroing.done_bytes(), zeroing.total_bytes(), text);
        } else {
            show(0, 0, "preparing".to_owned());
        }
    };
    display.follow(work, look).await
}

/// A bar, or nothing. It goes away when it is dropped.
pub(crate) struct Display(ProgressBar);

/// Prints lines of results above a bar.
#[derive(Clone)]
pub(crate) struct Lines(ProgressBar);

impl Display {
    pub(crate) fn new(label: &str, shows: bool) -> Self {
        let target = if shows {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(
            ProgressStyle::with_template(
                "{prefix:>8} {bar:20} {binary_bytes:>10}/{binary_total_bytes:<10} {wide_msg}",
            )
            .expect("a valid template"),
        );
        bar.set_prefix(label.to_owned());
        Self(bar)
    }

    pub(crate) fn lines(&self) -> Lines {
        Lines(self.0.clone())
    }

    /// Carries out `work` and looks at it from time to time.
    pub(crate) async fn follow<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut look: impl FnMut(&Self),
    ) -> T {
        let mut work = std::pin::pin!(work);
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = looks.tick() => look(self),
            }
        }
    }

    fn show(&self, done_bytes: u64, total_bytes: u64, text: String) {
        // A bar of no length is drawn full.
        self.0.set_length(total_bytes.max(1));
        self.0.set_position(done_bytes);
        self.0.set_message(text);
    }

    /// Shows how far a verification is.
    pub(crate) fn count(&self, counts: &Counts) {
        self.0.set_style(
            ProgressStyle::with_template("{prefix:>8} {spinner} {wide_msg}")
                .expect("a valid template"),
        );
        self.0.tick();
        self.0.set_message(format!(
            "{} of {} packs, {} leaves of {} backups, {} of data read",
            counts.packs(),
            counts.packs_total(),
            counts.leaves(),
            counts.backups(),
            Bytes(counts.bytes_read())
        ));
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Lines {
    pub(crate) fn print(&self, line: &str) {
        self.0.suspend(|| output::line(line));
    }
}

fn describe(state: &JobProgress) -> String {
    let wire = Bytes(state.wire_bytes);
    match state.phase() {
        JobPhase::Preparing if state.total_bytes > 0 => "copying the volume first".to_owned(),
        JobPhase::Preparing => "preparing".to_owned(),
        JobPhase::Running => describe_rate(
            state.done_bytes,
            state.total_bytes,
            state.wire_bytes,
            Duration::from_millis(state.elapsed_ms),
        ),
        JobPhase::Finishing => format!("finishing, {wire} over the wire"),
        JobPhase::Done => "done".to_owned(),
        JobPhase::Failed => "failed".to_owned(),
    }
}

fn describe_rate(done_bytes: u64, total_bytes: u64, wire_bytes: u64, elapsed: Duration) -> String {
    let elapsed_ms = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let rate = done_bytes.saturating_mul(1000) / elapsed_ms;
    let left = total_bytes.saturating_sub(done_bytes);
    let seconds = left.checked_div(rate).unwrap_or_default();
    format!(
        "{}/s, {} over the wire, {seconds} s left",
        Bytes(rate),
        Bytes(wire_bytes)
    )
}
