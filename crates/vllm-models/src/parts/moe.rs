use vllm_tensor::{DType, Tensor};

use super::GatedMlp;
use crate::loader::{Linear, WeightLoader};
use crate::{Error, Result};

/// A mixture of experts: a router sends each token to a few of many MLPs.
///
/// Experts run over the whole step at once, each over the tokens sent to it.
pub(crate) struct MoeBlock {
    router: Linear,
    experts: Vec<GatedMlp>,
    experts_per_token: usize,
    /// Whether the weights of a token's experts add up to one.
    pub(crate) renormalize: bool,
    pub(crate) shared: Option<SharedExpert>,
}

/// An expert that sees every token, scaled by a sigmoid.
pub(crate) struct SharedExpert {
    pub(crate) mlp: GatedMlp,
    pub(crate) gate: Linear,
}

impl MoeBlock {
    /// A block whose router is the tensor below `router_prefix`, with weights that add up to one and
    /// no shared expert.
    pub(crate) fn load(
        router_prefix: &str,
        experts: Vec<GatedMlp>,
        experts_per_token: usize,
        hidden_size: usize,
        weights: &WeightLoader,
    ) -> Result<Self> {
        if experts_per_token == 0 || experts_per_token > experts.len() {
            return Err(Error::Config(format!(
                "num_experts_per_tok is {experts_per_token} of {} experts",
                experts.len()
            )));
        }
        Ok(Self {
            router: weights.linear(router_prefix, hidden_size, experts.len(), false)?,
            experts,
            experts_per_token,
            renormalize: true,
            shared: None,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let scores = self.router.forward(x)?.to_dtype(DType::F32)?.to_vec2()?;
        let routes: Vec<Vec<Route>> = scores
            .iter()
            .map(|scores| route(scores, self.experts_per_token, self.renormalize))
            .collect();

        // Where each token's routes end up once the rows are sorted by expert.
        let mut rows_of_token = vec![Vec::with_capacity(self.experts_per_token); routes.len()];
        let mut outputs = Vec::new();
        let mut num_rows = 0;
        for (index, expert) in self.experts.iter().enumerate() {
            let tokens: Vec<u32> = (0u32..)
                .zip(&routes)
                .filter(|(_, routes)| routes.iter().any(|route| route.expert == index))
                .map(|(token, _)| token)
                .collect();
            if tokens.is_empty() {
                continue;
            }
            for token in &tokens {
                rows_of_token[*token as usize].push(num_rows);
                num_rows += 1;
            }
            let tokens = Tensor::new(tokens, x.device())?;
            outputs.push(expert.forward(&x.index_select(&tokens, 0)?)?);
        }
        let outputs = Tensor::cat(&outputs, 0)?;

        let mut sum = match &self.shared {
            Some(shared) => Some(shared.forward(x)?),
            None => None,
        };
        // A token's experts are added in the order of their numbers, whatever else is in the batch.
        for nth in 0..self.experts_per_token {
            let rows: Vec<u32> = rows_of_token.iter().map(|rows| rows[nth]).collect();
            let weights: Vec<f32> = routes.iter().map(|routes| routes[nth].weight).collect();
            let weights = Tensor::from_vec(weights, (routes.len(), 1), x.device())?;
            let rows = outputs.index_select(&Tensor::new(rows, x.device())?, 0)?;
            let weighted = rows.broadcast_mul(&weights.to_dtype(x.dtype())?)?;
            sum = Some(match sum {
                Some(sum) => (sum + weighted)?,
                None => weighted,
            });
        }
        Ok(sum.map_or_else(|| x.zeros_like(), Ok)?)
    }
}

impl SharedExpert {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.gate.forward(x)?;
        let sigmoid = ((gate.neg()?.exp()? + 1.0)?).recip()?;
        Ok(self.mlp.forward(x)?.broadcast_mul(&sigmoid)?)
    }
}

/// One of a token's experts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Route {
    expert: usize,
    weight: f32,
}

/// The `count` experts of the highest `scores` by number, weighted by their share of the softmax over
/// all experts or, if `renormalize`, over the chosen ones. Among equals the lower number wins.
fn route(scores: &[f32], count: usize, renormalize: bool) -> Vec<Route> {
    let mut by_score: Vec<usize> = (0..scores.len()).collect();
    by_score.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut chosen = by_score[..count.min(scores.len())].to_vec();
    chosen.sort_unstable();
    let highest = by_score.first().map_or(0.0, |best| scores[*best]);
    let share = |score: f32| (score - highest).exp();
    let total: f32 = if renormalize {
        chosen.iter().map(|expert| share(scores[*expert])).sum()
    } else {
        scores.iter().map(|score| share(*score)).sum()
    };
    chosen
        .into_iter()
        .map(|expert| Route {
            expert,
            weight: share(scores[expert]) / total,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let check = |scores: &[f32], count, renormalize, expected: &[(usize, f32)]| {
            let routes = route(scores, count, renormalize);
            assert_eq!(routes.len(), expected.len());
            for (route, (expert, weight)) in routes.iter().zip(expected) {
                assert_eq!(route.expert, *expert, "{scores:?}");
                assert!((route.weight - weight).abs() < 1e-6, "{route:?}");
            }
        };
        let ln = |values: [f32; 4]| values.map(f32::ln);
        check(&ln([1.0, 4.0, 2.0, 3.0]), 2, false, &[(1, 0.4), (3, 0.3)]);
        check(
            &ln([1.0, 4.0, 2.0, 3.0]),
            2,
            true,
            &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
        );
        check(&[5.0, 5.0, 5.0], 2, true, &[(0, 0.5), (1, 0.5)]);
        check(&[1000.0, -1000.0], 1, false, &[(0, 1.0)]);
    }

    #[test]
    fn not_a_number_does_not_stop_the_others() {
        assert_eq!(route(&[f32::NAN, 1.0, 2.0], 2, true).len(), 2);
    }
}
