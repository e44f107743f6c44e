//! Follows a job: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringback_proto::control::{JobPhase, JobProgress, WatchJobRequest};

use super::{CliError, Client};
use crate::jobs::Bytes;

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how a job does until it ends; its last state.
pub(crate) async fn follow(
    client: &Client,
    request: WatchJobRequest,
    label: &str,
) -> Result<JobProgress, CliError> {
    let mut client = client.clone();
    let mut states = client.own.watch_job(request).await?.into_inner();
    let mut display = Display::new(label);
    let mut last = JobProgress::default();
    while let Some(state) = states.message().await? {
        display.show(&state);
        last = state;
    }
    display.end();
    Ok(last)
}

enum Display {
    Bar(ProgressBar),
    Lines { label: String, next: Instant },
}

impl Display {
    fn new(label: &str) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template(
                    "{prefix:>8} {bar:20} {binary_bytes:>10}/{binary_total_bytes:<10} {wide_msg}",
                )
                .expect("a valid template"),
            );
            bar.set_prefix(label.to_owned());
            Self::Bar(bar)
        } else {
            Self::Lines {
                label: label.to_owned(),
                next: Instant::now() + LINE_INTERVAL,
            }
        }
    }

    fn show(&mut self, state: &JobProgress) {
        let text = describe(state);
        match self {
            Self::Bar(bar) => {
                // A bar of no length is drawn full.
                bar.set_length(state.total_bytes.max(1));
                bar.set_position(state.done_bytes);
                bar.set_message(text);
            }
            Self::Lines { label, next } if Instant::now() >= *next => {
                *next = Instant::now() + LINE_INTERVAL;
                eprintln!(
                    "{label}: {} of {}, {text}",
                    Bytes(state.done_bytes),
                    Bytes(state.total_bytes)
                );
            }
            Self::Lines { .. } => {}
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn describe(state: &JobProgress) -> String {
    let wire = Bytes(state.wire_bytes);
    match state.phase() {
        JobPhase::Preparing if state.total_bytes > 0 => "copying the volume first".to_owned(),
        JobPhase::Preparing => "preparing".to_owned(),
        JobPhase::Running => {
            let rate = state.done_bytes * 1000 / state.elapsed_ms.max(1);
            let left = state.total_bytes.saturating_sub(state.done_bytes);
            let seconds = left.checked_div(rate).unwrap_or_default();
            format!("{}/s, {wire} over the wire, {seconds} s left", Bytes(rate))
        }
        JobPhase::Finishing => format!("finishing, {wire} over the wire"),
        JobPhase::Done => "done".to_owned(),
        JobPhase::Failed => "failed".to_owned(),
    }
}
