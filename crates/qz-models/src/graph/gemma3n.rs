//! Gemma 3n: four streams of hidden states, of which one goes through attention and network. Each
//! layer predicts what becomes of the streams, and corrects that by what came of the one (AltUp);
//! the others are handed on from layer to layer in a slot. Keys and values are shared as in
//! Gemma 4. A network's gate counts as far as it stands out among its numbers: their standard
//! deviation is transformers', of all of them; ggml divides by one less.

use qz_kernels::backend::{Activation, Attention, RotaryPairs, Rotation, Rowwise};

use super::decoder::Sizes;
use super::gemma4::{Source, source_of};
use super::{
    Around, HeadColumns, Keys, LayerBuilder, LayerGraph, ModelGraph, NormKind, Register, Rotary,
    Slot,
};
use crate::error::Error;
use crate::rules::Role;

/// Streams.
const STREAMS: usize = 4;
/// Width of the branch of low rank: files do not say it.
const RANK: usize = 64;
/// Where all streams but the first are between layers.
const OTHERS: Slot = Slot(0);

/// Sizes of all layers, and of each.
struct Model {
    sizes: Sizes,
    /// Numbers that each token has of its own in each layer.
    own: usize,
    widths: Vec<usize>,
    windowed: Vec<bool>,
    window: usize,
    /// The first layer that takes keys and values of earlier ones.
    first_shared: usize,
    /// How far a gate's number has to stand out, in standard deviations; not at all if it is not
    /// finite.
    deviations: Vec<f32>,
    rotation: Rotation,
}

