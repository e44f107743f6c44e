//! The results as a table for a terminal, or for a page in Markdown.

use crate::{
    results::{ContenderResults, Phase, PhaseResults, Results},
    statistics::Spread,
    units::{GIB, gib, mib, three_digits},
};

/// The columns of figures, behind the contender's name.
pub const COLUMNS: [&str; 9] = [
    "seconds",
    "min-max",
    "MiB/s",
    "of raw",
    "CPU s/GiB",
    "peak MiB",
    "requests",
    "sent MiB",
    "stored MiB",
];

/// What is shown where there is no figure.
const NONE: &str = "-";

/// The figures of one contender in one phase, as text.
pub fn cells(results: &PhaseResults) -> [String; COLUMNS.len()] {
    let summary = &results.summary;
    let seconds = |figure: fn(Spread) -> f64| match summary.seconds {
        Some(spread) => three_digits(figure(spread)),
        None => NONE.to_owned(),
    };
    let count = |value: Option<f64>| value.map_or(NONE.to_owned(), |it| format!("{it:.0}"));
    let megs = |value: Option<f64>| {
        value.map_or(NONE.to_owned(), |bytes| three_digits(bytes / mib_bytes()))
    };
    [
        seconds(|spread| spread.median),
        format!(
            "{}-{}",
            seconds(|spread| spread.min),
            seconds(|spread| spread.max)
        ),
        three_digits(summary.mib_per_second),
        ratio(summary.of_raw_limit),
        three_digits(summary.cpu_seconds_per_gib),
        format!("{:.0}", mib(summary.peak_rss_bytes)),
        count(summary.requests),
        megs(summary.sent_bytes),
        megs(summary.stored_bytes),
    ]
}

fn mib_bytes() -> f64 {
    crate::units::MIB as f64
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or(NONE.to_owned(), |spread| format!("{:.2}", spread.median))
}

/// Contenders that have figures for a phase, with them.
pub fn rows(results: &Results, phase: Phase) -> Vec<(&ContenderResults, &PhaseResults)> {
    let contenders = results.contenders.iter();
    contenders
        .filter_map(|contender| Some((contender, contender.phase(phase)?)))
        .collect()
}

/// One sentence on each contender without all figures.
pub fn absences(results: &Results) -> Vec<String> {
    let contenders = results.contenders.iter();
    contenders
        .filter_map(|contender| match (&contender.version, &contender.failure) {
            (None, _) => Some(format!("{}: not installed", contender.name)),
            (_, Some(failure)) => Some(format!("{}: failed: {failure}", contender.name)),
            _ => None,
        })
        .collect()
}

/// What a volume is, on one line.
pub fn describe_volume(results: &Results) -> String {
    let volume = &results.volume;
    let size = if volume.bytes >= GIB {
        format!("{} GiB", three_digits(gib(volume.bytes)))
    } else {
        format!("{:.0} MiB", mib(volume.bytes))
    };
    format!(
        "{size}, {}; {} blocks of 4 KiB change",
        volume.workload, volume.changed_blocks
    )
}

/// The whole table, aligned, phase by phase.
pub fn render(results: &Results) -> String {
    let mut lines = vec![
        format!("machine  {}", results.machine.describe()),
        format!("volume   {}", describe_volume(results)),
        format!("sink     {}", results.sink),
        format!("rounds   {}, medians", results.rounds),
    ];
    let names = results.contenders.iter().map(|it| it.name.len());
    let name_width = names.chain(Phase::ALL.map(|it| it.title().len())).max();
    for phase in Phase::ALL {
        let rows = rows(results, phase);
        if rows.is_empty() {
            continue;
        }
        let mut table = vec![(phase.title().to_owned(), COLUMNS.map(str::to_owned))];
        table.extend(
            rows.iter()
                .map(|(who, what)| (who.name.clone(), cells(what))),
        );
        lines.push(String::new());
        lines.extend(align(&table, name_width.unwrap_or(0)));
    }
    lines.push(String::new());
    lines.extend(absences(results));
    lines.extend(results.warnings.iter().map(|it| format!("warning: {it}")));
    lines.join("\n").trim_end().to_owned()
}

fn align(table: &[(String, [String; COLUMNS.len()])], name_width: usize) -> Vec<String> {
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        let cells = table.iter().map(|(_, cells)| cells[column].len());
        cells.max().unwrap_or(0)
    });
    table
        .iter()
        .map(|(name, cells)| {
            let mut line = format!("{name:<name_width$}");
            for (cell, width) in cells.iter().zip(widths) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            line
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        measure::machine::Machine,
        results::{RESULTS_VERSION, Summary, VolumeResults, tests::run},
    };

    /// Results with a limit, a contender at half its speed, one that is not there, one that failed.
    pub(crate) fn results() -> Results {
        let (fast, slow) = ([run(1, 1.0)], [run(1, 2.0)]);
        let phases = |runs: &[crate::results::Run]| {
            vec![PhaseResults {
                phase: Phase::First,
                summary: Summary::of(runs, &fast, 1 << 30),
                runs: runs.to_vec(),
            }]
        };
        let contender =
            |name: &str, version: Option<&str>, failure: Option<&str>, phases| ContenderResults {
                name: name.to_owned(),
                about: format!("about {name}"),
                version: version.map(str::to_owned),
                failure: failure.map(str::to_owned),
                phases,
            };
        Results {
            version: RESULTS_VERSION,
            command: vec!["ringback-bench".to_owned(), "run".to_owned()],
            commit: Some("abc".to_owned()),
            machine: Machine {
                cores: 2,
                cpu: "a processor".to_owned(),
                memory_bytes: 24 << 30,
                kernel: "6.1".to_owned(),
                filesystem: "ext4".to_owned(),
                load: 0.1,
                busy_share: 0.01,
            },
            volume: VolumeResults {
                workload: "random".to_owned(),
                bytes: 1 << 30,
                blake3: "00".to_owned(),
                changed_blocks: 64,
            },
            sink: "a sink".to_owned(),
            rounds: 1,
            warnings: vec!["it was loud".to_owned()],
            contenders: vec![
                contender("raw", Some("1"), None, phases(&fast)),
                contender("ringback", Some("1"), None, phases(&slow)),
                contender("restic", None, None, Vec::new()),
                contender("borg", Some("1"), Some("<no> room"), Vec::new()),
            ],
        }
    }

    #[test]
    fn a_row_has_every_figure_and_who_is_absent_is_named() {
        let table = render(&results());
        let row = table.lines().find(|line| line.starts_with("ringback "));
        let cells: Vec<_> = row.expect("a row").split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "ringback",
                "2.00",
                "2.00-2.00",
                "512",
                "0.50",
                "3.00",
                "100",
                "3",
                "5.00",
                "5.00"
            ]
        );
        assert!(table.contains("restic: not installed"), "{table}");
        assert!(table.contains("borg: failed: <no> room"), "{table}");
        assert!(table.contains("warning: it was loud"), "{table}");
        assert!(table.contains("1.00 GiB, random; 64 blocks"), "{table}");
    }

    #[test]
    fn columns_are_aligned() {
        let table = render(&results());
        let lines: Vec<_> = table.lines().collect();
        let head = lines
            .iter()
            .position(|line| line.starts_with("first backup"));
        let block = &lines[head.expect("a heading")..][..3];
        assert!(
            block.iter().all(|line| line.len() == block[0].len()),
            "{block:?}"
        );
    }
}
