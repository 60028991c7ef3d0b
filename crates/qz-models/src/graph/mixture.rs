//! Experts as most families have them: an expert that every token is given to beside them,
//! groups, a bias that helps to choose, layers without experts in front; and the decoders
//! that are Llama's but for these.

use qz_kernels::backend::{Activation, Attention, Gating, RotaryPairs, Router};

use super::decoder::{self, SelfAttention, Sizes};
use super::further::Further;
use super::relatives::GraniteFactors;
use super::{
    Around, ExpertForm, ExpertKind, Keys, LayerBuilder, ModelGraph, NormKind, Register, Rotary,
};
use crate::error::Error;
use crate::rules::Role;

/// Experts of a layer that has some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixture {
    pub(super) router: Router,
    /// Width of an expert, and of the one that every token is given to.
    pub(super) width: usize,
    pub(super) shared_width: usize,
    /// How many times what all of them give is added.
    times: f32,
    form: ExpertForm,
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
        let shared_width = shared * width;
        Ok(Some(Self { router, width, shared_width, times: 1.0, form: ExpertForm::Gated }))
    }

    /// Experts as wide as a network would be, of a softmax whose weights are divided by their
    /// sum.
    pub(super) fn as_network(keys: &Keys<'_>) -> Result<Self, Error> {
        let Some((experts, used)) = decoder::experts(keys)? else {
            return Err(keys.fault("expert_count", "is missing"));
        };
        let width = keys.required("feed_forward_length")?;
        let router = Router::plain(experts, used);
        Ok(Self { router, width, shared_width: 0, times: 1.0, form: ExpertForm::Gated })
    }

    /// The same whose experts' weights are divided by their sum.
    pub(super) fn normalized(self) -> Self {
        Self { router: Router { normalize: true, ..self.router }, ..self }
    }

    /// The same whose experts have gate and up projection in one matrix.
    pub(super) fn fused(self) -> Self {
        Self { form: ExpertForm::Fused, ..self }
    }

    /// Adds it to a layer; what experts make of their tokens, and the one of all.
    pub(super) fn add_to(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let shared = (self.shared_width > 0)
            .then(|| decoder::shared_expert(layer, input, self.shared_width));
        let Self { router: routing, width, form, .. } = *self;
        let (bias, activation) = (Some(layer.selection_bias(routing.experts)), Activation::Silu);
        let kind = ExpertKind { routing, bias, scale: None, width, activation, form };
        let fed = layer.experts_of(input, input, kind);
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
    norms: NormKind,
    /// Attention and network read the same, behind one norm.
    is_beside: bool,
    /// Layers in front without experts.
    dense: usize,
    /// Of so many layers the last has experts.
    step: usize,
    /// How many times what attention and experts give is added.
    pub(super) residual: f32,
    pub(super) around: Around,
    rotated: usize,
}

impl<'k, 'm> Mixed<'k, 'm> {
    /// As the keys say, with attention that turns these pairs.
    pub(super) fn read(
        keys: &'k Keys<'m>,
        pairs: RotaryPairs,
        mixture: Option<Mixture>,
    ) -> Result<Self, Error> {
        Self::with_norms(keys, pairs, mixture, NormKind::RootMeanSquare)
    }

    /// The same with norms of another kind.
    fn with_norms(
        keys: &'k Keys<'m>,
        pairs: RotaryPairs,
        mixture: Option<Mixture>,
        norms: NormKind,
    ) -> Result<Self, Error> {
        let sizes = Sizes::read_with(keys, norms)?;
        let rotated = sizes.rotated(keys)?;
        let Some(mixture) = mixture else {
            return Err(keys.fault("expert_count", "is missing"));
        };
        let attention = SelfAttention {
            rotary: Some((0, sizes.rotation(rotated, pairs))),
            ..SelfAttention::plain(&sizes)
        };
        Ok(Self {
            keys,
            sizes,
            attention,
            mixture,
            norms,
            is_beside: false,
            dense: dense_layers(keys, true)?,
            step: keys.size("interleave_moe_layer_step")?.unwrap_or(1).max(1),
            residual: 1.0,
            around: Around { norm: norms, ..Around::plain(sizes.epsilon) },
            rotated,
        })
    }

    /// The model.
    pub(super) fn model(self) -> Result<ModelGraph, Error> {
        let attention = self.attention;
        self.model_with(|_| attention)
    }

    /// The model with the attention of each layer.
    fn model_with(self, attention: impl Fn(usize) -> SelfAttention) -> Result<ModelGraph, Error> {
        let further = Further { norms: self.norms, ..Further::plain(self.sizes.epsilon) };
        let block = |number: usize, layer: &mut LayerBuilder| {
            self.block(number, layer, &attention(number));
        };
        Ok(ModelGraph {
            hidden: self.sizes.hidden,
            layers: further.behind(self.keys, self.sizes.hidden, block)?,
            rotaries: vec![Rotary::read(self.keys, self.rotated)?],
            around: self.around,
        })
    }

