//! Scales and minima for groups of numbers.

pub(super) fn inverse(number: f32) -> f32 {
    if number == 0.0 { 0.0 } else { number.recip() }
}

/// The number farthest from zero.
pub(super) fn farthest(numbers: &[f32]) -> f32 {
    let farther = |farthest: f32, number: &f32| {
        if number.abs() > farthest.abs() {
            *number
        } else {
            farthest
        }
    };
    numbers.iter().fold(0.0, farther)
}

/// Numbers that are added side by side, so that compilers use vectors.
const LANES: usize = 8;

/// The sum of `f` over numbers and their weights.
fn sum_of<const N: usize>(
    numbers: &[f32],
    weights: &[f32],
    f: impl Fn(f32, f32) -> [f32; N],
) -> [f32; N] {
    let mut sums = [[0f32; LANES]; N];
    let chunks = numbers.chunks(LANES).zip(weights.chunks(LANES));
    for (numbers, weights) in chunks {
        for (lane, (number, weight)) in numbers.iter().zip(weights).enumerate() {
            for (sum, term) in sums.iter_mut().zip(f(*number, *weight)) {
                sum[lane] += term;
            }
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// The whole number from `least` to `most`, at most a few million, that is nearest. [`f32::round`] is a
/// call on many processors.
fn nearest(number: f32, least: f32, most: f32) -> f32 {
    const TO_WHOLE: f32 = 12_582_912.0;
    number.clamp(least, most) + TO_WHOLE - TO_WHOLE
}

/// A group's scale and minimum, both at least 0.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// Large numbers count for more: they meet large activations' products.
fn importance(numbers: &[f32]) -> Vec<f32> {
    let squares: f32 = numbers.iter().map(|number| number * number).sum();
    let typical = (squares / numbers.len() as f32).sqrt();
    numbers
        .iter()
        .map(|number| typical + number.abs())
        .collect()
}

/// The line `scale · code − min` that fits `numbers` best with codes up to `largest_code`.
pub(super) fn best_line(numbers: &[f32], largest_code: f32) -> Line {
    const STEPS: i32 = 12;
    let weights = importance(numbers);
    let low = numbers.iter().fold(0f32, |low, number| low.min(*number));
    let high = numbers
        .iter()
        .fold(f32::MIN, |high, number| high.max(*number));
    if high <= low {
        return Line {
            scale: 0.0,
            min: -low,
        };
    }
    let mut best = Line {
        scale: (high - low) / largest_code,
        min: -low,
    };
    let mut least = line_error(numbers, &weights, best, largest_code);
    for step in -STEPS..=STEPS {
        let scale = (high - low) / (largest_code + 0.1 * step as f32);
        let inverse_scale = inverse(scale);
        // Weighted least squares for scale and minimum.
        let [w, wc, wcc, wx, wcx] = sum_of(numbers, &weights, |number, weight| {
            let code = nearest((number - low) * inverse_scale, 0.0, largest_code);
            let weighted = weight * code;
            [
                weight,
                weighted,
                weighted * code,
                weight * number,
                weighted * number,
            ]
        });
        let determinant = w * wcc - wc * wc;
        if determinant <= 0.0 {
            continue;
        }
        let mut line = Line {
            scale: (w * wcx - wx * wc) / determinant,
            min: -(wcc * wx - wc * wcx) / determinant,
        };
        if line.min < 0.0 {
            line = Line {
                scale: wcx * inverse(wcc),
                min: 0.0,
            };
        }
        let error = line_error(numbers, &weights, line, largest_code);
        if line.scale > 0.0 && error < least {
            (best, least) = (line, error);
        }
    }
    best
}

pub(super) fn code_of(number: f32, scale: f32, largest_code: f32) -> f32 {
    nearest(number * inverse(scale), 0.0, largest_code)
}

fn line_error(numbers: &[f32], weights: &[f32], line: Line, largest_code: f32) -> f32 {
    let Line { scale, min } = line;
    let inverse_scale = inverse(scale);
    let [error] = sum_of(numbers, weights, |number, weight| {
        let code = nearest((number + min) * inverse_scale, 0.0, largest_code);
        let error = scale * code - min - number;
        [weight * error * error]
    });
    error
}

/// The scale that fits `numbers` best with codes from `-reach` to `reach - 1`; of either sign.
pub(super) fn best_scale(numbers: &[f32], reach: f32) -> f32 {
    const STEPS: i32 = 9;
    let weights = importance(numbers);
    let largest = farthest(numbers);
    let mut best = (0.0, f32::MAX);
    for step in -STEPS..=STEPS {
        // The number farthest from zero takes the end of the range that reaches farther.
        let inverse_scale = -(reach + 0.1 * step as f32) * inverse(largest);
        let [wcc, wcx] = sum_of(numbers, &weights, |number, weight| {
            let code = nearest(number * inverse_scale, -reach, reach - 1.0);
            [weight * code * code, weight * code * number]
        });
        let scale = wcx * inverse(wcc);
        let inverse_scale = inverse(scale);
        let [error] = sum_of(numbers, &weights, |number, weight| {
            let code = nearest(number * inverse_scale, -reach, reach - 1.0);
            let error = scale * code - number;
            [weight * error * error]
        });
        if error < best.1 {
            best = (scale, error);
        }
    }
    best.0
}
