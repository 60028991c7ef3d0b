//! Gemma 4: two kinds of layers with heads of their own sizes, keys and values that later
//! layers share, rows of their own for each token and layer, and experts beside a network.

use qz_kernels::backend::{Activation, Attention, RotaryPairs, Rotation, Router};

use super::{
    Around, ExpertForm, ExpertKind, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, Rotary,
    Slot, decoder,
};
use crate::error::Error;
use crate::rules::Role;

/// Attention of the layers of one kind.
#[derive(Clone, Copy)]
struct Kind {
    /// Elements of a head.
    size: usize,
    window: Option<usize>,
    rotary: (usize, Rotation),
}

/// Where keys and values of a layer come from.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// From the layer.
    Own,
    /// From it, and later layers use them.
    Left,
    /// From an earlier one.
    Recalled,
}

/// Of layers of two kinds, of which those from `first_shared` on take keys and values of earlier
/// ones.
pub(super) fn source_of(windowed: &[bool], first_shared: usize, layer: usize) -> Source {
    let is_like = |other: &bool| *other == windowed[layer];
    let last = windowed[..first_shared].iter().rposition(is_like);
    match layer >= first_shared {
        true => Source::Recalled,
        false if last == Some(layer) && first_shared < windowed.len() => Source::Left,
        false => Source::Own,
    }
}

/// Experts, how many a token is given to, and numbers between their products.
type Mixture = Option<(Router, usize)>;

/// Sizes of all layers, and of each.
struct Model {
    hidden: usize,
    epsilon: f32,
    /// Numbers that each token has of its own in each layer; none if zero.
    own: usize,
    mixture: Mixture,
    heads: Vec<usize>,
    key_value_heads: Vec<usize>,
    widths: Vec<usize>,
    windowed: Vec<bool>,
    /// The first layer that takes keys and values of earlier ones.
    first_shared: usize,
    full: Kind,
    sliding: Kind,
    /// Values are what keys are before they are normed, on layers that see all positions.
    keys_are_values: bool,
}

/// Gemma 4.
pub(super) fn gemma4(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let model = Model::read(keys)?;
    let layers = (0..model.windowed.len()).map(|layer| model.layer(layer));
    const BASE: &str = "rope.freq_base_swa";
    let base = keys.factor(BASE)?.ok_or_else(|| keys.fault(BASE, "is missing"))?;
    let rotaries = vec![
        Rotary::read(keys, model.full.rotary.1.count)?,
        Rotary::plain(model.sliding.rotary.1.count, base),
    ];
    let around = Around {
        embedding_scale: Some((model.hidden as f32).sqrt()),
        logit_cap: keys.factor("final_logit_softcapping")?,
        ..Around::plain(model.epsilon)
    };
    Ok(ModelGraph { hidden: model.hidden, layers: layers.collect(), rotaries, around })
}

