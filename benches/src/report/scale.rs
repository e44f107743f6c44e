//! From values to places on paper, and where to put marks.

/// A range of values from 0 that is drawn on so many units of paper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    end: f64,
    length: f64,
    step: f64,
}

impl Scale {
    /// For values up to `most`: ends at the next mark, four to ten steps from 0.
    pub(super) fn up_to(most: f64, length: f64) -> Self {
        let most = if most.is_finite() && most > 0.0 {
            most
        } else {
            1.0
        };
        let step = step_for(most);
        Self {
            end: (most / step).ceil() * step,
            length,
            step,
        }
    }

    /// For values up to exactly `most`, which is where the paper ends.
    pub(super) fn just(most: f64, length: f64) -> Self {
        let most = if most.is_finite() && most > 0.0 {
            most
        } else {
            1.0
        };
        Self {
            end: most,
            length,
            step: step_for(most),
        }
    }

    /// How long the paper is.
    pub(super) fn length(&self) -> f64 {
        self.length
    }

    /// Where a value lies; those beyond the end lie at the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        (value / self.end).clamp(0.0, 1.0) * self.length
    }

    /// The marks, from 0.
    pub(super) fn marks(&self) -> Vec<f64> {
        let mut marks = Vec::new();
        let mut count = 0.0;
        // Half a step of grace for what rounding does to the last one.
        while count * self.step <= self.end + self.step / 1e6 {
            marks.push(count * self.step);
            count += 1.0;
        }
        marks
    }

    /// A mark's text, with as many decimals as the step between marks has.
    pub(super) fn label(&self, mark: f64) -> String {
        let mut places = 0;
        while places < 6 && (self.step * 10f64.powi(places) + 1e-9).fract() > 1e-6 {
            places += 1;
        }
        let places = usize::try_from(places).unwrap_or(0);
        format!("{mark:.places$}")
    }
}

/// 1, 2 or 5 times a power of ten, so that four to ten of them reach `most`.
fn step_for(most: f64) -> f64 {
    let rough = most / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let times = [5.0, 2.0, 1.0]
        .into_iter()
        .find(|times| times * power <= rough);
    times.unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_between_the_ends_of_the_paper_in_their_order() {
        for most in [0.003, 0.7, 1.0, 9.9, 10.0, 1234.0, 7e9] {
            let scale = Scale::up_to(most, 100.0);
            assert_eq!(scale.place(0.0), 0.0);
            let place = scale.place(most);
            assert!((50.0..=100.0).contains(&place), "{most}: {place}");
            assert!(scale.place(most / 2.0) < place);
            assert_eq!(
                scale.place(most * 100.0),
                100.0,
                "beyond the end is the end"
            );
            assert_eq!(Scale::just(most, 100.0).place(most), 100.0);
        }
    }

    #[test]
    fn marks_are_few_round_and_reach_the_end() {
        for (most, labels) in [
            (1.0, "0.0 0.2 0.4 0.6 0.8 1.0"),
            (7.3, "0 1 2 3 4 5 6 7 8"),
            (430.0, "0 100 200 300 400 500"),
            (0.09, "0.00 0.02 0.04 0.06 0.08 0.10"),
        ] {
            let scale = Scale::up_to(most, 100.0);
            let shown: Vec<_> = scale.marks().iter().map(|&it| scale.label(it)).collect();
            assert_eq!(shown.join(" "), labels);
        }
        for exponent in -30..60 {
            let most = 10f64.powf(f64::from(exponent) / 7.0);
            let marks = Scale::up_to(most, 1.0).marks().len();
            assert!((5..=11).contains(&marks), "{most}: {marks}");
        }
    }

    #[test]
    fn nothing_and_what_is_no_number_can_be_drawn() {
        for most in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let scale = Scale::up_to(most, 100.0);
            assert!(scale.place(0.5).is_finite());
            assert!(!scale.marks().is_empty());
        }
    }
}
