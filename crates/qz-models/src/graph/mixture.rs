//! Experts as most families have them: an expert that every token is given to beside them,
//! groups, a bias that helps to choose, layers without experts in front; and the decoders
//! that are Llama's but for these.

use qz_kernels::backend::{Activation, Gating, RotaryPairs, Router};

use super::decoder::{self, SelfAttention, Sizes};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// Experts of a layer that has some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixture {
    pub(super) router: Router,
    /// Width of an expert, and of the one that every token is given to.
    width: usize,
    shared_width: usize,
}

impl Mixture {
    /// Reads it; none if the file speaks of none. `gating` is what the family's files mean
    /// that do not say.
    pub(super) fn read(keys: &Keys<'_>, gating: Gating) -> Result<Option<Self>, Error> {
        let Some((experts, used)) = decoder::experts(keys)? else { return Ok(None) };
        let width = keys.required("expert_feed_forward_length")?;
        let shared = keys.size("expert_shared_count")?.unwrap_or(0);
        // The numbers of `llama_expert_gating_func_type` in llama.cpp.
        let gating = match keys.size("expert_gating_func")? {
            None | Some(0) => gating,
            Some(1) => Gating::Softmax,
            Some(2) => Gating::Sigmoid,
            _ => return Err(keys.fault("expert_gating_func", "is not supported")),
        };
        let groups = match keys.size("expert_group_count")? {
            None | Some(0 | 1) => None,
            Some(count) if experts.is_multiple_of(count) => {
                let used = keys.required("expert_group_used_count")?;
                Some((count, used)).filter(|_| used < count)
            }
            Some(_) => {
                return Err(keys.fault("expert_group_count", "does not divide the experts"));
            }
        };
        let router = Router {
            experts,
            used,
            gating,
            normalize: keys.flag("expert_weights_norm")?.unwrap_or(false),
            scale: keys.factor("expert_weights_scale")?.unwrap_or(1.0),
            groups,
        };
        Ok(Some(Self { router, width, shared_width: shared * width }))
    }

    /// The same whose experts' weights are divided by their sum.
    pub(super) fn normalized(self) -> Self {
        Self { router: Router { normalize: true, ..self.router }, ..self }
    }

    /// Adds it to a layer; what experts make of their tokens, and the one of all.
    pub(super) fn add_to(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let shared = (self.shared_width > 0)
            .then(|| decoder::shared_expert(layer, input, self.shared_width));
        let bias = layer.selection_bias(self.router.experts);
        let fed = layer.experts(input, self.router, Some(bias), self.width, Activation::Silu);
        if let Some(shared) = shared {
            layer.add_to(fed, shared);
        }
        fed
    }
}

/// How many layers in front have no experts.
pub(super) fn dense_layers(keys: &Keys<'_>, has_experts: bool) -> Result<usize, Error> {
    const KEY: &str = "leading_dense_block_count";
    let (layers, dense) = (keys.layers()?, keys.size(KEY)?.unwrap_or(0));
    if dense > layers || (dense < layers && !has_experts) {
        return Err(keys.fault(KEY, "is not the number of layers without experts"));
    }
    Ok(dense)
}

/// A decoder with such experts.
pub(super) struct Mixed<'k, 'm> {
    keys: &'k Keys<'m>,
    pub(super) sizes: Sizes,
    pub(super) attention: SelfAttention,
    mixture: Mixture,
    /// Layers in front without experts.
    dense: usize,
    rotated: usize,
}

impl<'k, 'm> Mixed<'k, 'm> {
    /// As the keys say, with attention that turns these pairs.
    pub(super) fn read(
        keys: &'k Keys<'m>,
        pairs: RotaryPairs,
        mixture: Option<Mixture>,
    ) -> Result<Self, Error> {
        let sizes = Sizes::read(keys)?;
        let rotated = sizes.rotated(keys)?;
        let Some(mixture) = mixture else {
            return Err(keys.fault("expert_count", "is missing"));
        };
        let attention = SelfAttention {
            rotary: Some((0, sizes.rotation(rotated, pairs))),
            ..SelfAttention::plain(&sizes)
        };
        let dense = dense_layers(keys, true)?;
        Ok(Self { keys, sizes, attention, mixture, dense, rotated })
    }

    /// The model.
    pub(super) fn model(self) -> Result<ModelGraph, Error> {
        let Self { keys, sizes, attention, mixture, dense, rotated } = self;
        let layer = |number: usize| -> LayerGraph {
            let mut layer = LayerBuilder::new(sizes.hidden);
            let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
            let attended = attention.add_to(&mut layer, normed);
            layer.add(attended);
            let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
            let fed = match number < dense {
                true => decoder::gated(&mut layer, normed, sizes.intermediate, Activation::Silu),
                false => mixture.add_to(&mut layer, normed),
            };
            layer.add(fed);
            layer.finish()
        };
        Ok(ModelGraph {
            hidden: sizes.hidden,
            layers: (0..keys.computed_layers()?).map(layer).collect(),
            rotaries: vec![Rotary::read(keys, rotated)?],
            around: Around::plain(sizes.epsilon),
        })
    }
}

/// dots.llm1: Qwen 3's attention, and DeepSeek 3's experts. GLM 4.5: the same, whose heads are
/// normed if the file has norms for them, and turn in part.
pub(super) fn dots1(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Sigmoid)?;
    let mut model = Mixed::read(keys, RotaryPairs::Halves, mixture)?;
    model.attention.norms_heads = true;
    model.model()
}

/// MiniMax M2: all heads together are normed.
pub(super) fn minimax_m2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Sigmoid)?.map(Mixture::normalized);
    let mut model = Mixed::read(keys, RotaryPairs::Halves, mixture)?;
    model.attention.norms_rows = true;
    model.model()
}

/// OLMoE, whose experts are as wide as the network would be, and whose weights are not divided
/// by their sum.
pub(super) fn olmoe(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let Some((experts, used)) = decoder::experts(keys)? else {
        return Err(keys.fault("expert_count", "is missing"));
    };
    let router = Router { normalize: false, ..Router::plain(experts, used) };
    let width = keys.required("feed_forward_length")?;
    let mixture = Mixture { router, width, shared_width: 0 };
    let mut model = Mixed::read(keys, RotaryPairs::Halves, Some(mixture))?;
    model.attention.norms_rows = true;
    model.model()
}
