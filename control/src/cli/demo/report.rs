//! The demo's table, a row as each step ends.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{cli::output, jobs::Bytes};

/// What one step did.
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) time: Duration,
    /// Bytes of the volume that it read or wrote.
    pub(super) volume_bytes: Option<u64>,
    /// Bytes to or from the store.
    pub(super) wire_bytes: Option<u64>,
    pub(super) note: String,
}

/// Prints steps as they come, or collects them for JSON.
pub(super) struct Report {
    json: bool,
    steps: Vec<Value>,
}

const RULE: &str = "──────────────────┬──────────┬───────────┬─────────────┬───────────┬─────";

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            steps: Vec::new(),
        }
    }

    pub(super) fn begin(&self, folder: &Path, endpoint: &str) {
        if self.json {
            return;
        }
        output::line(&format!(
            "A volume goes to S3 and comes back: a daemon and an S3 endpoint ({endpoint})\n\
             in {}, which goes away again.\n",
            folder.display()
        ));
        output::line(&format!(
            " {:<16} │ {:>8} │ {:>9} │ {:>11} │ {:>9} │",
            "step", "time", "volume", "rate", "wire"
        ));
        output::line(&RULE.replace('┬', "┼"));
    }

    pub(super) fn step(&mut self, step: &Step) {
        if self.json {
            self.steps.push(json!({
                "step": step.what,
                "seconds": step.time.as_secs_f64(),
                "volume_bytes": step.volume_bytes,
                "wire_bytes": step.wire_bytes,
                "note": step.note,
            }));
            return;
        }
        let shown = |bytes: Option<u64>| bytes.map_or(String::new(), |it| Bytes(it).to_string());
        let rate = step
            .volume_bytes
            .and_then(|bytes| rate(bytes, step.time))
            .map_or(String::new(), |rate| format!("{}/s", Bytes(rate)));
        output::line(&format!(
            " {:<16} │ {:>8} │ {:>9} │ {rate:>11} │ {:>9} │ {}",
            step.what,
            duration(step.time),
            shown(step.volume_bytes),
            shown(step.wire_bytes),
            step.note
        ));
    }

    pub(super) fn end(self) {
        if self.json {
            output::json(&json!({ "steps": self.steps, "identical": true }));
        } else {
            output::line(&RULE.replace('┬', "┴"));
            output::line(
                "The restored volume is identical. `ringback serve --dev DIR` keeps such a place \
                 running.",
            );
        }
    }
}

/// Bytes per second.
fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let millis = u64::try_from(time.as_millis()).ok()?;
    bytes.checked_mul(1000)?.checked_div(millis)
}

fn duration(time: Duration) -> String {
    if time.as_millis() < 1000 {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
