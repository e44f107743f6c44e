//! The results as one page that needs nothing else: tables, bars, and where each second went.

mod scale;
mod series;
mod svg;

use self::{
    series::{Line, cpu, disk, memory, strips},
    svg::{Bar, bars, chart, strip_chart},
};
use crate::{
    results::{ContenderResults, Phase, PhaseResults, Results, Run},
    statistics::most_typical,
    table::{self, COLUMNS},
};

const STYLE: &str = include_str!("style.css");

/// The page, in HTML, with plots in SVG; no scripts, no fonts, nothing fetched.
pub fn page(results: &Results) -> String {
    let mut body = header(results);
    for phase in Phase::ALL {
        if !table::rows(results, phase).is_empty() {
            body.push_str(&phase_section(results, phase));
        }
    }
    body.push_str(&contender_list(results));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>ringback, side by side</title><style>{STYLE}</style></head>\n\
         <body>{body}</body></html>\n"
    )
}

fn header(results: &Results) -> String {
    let facts = [
        ("machine", results.machine.describe()),
        ("volume", table::describe_volume(results)),
        ("sink", results.sink.clone()),
        ("rounds", format!("{}; figures are medians", results.rounds)),
        ("command", results.command.join(" ")),
        (
            "source",
            results
                .commit
                .clone()
                .unwrap_or_else(|| "unknown".to_owned()),
        ),
    ];
    let rows = facts
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escape(value)));
    let warnings = results.warnings.iter();
    let warnings = warnings.map(|it| format!("<p class=\"warning\">{}</p>", escape(it)));
    format!(
        "<h1>ringback, side by side</h1><dl>{}</dl>{}\n",
        rows.collect::<String>(),
        warnings.collect::<String>()
    )
}

fn phase_section(results: &Results, phase: Phase) -> String {
    let rows = table::rows(results, phase);
    let bar_list: Vec<Bar> = rows
        .iter()
        .filter_map(|(who, what)| bar(who, what))
        .collect();
    let details = rows.iter().map(|(who, what)| details(who, what));
    format!(
        "<section><h2>{}</h2>\n{}\n{}\n<h3>Where each second went</h3>\n{}</section>\n",
        phase.title(),
        figures(&rows),
        bars("seconds, median with least and most", &bar_list),
        details.collect::<String>()
    )
}

fn figures(rows: &[(&ContenderResults, &PhaseResults)]) -> String {
    let heads = COLUMNS.map(|column| format!("<th>{column}</th>")).concat();
    let body = rows.iter().map(|(who, what)| {
        let cells = table::cells(what)
            .map(|cell| format!("<td>{cell}</td>"))
            .concat();
        format!(
            "<tr{}><th>{}</th>{cells}</tr>\n",
            mark(who),
            escape(&who.name)
        )
    });
    format!(
        "<div class=\"wide\"><table><tr><th></th>{heads}</tr>\n{}</table></div>",
        body.collect::<String>()
    )
}

fn mark(who: &ContenderResults) -> &'static str {
    if who.name == "ringback" {
        " class=\"ours\""
    } else {
        ""
    }
}

fn bar(who: &ContenderResults, what: &PhaseResults) -> Option<Bar> {
    Some(Bar {
        label: who.name.clone(),
        spread: what.summary.seconds?,
        is_ours: who.name == "ringback",
    })
}

/// The plots of the run that is closest to the median.
fn details(who: &ContenderResults, what: &PhaseResults) -> String {
    let seconds: Vec<f64> = what.runs.iter().map(|run| run.seconds).collect();
    let Some(run) = most_typical(&seconds).map(|at| &what.runs[at]) else {
        return String::new();
    };
    let charts = [
        ("CPU, cores busy", cpu(run)),
        ("disk, MiB/s", disk(run)),
        ("memory, MiB", memory(run)),
    ];
    let charts = charts.iter().map(|(title, lines)| plot(title, lines, run));
    let mut plots: String = charts.collect();
    if !run.stages.is_empty() {
        plots.push_str(&strip_chart(
            "how many are in each stage, on average, over time",
            &strips(run),
            run.seconds,
        ));
    }
    let requests = run.wire.iter().flat_map(|wire| &wire.requests);
    let requests: Vec<_> = requests
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    format!(
        "<details{}><summary>{} <small>round {}, {:.2} s; {}</small></summary>\
         <div class=\"plots\">{plots}</div></details>\n",
        if who.name == "ringback" { " open" } else { "" },
        escape(&who.name),
        run.round,
        run.seconds,
        if requests.is_empty() {
            "no requests".to_owned()
        } else {
            escape(&requests.join(", "))
        },
    )
}

fn plot(title: &str, lines: &[Line], run: &Run) -> String {
    chart(title, lines, run.seconds)
}

fn contender_list(results: &Results) -> String {
    let rows = results.contenders.iter().map(|who| {
        let version = who.version.as_deref().unwrap_or("not installed");
        let failure = who.failure.iter();
        let failure = failure.map(|it| format!("<p class=\"warning\">{}</p>", escape(it)));
        format!(
            "<dt>{}</dt><dd>{}<br><small>{}</small>{}</dd>",
            escape(&who.name),
            escape(&who.about),
            escape(version),
            failure.collect::<String>()
        )
    });
    format!(
        "<section><h2>Contenders</h2><dl>{}</dl>\
         <p>MiB/s are of the volume's size. <b>of raw</b>: seconds of the raw limit by those of the \
         contender in the same round; the raw limit moves zeros and repetitions, too, so that more \
         than 1 is possible. CPU is user and system time of all processes of the contender, not of \
         the sink.</p></section>\n",
        rows.collect::<String>()
    )
}

/// Text as HTML shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::process::Sample,
        results::{StageSample, StageTotals},
        table::tests::results,
    };

    fn with_plots() -> Results {
        let mut results = results();
        let run = &mut results.contenders[1].phases[0].runs[0];
        run.samples = (0..20u64)
            .map(|at| Sample {
                ms: at * 100,
                cpu_seconds: at as f64 / 10.0,
                read_bytes: at << 20,
                written_bytes: 0,
                rss_bytes: 50 << 20,
            })
            .collect();
        run.stages = (0..20u64)
            .map(|at| StageSample {
                ms: at * 100,
                stages: [(
                    "read".to_owned(),
                    StageTotals {
                        ms: (at * 200) as f64,
                        entered: at,
                    },
                )]
                .into(),
            })
            .collect();
        results
    }

    #[test]
    fn the_page_stands_alone_and_names_everybody() {
        let page = page(&with_plots());
        for outside in [
            "http://", "https://", "src=", "href=", "@import", "url(", "<script",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        for name in [
            "raw",
            "ringback",
            "restic",
            "borg",
            "not installed",
            "it was loud",
        ] {
            assert!(page.contains(name), "{name}");
        }
        assert!(page.contains("&lt;no&gt; room"), "text is escaped");
        for tag in ["svg", "table", "section", "details", "dl", "g", "text"] {
            let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
            let opened = page.matches(&format!("{open}>")).count()
                + page.matches(&format!("{open} ")).count();
            assert_eq!(opened, page.matches(&close).count(), "{tag}");
        }
    }

    #[test]
    fn a_run_with_samples_has_its_plots_and_its_stages() {
        let page = page(&with_plots());
        for title in [
            "CPU, cores busy",
            "disk, MiB/s",
            "memory, MiB",
            "in each stage",
        ] {
            assert!(page.contains(title), "{title}");
        }
        assert!(
            !page.contains("NaN") && !page.contains("inf"),
            "numbers are finite"
        );
    }
}
