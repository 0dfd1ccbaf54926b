use vllm_tensor::{DType, Tensor, combine_rows};

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
        let groups = group_by_expert(&routes, self.experts.len());

        // Where each route's result ends up: below those of all experts before its own.
        let mut rows = vec![0; routes.len() * self.experts_per_token];
        let mut outputs = Vec::new();
        let mut num_rows = 0;
        for (expert, group) in self.experts.iter().zip(&groups) {
            if group.is_empty() {
                continue;
            }
            let mut tokens = Vec::with_capacity(group.len());
            for (token, nth) in group {
                rows[token * self.experts_per_token + nth] = num_rows;
                num_rows += 1;
                tokens.push(*token as u32);
            }
            outputs.push(expert.forward(gather(x, tokens)?.into(), None)?);
        }
        let outputs = Tensor::cat(&outputs, 0)?;
        // A token's experts are added in the order of their numbers, whatever else is in the batch.
        let weights: Vec<f32> = routes.iter().flatten().map(|route| route.weight).collect();
        let sum = combine_rows(&outputs, &rows, &weights, self.experts_per_token)?;
        match &self.shared {
            Some(shared) => Ok((shared.forward(x)? + sum)?),
            None => Ok(sum),
        }
    }
}

/// The rows `tokens` of `x`, in order.
fn gather(x: &Tensor, tokens: Vec<u32>) -> Result<Tensor> {
    if tokens.len() == x.dim(0)? {
        // A token goes to an expert once, so these are all of them.
        return Ok(x.clone());
    }
    Ok(x.index_select(&Tensor::new(tokens, x.device())?, 0)?)
}

/// For each expert the tokens that go there, in order, each with which of its routes that is.
fn group_by_expert(routes: &[Vec<Route>], num_experts: usize) -> Vec<Vec<(usize, usize)>> {
    let mut groups = vec![Vec::new(); num_experts];
    for (token, routes) in routes.iter().enumerate() {
        for (nth, route) in routes.iter().enumerate() {
            groups[route.expert].push((token, nth));
        }
    }
    groups
}

impl SharedExpert {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.gate.forward(x)?;
        let sigmoid = ((gate.neg()?.exp()? + 1.0)?).recip()?;
        Ok(self.mlp.forward(x.into(), None)?.broadcast_mul(&sigmoid)?)
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
    let highest = by_score.first().map_or(0.0, |best| scores[*best]);
    by_score.truncate(count);
    let mut chosen = by_score;
    chosen.sort_unstable();
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
    fn tokens_are_grouped_in_order() {
        let to = |experts: &[usize]| -> Vec<Route> {
            let route = |expert: &usize| Route {
                expert: *expert,
                weight: 0.5,
            };
            experts.iter().map(route).collect()
        };
        let groups = group_by_expert(&[to(&[0, 2]), to(&[2, 3]), to(&[0, 3])], 4);
        assert_eq!(
            groups,
            [
                vec![(0, 0), (2, 0)],
                vec![],
                vec![(0, 1), (1, 0)],
                vec![(1, 1), (2, 1)],
            ]
        );
    }

    #[test]
    fn not_a_number_does_not_stop_the_others() {
        assert_eq!(route(&[f32::NAN, 1.0, 2.0], 2, true).len(), 2);
    }
}
