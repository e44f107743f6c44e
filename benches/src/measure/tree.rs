//! A process and its descendants, as /proc shows them.

use procfs::{process::Process, ticks_per_second};

/// What a tree of processes has used up to now, and holds now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tree {
    pub(super) cpu_seconds: f64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) rss_bytes: u64,
}

/// Adds up `root` and what descends from it. Processes that end meanwhile are left out; what they
/// used is counted to their parent as soon as it has waited for them.
pub(super) fn usage(root: i32) -> Tree {
    let mut sum = Tree::default();
    let mut waiting = vec![root];
    while let Some(pid) = waiting.pop() {
        if let Ok(process) = Process::new(pid) {
            add(&process, &mut sum);
            waiting.extend(children(&process));
        }
    }
    sum
}

fn add(process: &Process, sum: &mut Tree) {
    if let Ok(stat) = process.stat() {
        let own = stat.utime + stat.stime;
        let waited_for = u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
        sum.cpu_seconds += (own + waited_for) as f64 / ticks_per_second() as f64;
        sum.rss_bytes += stat.rss * procfs::page_size();
    }
    if let Ok(io) = process.io() {
        sum.read_bytes += io.read_bytes;
        sum.written_bytes += io.write_bytes;
    }
}

fn children(process: &Process) -> Vec<i32> {
    let Ok(tasks) = process.tasks() else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| task.children().ok())
        .flatten()
        .filter_map(|pid| i32::try_from(pid).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn children_of_children_are_counted() {
        // The shell waits for a child that holds more memory than the shell.
        let mut shell = Command::new("sh")
            .args(["-c", "head -c 32M /dev/zero | tail -c 32M | (read x; cat)"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let pid = i32::try_from(shell.id()).expect("a pid");
        let own = Process::new(pid).and_then(|it| it.stat()).expect("stat");
        let mut most = 0;
        for _ in 0..100 {
            most = most.max(usage(pid).rss_bytes);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        shell.kill().expect("kill");
        shell.wait().expect("wait");
        assert!(most > own.rss * procfs::page_size() + (16 << 20), "{most}");
    }
}