    /// What a layer computes of its hidden states.
    fn block(&self, number: usize, layer: &mut LayerBuilder, attention: &SelfAttention) {
        let Self { sizes, residual, norms, mixture, .. } = self;
        let hidden = Register::HIDDEN;
        let mut normed = layer.norm_of(*norms, hidden, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(layer, normed);
        if !self.is_beside {
            layer.add_times(attended, *residual);
            normed = layer.norm_of(*norms, hidden, Role::FeedForwardNorm, sizes.epsilon);
        }
        let is_mixed = number >= self.dense && (number + 1).is_multiple_of(self.step);
        let (fed, times) = match is_mixed {
            true => (mixture.add_to(layer, normed), mixture.times),
            false => (decoder::gated(layer, normed, sizes.intermediate, Activation::Silu), 1.0),
        };
        if self.is_beside {
            layer.add_times(attended, *residual);
        }
        layer.add_times(fed, *residual * times);
    }

    /// Attention whose layers without a window do not turn, but for so many in front.
    fn windowed(self, period: usize, turning: usize) -> Result<ModelGraph, Error> {
        let base = self.attention;
        let attention = Attention { window: self.keys.window()?, ..base.attention };
        let windowed = SelfAttention { attention, ..base };
        let still = SelfAttention { rotary: None, ..base };
        let windows = self.keys.windowed_layers(self.keys.computed_layers()?, period)?;
        self.model_with(|layer| match windows.get(layer) {
            Some(true) => windowed,
            Some(false) if layer >= turning => still,
            // Layers that predict further tokens see all, and turn (`graph_mtp` of Cohere 2 with
            // experts in llama.cpp).
            Some(false) | None => base,
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

/// OLMoE, whose weights are not divided by their sum.
pub(super) fn olmoe(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mut mixture = Mixture::as_network(keys)?;
    mixture.router.normalize = false;
    let mut model = Mixed::read(keys, RotaryPairs::Halves, Some(mixture))?;
    model.attention.norms_rows = true;
    model.model()
}

/// Phi 3.5 with experts: norms take the mean away, and two experts are chosen one after the other.
/// So are transformers' class and the published code; llama.cpp's graph has norms without the
/// mean, and weighs the experts of a softmax.
pub(super) fn phimoe(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mut mixture = Mixture::as_network(keys)?;
    if mixture.router.used != 2 {
        return Err(keys.fault("expert_used_count", "is not 2, as which its router is known"));
    }
    mixture.router.gating = Gating::SparseMixer;
    mixture.router.normalize = false;
    // The key of epsilon is that of the other kind.
    let mut model = Mixed::read(keys, RotaryPairs::Halves, Some(mixture))?;
    model.norms = NormKind::Layer;
    model.around.norm = NormKind::Layer;
    model.attention.attention.window = keys.window()?;
    let rotary = Rotary::read(keys, model.rotated)?.by_length(keys)?;
    Ok(ModelGraph { rotaries: vec![rotary], ..model.model()? })
}

/// ERNIE 4.5 with experts.
pub(super) fn ernie(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Softmax)?.map(Mixture::normalized);
    Mixed::read(keys, RotaryPairs::Adjacent, mixture)?.model()
}

/// Hunyuan with experts, whose heads are normed after they have turned.
pub(super) fn hunyuan(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Softmax)?.map(Mixture::normalized);
    let mut model = Mixed::read(keys, RotaryPairs::Halves, mixture)?;
    model.mixture.shared_width = keys.required("expert_shared_feed_forward_length")?;
    model.attention.norms_turned_heads = true;
    model.model()
}

/// Granite with experts: its factors, and one expert for every token where files speak of it.
pub(super) fn granite(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let shared_width = keys.size("expert_shared_feed_forward_length")?.unwrap_or(0);
    let mixture = Mixture { shared_width, ..Mixture::as_network(keys)? };
    let mut model = Mixed::read(keys, RotaryPairs::Adjacent, Some(mixture))?;
    let factors = GraniteFactors::read(keys)?;
    model.residual = factors.residual;
    model.attention = factors.attention(model.attention);
    model.around = factors.around(model.around);
    model.model()
}

/// EXAONE with experts: layers with a window turn, and no others.
pub(super) fn exaone(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 4;
    let mixture = Mixture::read(keys, Gating::Sigmoid)?;
    let mut model = Mixed::read(keys, RotaryPairs::Halves, mixture)?;
    model.attention.norms_heads = true;
    // Files do not say whether its layers that predict further tokens have a window, and turn.
    Ok(model.windowed(PERIOD, 0)?.with_further(0))
}

/// Cohere 2 with experts: attention beside them, layers with a window and those without experts
/// turn; where tokens have an expert of all, both are averaged.
pub(super) fn cohere2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    const PERIOD: usize = 4;
    let is_square = keys.number("attention.layer_norm_rms_epsilon")?.is_some();
    let norms = if is_square { NormKind::RootMeanSquare } else { NormKind::Layer };
    let mixture = Mixture::read(keys, Gating::Sigmoid)?.map(|mixture| Mixture {
        times: if mixture.shared_width > 0 { 0.5 } else { 1.0 },
        ..mixture
    });
    let mut model = Mixed::with_norms(keys, RotaryPairs::Adjacent, mixture, norms)?;
    model.is_beside = true;
    model.around.logit_scale = keys.factor("logit_scale")?;
    let turning = model.dense;
    model.windowed(PERIOD, turning)
}

/// Ling.
pub(super) fn bailing(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Softmax)?;
    Mixed::read(keys, RotaryPairs::Adjacent, mixture)?.model()
}

/// Ling 2: queries, keys and values of one matrix, whose heads are normed.
pub(super) fn bailing2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let mixture = Mixture::read(keys, Gating::Sigmoid)?;
    let mut model = Mixed::read(keys, RotaryPairs::Halves, mixture)?;
    model.attention.is_fused = true;
    model.attention.norms_heads = true;
    model.model()
}
