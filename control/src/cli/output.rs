//! Results for people and for programs.

use std::{
    io::{self, Write},
    sync::OnceLock,
};

use serde_json::Value;

use super::exit::CliError;

/// Why standard output takes no more.
static CLOSED: OnceLock<io::Error> = OnceLock::new();

/// Prints lines to standard output. What becomes of that is for [`check`].
pub(crate) fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        CLOSED.get_or_init(|| error);
    }
}

/// Whether it makes no sense to go on printing.
pub(crate) fn is_closed() -> bool {
    CLOSED.get().is_some()
}

/// Whether all was printed; a reader that has gone away is no failure of ours.
pub(crate) fn check() -> Result<(), CliError> {
    match CLOSED.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::failed(format!(
            "cannot write to standard output: {error}; what was printed is not whole"
        ))),
        _ => Ok(()),
    }
}

/// Prints a line to standard error. Nobody can be told if that fails.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints JSON, one value on one line.
pub(crate) fn json(value: &Value) {
    line(&value.to_string());
}

/// Prints rows below a heading, columns aligned; those named in `right` to the right.
pub(crate) fn table<const N: usize>(heading: [&str; N], right: &[usize], rows: &[[String; N]]) {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |row: &[String; N]| {
        let cells: Vec<String> = (0..N)
            .map(|column| {
                let (cell, width) = (&row[column], widths[column]);
                if right.contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        line(cells.join("  ").trim_end());
    };
    render(&heading.map(str::to_owned));
    rows.iter().for_each(render);
}

/// A moment, milliseconds since 1970 UTC, as `2026-11-23 06:30:00 UTC`.
pub(crate) fn moment(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// Days since 1970-01-01 to a date of the Gregorian calendar, counted in eras of 400 years that
/// begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / ERA_DAYS, shifted % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_of_the_calendar() {
        for (ms, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_000, "2024-02-29 23:59:59 UTC"),
            (1_795_415_400_500, "2026-11-23 06:30:00 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(ms), shown);
        }
    }
}
