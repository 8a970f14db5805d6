//! Figures of a series, and ratios of two.

use std::time::Duration;

/// Times of one thing, measured again and again.
#[derive(Debug, Default)]
pub(crate) struct Series {
    times: Vec<Duration>,
}

impl Series {
    pub(crate) fn add(&mut self, time: Duration) {
        self.times.push(time);
        self.times.sort_unstable();
    }

    /// The time that this part of all stay below, in milliseconds.
    fn quantile(&self, part: f64) -> f64 {
        let index = ((self.times.len().saturating_sub(1)) as f64 * part).round() as usize;
        self.times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn minimum(&self) -> f64 {
        self.quantile(0.0)
    }

    /// One row of a table.
    pub(crate) fn row(&self, name: &str) -> String {
        format!(
            "  {name:<28} min {:7.2}  median {:7.2}  95 % {:7.2} ms",
            self.minimum(),
            self.median(),
            self.quantile(0.95)
        )
    }

    /// By how much this one is faster.
    pub(crate) fn ratio(&self, other: &Self, name: &str) -> String {
        format!(
            "  of {name}'s: {:.2} by the median, {:.2} by the minimum",
            self.median() / other.median(),
            self.minimum() / other.minimum()
        )
    }
}
