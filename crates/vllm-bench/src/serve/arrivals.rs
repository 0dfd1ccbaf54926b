//! When requests arrive.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Gamma};

use crate::error::{Error, Result};

/// A stream of requests: all at once, or as a gamma process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrivals {
    /// Requests per second; infinity sends all at once.
    pub request_rate: f64,
    /// 1 is a Poisson process; below, requests come in bursts, above, more evenly.
    pub burstiness: f64,
    /// The same seed draws the same times.
    pub seed: u64,
}

impl Arrivals {
    /// Times from the start at which `count` requests arrive, ascending. The last one arrives when
    /// the rate says, so that a short run has the rate that was asked for.
    ///
    /// # Errors
    /// A rate or burstiness that is not above 0.
    pub fn times(&self, count: usize) -> Result<Vec<Duration>> {
        let Self {
            request_rate,
            burstiness,
            seed,
        } = *self;
        if request_rate.is_nan() || request_rate <= 0.0 {
            let message = format!("the request rate must be above 0, not {request_rate}");
            return Err(Error::Workload(message));
        }
        let gamma = Gamma::new(burstiness, 1.0);
        let gamma = gamma.ok().filter(|_| burstiness.is_finite());
        let gamma = gamma.ok_or_else(|| {
            Error::Workload(format!("the burstiness must be above 0, not {burstiness}"))
        })?;
        if request_rate.is_infinite() {
            return Ok(vec![Duration::ZERO; count]);
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = 0.0;
        let mut times: Vec<f64> = Vec::with_capacity(count);
        for _ in 0..count {
            now += gamma.sample(&mut rng);
            times.push(now);
        }
        let scale = match now > 0.0 {
            true => count as f64 / request_rate / now,
            false => 0.0,
        };
        let seconds = times.into_iter().map(|time| time * scale);
        let durations = seconds.map(Duration::try_from_secs_f64);
        durations
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::Workload(format!("a request rate of {request_rate} is too low")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(request_rate: f64, burstiness: f64) -> Result<Vec<Duration>> {
        let arrivals = Arrivals {
            request_rate,
            burstiness,
            seed: 5,
        };
        arrivals.times(100)
    }

    #[test]
    fn the_rate_is_kept_and_the_order_ascends() {
        for burstiness in [0.2, 1.0, 50.0] {
            let times = times(20.0, burstiness).unwrap();
            assert!(times.is_sorted());
            assert!((times[99].as_secs_f64() - 5.0).abs() < 1e-6);
        }
        let gaps = |burstiness| {
            let times = times(20.0, burstiness).unwrap();
            let gaps = times
                .windows(2)
                .map(|pair| (pair[1] - pair[0]).as_secs_f64());
            gaps.collect::<crate::Figures>().std()
        };
        assert!(gaps(0.2) > gaps(1.0) && gaps(1.0) > gaps(50.0));
    }

    #[test]
    fn an_infinite_rate_sends_all_at_once() {
        assert_eq!(times(f64::INFINITY, 1.0).unwrap(), [Duration::ZERO; 100]);
    }

    #[test]
    fn others_are_refused() {
        for (rate, burstiness) in [
            (0.0, 1.0),
            (-1.0, 1.0),
            (f64::NAN, 1.0),
            (1.0, 0.0),
            (1.0, f64::NAN),
        ] {
            assert!(times(rate, burstiness).is_err(), "{rate} {burstiness}");
        }
        assert!(times(1e-300, 1.0).is_err());
    }
}
