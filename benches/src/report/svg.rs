//! Bars, lines and strips in SVG. Colours are classes; the page's style knows light and dark.

use super::{
    escape,
    scale::Scale,
    series::{Line, Strip},
};
use crate::{statistics::Spread, units::three_digits};

/// A horizontal bar.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) spread: Spread,
    pub(super) is_ours: bool,
}

/// Horizontal bars below each other, with whiskers from the least to the most.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 110.0;
    const LENGTH: f64 = 560.0;
    const ROW: f64 = 22.0;
    const TOP: f64 = 24.0;
    let most = bars.iter().map(|bar| bar.spread.max).fold(0.0, f64::max);
    let scale = Scale::up_to(most, LENGTH);
    let height = TOP + ROW * bars.len() as f64 + 22.0;
    let mut drawn = format!(
        "<text class=\"title\" x=\"{LEFT}\" y=\"14\">{}</text>",
        escape(title)
    );
    for mark in scale.marks() {
        let x = LEFT + scale.place(mark);
        let bottom = height - 18.0;
        drawn.push_str(&format!(
            "<path class=\"rule\" d=\"M{x:.1} {TOP}V{bottom:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - 5.0,
            scale.label(mark)
        ));
    }
    for (at, bar) in bars.iter().enumerate() {
        drawn.push_str(&one_bar(bar, &scale, LEFT, TOP + ROW * at as f64));
    }
    svg(LEFT + LENGTH + 80.0, height, &drawn)
}

fn one_bar(bar: &Bar, scale: &Scale, left: f64, top: f64) -> String {
    let Spread { median, min, max } = bar.spread;
    let middle = top + 11.0;
    let (from, to) = (left + scale.place(min), left + scale.place(max));
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <rect class=\"bar{}\" x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\"/>\
         <path class=\"whisker\" d=\"M{from:.1} {middle:.1}H{to:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        left - 8.0,
        middle + 4.0,
        escape(&bar.label),
        if bar.is_ours { " ours" } else { "" },
        top + 4.0,
        scale.place(median).max(0.5),
        to + 6.0,
        middle + 4.0,
        three_digits(median)
    )
}

/// Lines over the seconds of a run.
pub(super) fn chart(title: &str, lines: &[Line], seconds: f64) -> String {
    const LEFT: f64 = 44.0;
    const WIDTH: f64 = 320.0;
    const TOP: f64 = 24.0;
    const HEIGHT: f64 = 110.0;
    let values = lines.iter().flat_map(|line| &line.points);
    let most = values.map(|(_, value)| *value).fold(0.0, f64::max);
    let (across, up) = (Scale::just(seconds, WIDTH), Scale::up_to(most, HEIGHT));
    let mut drawn = format!(
        "<text class=\"title\" x=\"{LEFT}\" y=\"14\">{}</text>",
        escape(title)
    );
    for mark in up.marks() {
        let y = TOP + HEIGHT - up.place(mark);
        drawn.push_str(&format!(
            "<path class=\"rule\" d=\"M{LEFT} {y:.1}h{WIDTH}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 5.0,
            y + 4.0,
            up.label(mark)
        ));
    }
    drawn.push_str(&seconds_axis(&across, LEFT, TOP + HEIGHT));
    for (at, line) in lines.iter().enumerate() {
        let points = line
            .points
            .iter()
            .filter(|(_, y)| y.is_finite())
            .map(|(x, y)| {
                format!(
                    "{:.1},{:.1} ",
                    LEFT + across.place(*x),
                    TOP + HEIGHT - up.place(*y)
                )
            });
        drawn.push_str(&format!(
            "<polyline class=\"line c{at}\" points=\"{}\"/>",
            points.collect::<String>().trim_end()
        ));
        if lines.len() > 1 {
            let x = LEFT + WIDTH - 60.0 * (lines.len() - at) as f64;
            drawn.push_str(&format!(
                "<text class=\"c{at}\" x=\"{x}\" y=\"14\">{}</text>",
                line.name
            ));
        }
    }
    svg(LEFT + WIDTH + 12.0, TOP + HEIGHT + 22.0, &drawn)
}

