//! Mean, spread and percentiles of a measurement.

/// Measured values, of which figures are taken. All figures of no values are 0, as in vLLM.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    ascending: Vec<f64>,
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut ascending: Vec<f64> = values.into_iter().collect();
        ascending.sort_by(f64::total_cmp);
        Self { ascending }
    }
}

impl Figures {
    /// The arithmetic mean.
    pub fn mean(&self) -> f64 {
        match self.ascending.len() {
            0 => 0.0,
            count => self.ascending.iter().sum::<f64>() / count as f64,
        }
    }

    /// The population's standard deviation.
    pub fn std(&self) -> f64 {
        let mean = self.mean();
        let squares = self.ascending.iter().map(|value| (value - mean).powi(2));
        match self.ascending.len() {
            0 => 0.0,
            count => (squares.sum::<f64>() / count as f64).sqrt(),
        }
    }

    /// The 50th percentile.
    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// The value that `percent` of the values do not exceed, interpolated linearly between
    /// neighbours as NumPy does.
    pub fn percentile(&self, percent: f64) -> f64 {
        let Some(last) = self.ascending.len().checked_sub(1) else {
            return 0.0;
        };
        let position = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
        let below = position.floor() as usize;
        let above = (below + 1).min(last);
        let share = position - below as f64;
        self.ascending[below] + share * (self.ascending[above] - self.ascending[below])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_numpy() {
        let figures: Figures = [4.0, 1.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(figures.mean(), 2.5);
        assert_eq!(figures.median(), 2.5);
        assert!((figures.std() - 1.118_033_988_749_895).abs() < 1e-15);
        assert!((figures.percentile(99.0) - 3.97).abs() < 1e-12);
        assert_eq!(figures.percentile(0.0), 1.0);
        assert_eq!(figures.percentile(100.0), 4.0);
    }

    #[test]
    fn no_values_have_figures_too() {
        let none = Figures::default();
        assert_eq!((none.mean(), none.std(), none.median()), (0.0, 0.0, 0.0));
    }
}
