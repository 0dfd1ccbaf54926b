use candle_core::{D, DType, Device, Tensor};

use crate::{Error, Result, cpu};

/// Rotary position embedding (Su et al. 2021) in its half-split form: elements `i` and `i + d/2` of
/// the first `d` of a head turn together by `position · frequency[i]`; the rest passes through.
#[derive(Clone, Debug)]
pub struct Rotary {
    frequencies: Vec<f32>,
    magnitude: f32,
}

impl Rotary {
    /// A rotation by `frequencies`, `[d / 2]` in radians a position. Cosines and sines are multiplied
    /// by `magnitude`, which is 1 but for some scalings to longer contexts.
    pub fn new(frequencies: Vec<f32>, magnitude: f32) -> Self {
        Self {
            frequencies,
            magnitude,
        }
    }

    /// The angles of a step's tokens, for all layers that rotate alike.
    ///
    /// They are computed anew each step: for a decode step that is next to nothing, and no table has
    /// to be made at start for every position that might come.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn angles(&self, positions: &[u32], device: &Device) -> Result<RotaryAngles> {
        let shape = (positions.len(), self.frequencies.len());
        let angles = positions.iter().flat_map(|position| {
            self.frequencies
                .iter()
                .map(move |frequency| *position as f32 * frequency)
        });
        let (sines, cosines): (Vec<f32>, Vec<f32>) = angles
            .map(f32::sin_cos)
            .map(|(sine, cosine)| (sine * self.magnitude, cosine * self.magnitude))
            .unzip();
        Ok(RotaryAngles {
            cosines: Tensor::from_vec(cosines, shape, device)?,
            sines: Tensor::from_vec(sines, shape, device)?,
        })
    }
}

/// Cosines and sines of a step's angles, float32 `[tokens, d / 2]` each.
#[derive(Clone, Debug)]
pub struct RotaryAngles {
    cosines: Tensor,
    sines: Tensor,
}

impl RotaryAngles {
    /// Rotates `x`, `[tokens, heads, head_dim]`, with float32 inside; dtype and shape stay.
    ///
    /// # Errors
    /// Another number of tokens, or heads narrower than the rotation.
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        if cpu::takes(x) {
            return cpu::rotate(&x.contiguous()?, &self.cosines, &self.sines);
        }
        self.rotate_plain(x)
    }

    /// Refuses what [`RotaryAngles::rotate`] cannot rotate.
    pub(crate) fn check(&self, x: &Tensor) -> Result<()> {
        let (num_tokens, half) = self.cosines.dims2()?;
        match *x.dims() {
            [tokens, _, head_dim] if tokens == num_tokens && head_dim >= 2 * half => Ok(()),
            _ => Err(Error::Shape {
                operation: "rotary embedding",
                expected: format!("[{num_tokens}, heads, at least {}]", 2 * half),
                actual: x.shape().clone(),
            }),
        }
    }

    /// `[tokens, d / 2]` each.
    pub(crate) fn cosines_and_sines(&self) -> (&Tensor, &Tensor) {
        (&self.cosines, &self.sines)
    }

    fn rotate_plain(&self, x: &Tensor) -> Result<Tensor> {
        let (half, head_dim) = (self.cosines.dim(1)?, x.dim(2)?);
        let wide = x.to_dtype(DType::F32)?;
        let (cosines, sines) = (self.cosines.unsqueeze(1)?, self.sines.unsqueeze(1)?);
        let first = wide.narrow(D::Minus1, 0, half)?;
        let second = wide.narrow(D::Minus1, half, half)?;
        let turned = [
            (first.broadcast_mul(&cosines)? - second.broadcast_mul(&sines)?)?,
            (second.broadcast_mul(&cosines)? + first.broadcast_mul(&sines)?)?,
            wide.narrow(D::Minus1, 2 * half, head_dim - 2 * half)?,
        ];
        Ok(Tensor::cat(&turned, D::Minus1)?.to_dtype(x.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, random_tensor};

    #[test]
    fn a_quarter_turn() {
        let rotary = Rotary::new(vec![std::f32::consts::FRAC_PI_2], 2.0);
        let x = Tensor::new(&[[[1f32, 0.0, 7.0]], [[1.0, 0.0, 7.0]]], &Device::Cpu).unwrap();
        let turned = rotary.angles(&[0, 1], &Device::Cpu).unwrap().rotate(&x);
        let expected = Tensor::new(&[[[2f32, 0.0, 7.0]], [[0.0, 2.0, 7.0]]], &Device::Cpu).unwrap();
        assert_close(&turned.unwrap(), &expected, 1e-6, "quarter turn");
    }

    #[test]
    fn the_fast_body_matches_the_plain_one() {
        for (half, head_dim) in [(4, 8), (3, 9), (0, 5)] {
            let frequencies = (0..half).map(|i| 0.3f32.powi(i)).collect();
            let rotary = Rotary::new(frequencies, 1.25);
            let angles = rotary.angles(&[0, 5, 131_071], &Device::Cpu).unwrap();
            let all = random_tensor(1, &[3, 4, head_dim]);
            let x = all.narrow(1, 1, 2).unwrap();
            let (fast, plain) = (angles.rotate(&x), angles.rotate_plain(&x));
            assert_close(&fast.unwrap(), &plain.unwrap(), 1e-6, "rotary");
        }
    }

    #[test]
    fn misshapen_operands_are_refused() {
        let angles = Rotary::new(vec![1.0; 4], 1.0).angles(&[0, 1], &Device::Cpu);
        let angles = angles.unwrap();
        for shape in [[2, 1, 7], [3, 1, 8]] {
            let message = angles
                .rotate(&random_tensor(1, &shape))
                .unwrap_err()
                .to_string();
            assert!(message.contains("[2, heads, at least 8]"), "{message}");
        }
    }
}