/// A row for each stage: how many were in it, over the seconds of a run, each on its own scale.
pub(super) fn strip_chart(title: &str, strips: &[Strip], seconds: f64) -> String {
    const LEFT: f64 = 130.0;
    const WIDTH: f64 = 700.0;
    const TOP: f64 = 24.0;
    const ROW: f64 = 34.0;
    let across = Scale::just(seconds, WIDTH);
    let height = TOP + ROW * strips.len() as f64 + 22.0;
    let mut drawn = format!(
        "<text class=\"title\" x=\"{LEFT}\" y=\"14\">{}</text>",
        escape(title)
    );
    for (at, strip) in strips.iter().enumerate() {
        let bottom = TOP + ROW * (at + 1) as f64 - 4.0;
        drawn.push_str(&one_strip(strip, &across, LEFT, bottom, ROW - 8.0));
    }
    drawn.push_str(&seconds_axis(&across, LEFT, height - 22.0));
    svg(LEFT + WIDTH + 200.0, height, &drawn)
}

fn one_strip(strip: &Strip, across: &Scale, left: f64, bottom: f64, height: f64) -> String {
    let most = strip
        .points
        .iter()
        .map(|(_, value)| *value)
        .fold(0.0, f64::max);
    // A tenth of one is little, and shall look it.
    let up = Scale::just(most.max(1.0), height);
    let mut path = format!("M{left} {bottom:.1}");
    let mut x = left;
    for (at, value) in &strip.points {
        path.push_str(&format!("V{:.1}", bottom - up.place(*value)));
        x = left + across.place(*at);
        path.push_str(&format!("H{x:.1}"));
    }
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <path class=\"area\" d=\"{path}V{bottom:.1}Z\"/>\
         <path class=\"rule\" d=\"M{left} {bottom:.1}H{x:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">mean {}, most {}; {}</text>",
        left - 8.0,
        bottom - 4.0,
        escape(&strip.name),
        left + across.length() + 8.0,
        bottom - 4.0,
        three_digits(strip.mean),
        three_digits(most),
        strip.entered
    )
}

fn seconds_axis(across: &Scale, left: f64, bottom: f64) -> String {
    let marks = across.marks().into_iter().map(|mark| {
        let x = left + across.place(mark);
        format!(
            "<path class=\"rule\" d=\"M{x:.1} {bottom:.1}v4\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>",
            bottom + 16.0,
            across.label(mark)
        )
    });
    marks.collect()
}

fn svg(width: f64, height: f64, drawn: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         role=\"img\">{drawn}</svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number_after(text: &str, mark: &str) -> Vec<f64> {
        let found = text.split(mark).skip(1);
        found
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |median: f64| Bar {
            label: "x".to_owned(),
            spread: Spread {
                median,
                min: median,
                max: median,
            },
            is_ours: false,
        };
        let drawn = bars("title", &[bar(10.0), bar(5.0), bar(0.0)]);
        let widths: Vec<_> = drawn
            .split("<rect")
            .skip(1)
            .map(|rect| number_after(rect, "width=\"")[0])
            .collect();
        assert_eq!(widths[0], 560.0);
        assert_eq!(widths[1], 280.0);
        assert_eq!(widths[2], 0.5, "what is nothing can still be seen");
    }

    #[test]
    fn lines_stay_on_the_paper_whatever_they_show() {
        let line = Line {
            name: "line",
            points: vec![(0.0, 0.0), (1.0, 1e9), (2.0, f64::NAN), (99.0, 5.0)],
        };
        let drawn = chart("title", &[line], 2.0);
        let points = drawn
            .split("points=\"")
            .nth(1)
            .and_then(|it| it.split('"').next());
        for point in points.expect("points").split(' ') {
            let (x, y) = point.split_once(',').expect("a pair");
            let x: f64 = x.parse().expect("a number");
            assert!((44.0..=364.0).contains(&x), "{point}");
            let y: f64 = y.parse().expect("a number");
            assert!((24.0..=134.0).contains(&y), "{point}");
        }
    }
}
