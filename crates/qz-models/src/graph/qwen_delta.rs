//! Qwen 3.5 and Qwen 3 Next: most layers have the gated delta rule in the place of attention,
//! and what attention gives is weakened by a gate of each number.

use qz_kernels::backend::{Activation, Delta, Recurrence, RotaryPairs, Rotation, Router};

use super::decoder::{self, Sizes};
use super::further::Further;
use super::{Around, HeadColumns, Keys, LayerBuilder, ModelGraph, Register, Rotary};
use crate::error::Error;
use crate::rules::{Part, Role};

/// How a layer with the delta rule is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Qwen 3.5: heads of values take turns with those of keys.
    Apart,
    /// Qwen 3 Next: strengths and time steps are products of one matrix, and heads of values
    /// that share one of keys are neighbours.
    Together,
}

/// Qwen 3.5.
pub(super) fn qwen35(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    model(keys, Form::Apart, None)
}

/// Qwen 3.5 with experts.
pub(super) fn qwen35moe(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    model(keys, Form::Apart, Some(Mixture::read(keys)?))
}

/// Qwen 3 Next.
pub(super) fn qwen3next(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    model(keys, Form::Together, Some(Mixture::read(keys)?))
}

/// Experts of every layer, and the one that every token is given to.
struct Mixture {
    router: Router,
    width: usize,
    shared: usize,
}

impl Mixture {
    fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        let Some((experts, used)) = decoder::experts(keys)? else {
            return Err(keys.fault("expert_count", "is missing"));
        };
        Ok(Self {
            router: Router::plain(experts, used),
            width: keys.required("expert_feed_forward_length")?,
            shared: keys.required("expert_shared_feed_forward_length")?,
        })
    }
}

fn model(keys: &Keys<'_>, form: Form, mixture: Option<Mixture>) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let rotated = sizes.rotated(keys)?;
    let (delta, taps) = delta(keys, form)?;
    let recurrent = recurrent_layers(keys, keys.computed_layers()?)?;
    let rotation = sizes.rotation(rotated, RotaryPairs::Halves);
    let block = |number: usize, layer: &mut LayerBuilder| {
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        // Layers that predict further tokens attend.
        let mixed = match recurrent.get(number).copied().unwrap_or(false) {
            true => corrected(layer, normed, &delta, taps, form, sizes.epsilon),
            false => attended(layer, normed, &sizes, rotation),
        };
        layer.add(mixed);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = match &mixture {
            None => decoder::gated(layer, normed, sizes.intermediate, Activation::Silu),
            Some(Mixture { router, width, shared }) => {
                let common = decoder::shared_expert(layer, normed, *shared);
                let score = layer.product(normed, Role::SharedExpertRouter, 1);
                layer.weigh(common, score);
                let fed = layer.experts(normed, *router, None, *width, Activation::Silu);
                layer.add_to(fed, common);
                fed
            }
        };
        layer.add(fed);
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: Further::plain(sizes.epsilon).behind(keys, sizes.hidden, block)?,
        rotaries: vec![Rotary::read(keys, rotated)?],
        around: Around::plain(sizes.epsilon),
    })
}

/// Which layers have the delta rule: as a list says, or all but the last of so many.
fn recurrent_layers(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>, Error> {
    const INTERVAL: &str = "full_attention_interval";
    if let Some(flags) = keys.flags("attention.recurrent_layers", layers)? {
        return Ok(flags);
    }
    let interval = keys.size(INTERVAL)?.unwrap_or(4);
    if interval == 0 {
        return Err(keys.fault(INTERVAL, "is zero"));
    }
    Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect())
}