impl Model {
    fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        const EPSILON: &str = "attention.layer_norm_rms_epsilon";
        const KINDS: &str = "attention.sliding_window_pattern";
        const HEADS: &str = "attention.head_count_kv";
        const SHARED: &str = "attention.shared_kv_layers";
        let layers = keys.layers()?;
        let missing = |key: &str| keys.fault(key, "is missing");
        let windowed = keys.flags(KINDS, layers)?.ok_or_else(|| missing(KINDS))?;
        let window = keys.window()?.ok_or_else(|| missing("attention.sliding_window"))?;
        let heads = keys.sizes("attention.head_count", layers)?;
        let key_value_heads = keys.sizes(HEADS, layers)?;
        let fit = |(heads, own): (&usize, &usize)| *own > 0 && heads.is_multiple_of(*own);
        if !heads.iter().zip(&key_value_heads).all(fit) {
            return Err(keys.fault(HEADS, "does not divide the heads"));
        }
        let shared = keys.size(SHARED)?.unwrap_or(0);
        let first_shared = layers.checked_sub(shared).filter(|first| *first > 0);
        let first_shared = first_shared.ok_or_else(|| keys.fault(SHARED, "is all layers"))?;
        let (own, others) = windowed.split_at(first_shared);
        if others.iter().any(|kind| !own.contains(kind)) {
            return Err(keys.fault(SHARED, "leaves no layer of a kind that has its own"));
        }
        let mixture = match decoder::experts(keys)? {
            None => None,
            Some((experts, used)) => {
                let width = keys.required("expert_feed_forward_length")?;
                Some((Router::plain(experts, used), width))
            }
        };
        Ok(Self {
            hidden: keys.required("embedding_length")?,
            epsilon: keys.number(EPSILON)?.ok_or_else(|| missing(EPSILON))?,
            own: keys.size("embedding_length_per_layer_input")?.unwrap_or(0),
            mixture,
            heads,
            keys_are_values: keys.is_list(HEADS),
            key_value_heads,
            widths: keys.sizes("feed_forward_length", layers)?,
            windowed,
            first_shared,
            full: Kind::read(keys, "", 0, None)?,
            sliding: Kind::read(keys, "_swa", 1, Some(window))?,
        })
    }

    fn layer(&self, number: usize) -> LayerGraph {
        let epsilon = self.epsilon;
        let mut layer = LayerBuilder::new(self.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, epsilon);
        let attended = self.attended(&mut layer, normed, number);
        let attended = layer.norm(attended, Role::PostAttentionNorm, epsilon);
        layer.add(attended);
        let fed = self.fed(&mut layer, self.widths[number]);
        let fed = layer.norm(fed, Role::PostFeedForwardNorm, epsilon);
        layer.add(fed);
        if self.own > 0 {
            let gate = layer.product(Register::HIDDEN, Role::PerLayerGate, self.own);
            let own = layer.of_token(self.own, epsilon);
            layer.activate(Activation::GeluTanh, gate, own);
            let rows = layer.product(gate, Role::PerLayerOutput, self.hidden);
            let rows = layer.norm(rows, Role::PerLayerNorm, epsilon);
            layer.add(rows);
        }
        layer.scale_by(Register::HIDDEN, Role::LayerScale);
        layer.finish()
    }

    /// Adds attention; the products of its output matrix.
    fn attended(&self, layer: &mut LayerBuilder, input: Register, number: usize) -> Register {
        let is_windowed = self.windowed[number];
        let kind = if is_windowed { self.sliding } else { self.full };
        let size = kind.size;
        let attention = Attention {
            scale: 1.0,
            window: kind.window,
            ..Attention::plain(self.heads[number], self.key_value_heads[number], size)
        };
        let slots = if is_windowed { [Slot(0), Slot(1)] } else { [Slot(2), Slot(3)] };
        let (source, width) =
            (source_of(&self.windowed, self.first_shared, number), attention.key_width());
        let takes_keys = self.keys_are_values && !is_windowed;
        let mut members = vec![(Role::AttentionQuery, attention.query_width())];
        if source != Source::Recalled {
            members.push((Role::AttentionKey, width));
            match takes_keys {
                true => layer.without(Role::AttentionValue),
                false => members.push((Role::AttentionValue, width)),
            }
        }
        let rows = layer.linear(input, &members);
        let (rotary, rotation) = kind.rotary;
        layer.head_norm(rows[0], Role::AttentionQueryNorm, size, self.epsilon);
        layer.rotate(rows[0], rotary, rotation);
        let [keys, values] = match source {
            Source::Recalled => slots.map(|slot| layer.recall(slot, width)),
            Source::Own | Source::Left => {
                let keys = rows[1];
                let values = match takes_keys {
                    true => layer.columns(keys, 0..width),
                    false => rows[2],
                };
                layer.head_norm(keys, Role::AttentionKeyNorm, size, self.epsilon);
                layer.rotate(keys, rotary, rotation);
                layer.bare_head_norm(values, size, self.epsilon);
                [keys, values]
            }
        };
        if source == Source::Left {
            [keys, values].into_iter().zip(slots).for_each(|(rows, slot)| layer.leave(rows, slot));
        }
        let attended = layer.attend([rows[0], keys, values], attention, None);
        layer.product(attended, Role::AttentionOutput, self.hidden)
    }

    /// Adds the network, and experts beside it: these see the hidden states as they are, and
    /// are chosen by them.
    fn fed(&self, layer: &mut LayerBuilder, width: usize) -> Register {
        let (epsilon, activation) = (self.epsilon, Activation::GeluTanh);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, epsilon);
        let Some((routing, expert_width)) = self.mixture else {
            return decoder::gated(layer, normed, width, activation);
        };
        let fed = decoder::shared_expert_of(layer, normed, width, activation);
        let fed = layer.norm(fed, Role::PostSharedExpertNorm, epsilon);
        let scored = layer.norm(Register::HIDDEN, Role::ExpertRouterNorm, epsilon);
        layer.scale(scored, 1.0 / (self.hidden as f32).sqrt());
        let given = layer.norm(Register::HIDDEN, Role::ExpertsNorm, epsilon);
        let scale = Some(layer.vector(Role::ExpertScale, routing.experts));
        let (width, form) = (expert_width, ExpertForm::Fused);
        let kind = ExpertKind { routing, bias: None, scale, width, activation, form };
        let answers = layer.experts_of(given, scored, kind);
        let answers = layer.norm(answers, Role::PostExpertsNorm, epsilon);
        layer.add_to(answers, fed);
        answers
    }
}

impl Kind {
    /// Reads what keys with this ending say.
    fn read(
        keys: &Keys<'_>,
        ending: &str,
        rotary: usize,
        window: Option<usize>,
    ) -> Result<Self, Error> {
        let size = keys.required(&format!("attention.key_length{ending}"))?;
        let value = format!("attention.value_length{ending}");
        if keys.required(&value)? != size {
            return Err(keys.fault(&value, "differs from the keys' length"));
        }
        let key = format!("rope.dimension_count{ending}");
        let count = keys.size(&key)?.unwrap_or(size);
        if count == 0 || count > size || !count.is_multiple_of(2) {
            return Err(keys.fault(&key, "is odd, zero, or more than a head has elements"));
        }
        let rotation = Rotation { head_size: size, first: 0, count, pairs: RotaryPairs::Halves };
        Ok(Self { size, window, rotary: (rotary, rotation) })
    }
}