/// Gemma 3n.
pub(super) fn gemma3n(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let model = Model::read(keys)?;
    let count = model.rotation.count;
    let base = keys.factor("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let rotaries = vec![Rotary::read(keys, count)?, Rotary::plain(count, base)];
    let hidden = model.sizes.hidden;
    let around = Around {
        embedding_scale: Some((hidden as f32).sqrt()),
        logit_cap: keys.factor("final_logit_softcapping")?,
        ..Around::plain(model.sizes.epsilon)
    };
    let layers = (0..model.sizes.layers).map(|layer| model.layer(layer)).collect();
    Ok(ModelGraph { hidden, layers, rotaries, around })
}

impl Model {
    fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        const KINDS: &str = "attention.sliding_window_pattern";
        const SHARED: &str = "attention.shared_kv_layers";
        const DEVIATIONS: &str = "activation_sparsity_scale";
        let layers = keys.layers()?;
        let widths = keys.sizes("feed_forward_length", layers)?;
        let widest = widths.iter().copied().max().unwrap_or(0);
        let key_value_heads = keys.size("attention.head_count_kv")?;
        let sizes = Sizes::with_widths(keys, NormKind::RootMeanSquare, key_value_heads, widest)?;
        if keys.size("attention.value_length")?.is_some_and(|size| size != sizes.head_size) {
            return Err(keys.fault("attention.value_length", "differs from the keys' length"));
        }
        let missing = |key: &str| keys.fault(key, "is missing");
        if keys.size("altup.num_inputs")?.is_some_and(|count| count != STREAMS) {
            return Err(keys.fault("altup.num_inputs", "is not 4"));
        }
        if keys.size("altup.active_idx")?.is_some_and(|active| active != 0) {
            return Err(keys.fault("altup.active_idx", "is not 0"));
        }
        let windowed = keys.flags(KINDS, layers)?.ok_or_else(|| missing(KINDS))?;
        let shared = keys.size(SHARED)?.unwrap_or(0);
        let first_shared = layers.checked_sub(shared).filter(|first| *first > 0);
        let first_shared = first_shared.ok_or_else(|| keys.fault(SHARED, "is all layers"))?;
        let (own, others) = windowed.split_at(first_shared);
        if others.iter().any(|kind| !own.contains(kind)) {
            return Err(keys.fault(SHARED, "leaves no layer of a kind that has its own"));
        }
        let deviations = keys.list(DEVIATIONS).filter(|own| own.len() == layers);
        let deviations = deviations.ok_or_else(|| {
            keys.fault(DEVIATIONS, &format!("is no list of {layers} numbers, one for each layer"))
        })?;
        if deviations.iter().any(|own| own.is_nan() || *own == f32::INFINITY) {
            return Err(keys.fault(DEVIATIONS, "has what is no number"));
        }
        let rotated = sizes.rotated(keys)?;
        Ok(Self {
            own: keys.required("embedding_length_per_layer_input")?,
            widths,
            windowed,
            window: keys.window()?.ok_or_else(|| missing("attention.sliding_window"))?,
            first_shared,
            deviations: deviations.to_vec(),
            rotation: sizes.rotation(rotated, RotaryPairs::Halves),
            sizes,
        })
    }

    fn layer(&self, number: usize) -> LayerGraph {
        let Sizes { hidden, epsilon, .. } = self.sizes;
        let mut layer = LayerBuilder::new(hidden);
        let others = match number {
            0 => self.first_others(&mut layer),
            _ => layer.recall(OTHERS, (STREAMS - 1) * hidden),
        };
        let streams = joined(&mut layer, &[(Register::HIDDEN, 1), (others, STREAMS - 1)], hidden);
        let mixing = self.mixing(&mut layer, Register::HIDDEN, Role::StreamPrediction);
        let combine = Rowwise::Combine { size: hidden };
        let predicted = layer.rowwise(combine, &[streams, streams, mixing]);
        let active = layer.columns(predicted, 0..hidden);
        let done = self.transformed(&mut layer, active, number);

        // What was predicted, corrected by how far the one stream was off.
        let mixing = self.mixing(&mut layer, done, Role::StreamCorrection);
        layer.subtract_from(done, active);
        let each = joined(&mut layer, &[(done, 1); STREAMS], hidden);
        layer.add_to(predicted, each);
        let corrected = layer.rowwise(combine, &[predicted, done, mixing]);

        let first = layer.columns(corrected, 0..hidden);
        let scaled = layer.rowwise_with(Rowwise::Times, first, Role::StreamScale, hidden);
        let gate = layer.product(scaled, Role::PerLayerGate, self.own);
        let own = layer.of_token(self.own, epsilon);
        layer.activate(Activation::GeluTanh, gate, own);
        let rows = layer.product(gate, Role::PerLayerOutput, hidden);
        let rows = layer.norm(rows, Role::PerLayerNorm, epsilon);
        let each = joined(&mut layer, &[(rows, 1); STREAMS - 1], hidden);
        let others = layer.columns(corrected, hidden..STREAMS * hidden);
        layer.add_to(others, each);
        layer.replace_hidden(first);
        match number + 1 == self.sizes.layers {
            true => self.merge(&mut layer, others),
            false => layer.leave(others, OTHERS),
        }
        layer.finish()
    }

    /// All streams but the first, made of it, each as long as it is.
    fn first_others(&self, layer: &mut LayerBuilder) -> Register {
        let others = self.each_other(layer, Register::HIDDEN, Role::StreamProjection);
        layer.rowwise(Rowwise::Match, &[others, Register::HIDDEN])
    }

    /// The mean of the first stream and what is made of the others, each as long as it is.
    fn merge(&self, layer: &mut LayerBuilder, others: Register) {
        let hidden = self.sizes.hidden;
        let others = self.each_other(layer, others, Role::StreamOutput);
        let others = layer.rowwise(Rowwise::Match, &[others, Register::HIDDEN]);
        for stream in 0..STREAMS - 1 {
            let own = layer.columns(others, stream * hidden..(stream + 1) * hidden);
            layer.add(own);
        }
        layer.scale(Register::HIDDEN, 1.0 / STREAMS as f32);
    }

    fn each_other(&self, layer: &mut LayerBuilder, from: Register, role: Role) -> Register {
        let (count, hidden) = (STREAMS - 1, self.sizes.hidden);
        let operation = Rowwise::Project { count, rows: hidden, columns: hidden };
        layer.rowwise_with(operation, from, role, count * hidden * hidden)
    }

    /// What streams are multiplied with, made of one of them.
    fn mixing(&self, layer: &mut LayerBuilder, from: Register, role: Role) -> Register {
        let Sizes { hidden, epsilon, .. } = self.sizes;
        let normed = layer.norm(from, Role::StreamRouterNorm, epsilon);
        layer.scale(normed, 1.0 / hidden as f32);
        let router = Rowwise::Project { count: 1, rows: STREAMS, columns: hidden };
        let routed = layer.rowwise_with(router, normed, Role::StreamRouter, STREAMS * hidden);
        layer.activate_alone(Activation::Tanh, routed);
        let rows = if role == Role::StreamPrediction { STREAMS * STREAMS } else { STREAMS };
        let operation = Rowwise::Project { count: 1, rows, columns: STREAMS };
        layer.rowwise_with(operation, routed, role, rows * STREAMS)
    }

    /// Attention, the branch of low rank beside it, and the network.
    fn transformed(&self, layer: &mut LayerBuilder, active: Register, number: usize) -> Register {
        let Sizes { hidden, epsilon, .. } = self.sizes;
        let normed = layer.norm(active, Role::AttentionNorm, epsilon);
        let narrow = layer.product(normed, Role::LowRankDown, RANK);
        let branch = layer.product(narrow, Role::LowRankUp, hidden);
        let branch = layer.norm(branch, Role::LowRankNorm, epsilon);
        layer.add_to(branch, normed);
        let attended = self.attended(layer, normed, number);
        let done = layer.norm(attended, Role::PostAttentionNorm, epsilon);
        layer.add_to(done, active);
        layer.add_to(done, branch);
        layer.scale(done, std::f32::consts::FRAC_1_SQRT_2);
        let normed = layer.norm(done, Role::FeedForwardNorm, epsilon);
        let width = self.widths[number];
        let members = [(Role::FeedForwardGate, width), (Role::FeedForwardUp, width)];
        let rows = layer.linear(normed, &members);
        let mut gate = rows[0];
        let deviations = self.deviations[number];
        if deviations.is_finite() {
            gate = layer.rowwise(Rowwise::Exceed { deviations }, &[gate]);
        }
        layer.activate(Activation::GeluTanh, gate, rows[1]);
        let fed = layer.product(gate, Role::FeedForwardDown, hidden);
        let fed = layer.norm(fed, Role::PostFeedForwardNorm, epsilon);
        layer.add_to(fed, done);
        fed
    }

    /// Adds attention; the products of its output matrix.
    fn attended(&self, layer: &mut LayerBuilder, input: Register, number: usize) -> Register {
        let Sizes { hidden, head_size, epsilon, .. } = self.sizes;
        let is_windowed = self.windowed[number];
        let window = is_windowed.then_some(self.window);
        let attention = Attention { scale: 1.0, window, ..self.sizes.attention() };
        let slots = if is_windowed { [Slot(1), Slot(2)] } else { [Slot(3), Slot(4)] };
        let source = source_of(&self.windowed, self.first_shared, number);
        let width = attention.key_width();
        let mut members = vec![(Role::AttentionQuery, attention.query_width())];
        if source != Source::Recalled {
            members.extend([(Role::AttentionKey, width), (Role::AttentionValue, width)]);
        }
        let rows = layer.linear(input, &members);
        let rotary = usize::from(is_windowed);
        layer.head_norm(rows[0], Role::AttentionQueryNorm, head_size, epsilon);
        layer.rotate(rows[0], rotary, self.rotation);
        let [keys, values] = match source {
            Source::Recalled => slots.map(|slot| layer.recall(slot, width)),
            Source::Own | Source::Left => {
                layer.head_norm(rows[1], Role::AttentionKeyNorm, head_size, epsilon);
                layer.rotate(rows[1], rotary, self.rotation);
                layer.bare_head_norm(rows[2], head_size, epsilon);
                [rows[1], rows[2]]
            }
        };
        if source == Source::Left {
            [keys, values].into_iter().zip(slots).for_each(|(rows, slot)| layer.leave(rows, slot));
        }
        let attended = layer.attend([rows[0], keys, values], attention, None);
        layer.product(attended, Role::AttentionOutput, hidden)
    }
}

/// Registers beside each other, each of so many parts.
fn joined(layer: &mut LayerBuilder, parts: &[(Register, usize)], size: usize) -> Register {
    let part = |(rows, count): &(Register, usize)| {
        let size = count * size;
        HeadColumns { rows: *rows, size, columns: 0..size }
    };
    layer.join(1, parts.iter().map(part).collect())
}