/// The delta rule's shape, and how many tokens the convolution before it sees.
fn delta(keys: &Keys<'_>, form: Form) -> Result<(Delta, usize), Error> {
    let (inner, heads) = (keys.required("ssm.inner_size")?, keys.required("ssm.time_step_rank")?);
    let key_heads = keys.required("ssm.group_count")?;
    if !inner.is_multiple_of(heads) {
        return Err(keys.fault("ssm.time_step_rank", "does not divide ssm.inner_size"));
    }
    if !heads.is_multiple_of(key_heads) {
        return Err(keys.fault("ssm.group_count", "does not divide ssm.time_step_rank"));
    }
    let delta = Delta {
        key_heads,
        value_heads: heads,
        key_size: keys.required("ssm.state_size")?,
        value_size: inner / heads,
        takes_turns: form == Form::Apart,
        decays_by_number: false,
    };
    Ok((delta, keys.required("ssm.conv_kernel")?))
}

/// Adds the delta rule to a layer; the products of its output matrix.
fn corrected(
    layer: &mut LayerBuilder,
    input: Register,
    delta: &Delta,
    taps: usize,
    form: Form,
    epsilon: f32,
) -> Register {
    let Delta { key_heads, value_heads, key_size, value_size, .. } = *delta;
    let (of_keys, of_values) = (key_heads * key_size, value_heads * value_size);
    let all = 2 * of_keys + of_values;
    let both = [(Role::StateSpaceInput, all), (Role::StateSpaceGate, of_values)];
    let (rows, steps, strengths) = match form {
        Form::Apart => {
            let own =
                [(Role::StateSpaceStep, value_heads), (Role::StateSpaceStrength, value_heads)];
            let rows = layer.linear(input, &[both, own].concat());
            let (steps, strengths) = (rows[2], rows[3]);
            (rows, steps, strengths)
        }
        Form::Together => {
            let own = (Role::StateSpaceStrengthStep, 2 * value_heads);
            let rows = layer.linear(input, &[&both[..], &[own]].concat());
            let (size, half) = (2 * value_heads / key_heads, value_heads / key_heads);
            let part = |columns| vec![HeadColumns { rows: rows[2], size, columns }];
            let strengths = layer.join(key_heads, part(0..half));
            let steps = layer.join(key_heads, part(half..size));
            (rows, steps, strengths)
        }
    };
    let seen = layer.convolve(rows[0], Role::StateSpaceConvolution, taps, true);
    let queries = layer.columns(seen, 0..of_keys);
    let keys = layer.columns(seen, of_keys..2 * of_keys);
    let values = layer.columns(seen, 2 * of_keys..all);
    let weights = [(Role::StateSpaceTimeStep, Part::Bias), (Role::StateSpaceDecay, Part::Weight)];
    let inputs = vec![queries, keys, values, steps, strengths];
    let answers = layer.recur(Recurrence::Delta(*delta), inputs, &weights);
    layer.head_norm(answers, Role::StateSpaceNorm, value_size, epsilon);
    let gate = rows[1];
    layer.activate(Activation::Silu, gate, answers);
    layer.product(gate, Role::StateSpaceOutput, layer.hidden())
}

/// Adds attention to a layer; the products of its output matrix. Of each head's queries the
/// second half is a gate.
fn attended(
    layer: &mut LayerBuilder,
    input: Register,
    sizes: &Sizes,
    rotation: Rotation,
) -> Register {
    let attention = sizes.attention();
    let (heads, size) = (attention.heads, attention.key_size);
    let members = [
        (Role::AttentionQuery, 2 * attention.query_width()),
        (Role::AttentionKey, attention.key_width()),
        (Role::AttentionValue, attention.value_width()),
    ];
    let rows = layer.linear(input, &members);
    let half = |columns| vec![HeadColumns { rows: rows[0], size: 2 * size, columns }];
    let queries = layer.join(heads, half(0..size));
    let gate = layer.join(heads, half(size..2 * size));
    for (rows, norm) in [(queries, Role::AttentionQueryNorm), (rows[1], Role::AttentionKeyNorm)] {
        layer.head_norm(rows, norm, size, sizes.epsilon);
        layer.rotate(rows, 0, rotation);
    }
    let attended = layer.attend([queries, rows[1], rows[2]], attention, None);
    layer.activate(Activation::Sigmoid, gate, attended);
    layer.product(gate, Role::AttentionOutput, layer.hidden())
}
