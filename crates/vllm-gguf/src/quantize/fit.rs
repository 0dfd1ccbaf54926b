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
        let codes = numbers
            .iter()
            .map(|number| code_of(*number + -low, scale, largest_code));
        // Weighted least squares for scale and minimum.
        let (mut w, mut wc, mut wcc, mut wx, mut wcx) = (0f32, 0f32, 0f32, 0f32, 0f32);
        for ((number, weight), code) in numbers.iter().zip(&weights).zip(codes) {
            w += weight;
            wc += weight * code;
            wcc += weight * code * code;
            wx += weight * number;
            wcx += weight * code * number;
        }
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
    (number * inverse(scale)).round().clamp(0.0, largest_code)
}

fn line_error(numbers: &[f32], weights: &[f32], line: Line, largest_code: f32) -> f32 {
    let errors = numbers.iter().zip(weights).map(|(number, weight)| {
        let code = code_of(number + line.min, line.scale, largest_code);
        let error = line.scale * code - line.min - number;
        weight * error * error
    });
    errors.sum()
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
        let (mut wcc, mut wcx) = (0f32, 0f32);
        for (number, weight) in numbers.iter().zip(&weights) {
            let code = (number * inverse_scale).round().clamp(-reach, reach - 1.0);
            wcc += weight * code * code;
            wcx += weight * code * number;
        }
        let scale = wcx * inverse(wcc);
        let errors = numbers.iter().zip(&weights).map(|(number, weight)| {
            let code = (number * inverse(scale)).round().clamp(-reach, reach - 1.0);
            weight * (scale * code - number).powi(2)
        });
        let error: f32 = errors.sum();
        if error < best.1 {
            best = (scale, error);
        }
    }
    best.0
}
