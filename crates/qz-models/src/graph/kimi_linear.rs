//! Kimi Linear: the gated delta rule, whose decay is one of each number of a key, and in some
//! layers DeepSeek's attention, in which nothing turns.

use qz_kernels::backend::{Activation, Delta, Gating, Recurrence};

use super::deepseek::Latent;
use super::mixture::{self, Mixture};
use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register, decoder};
use crate::error::Error;
use crate::rules::{Part, Role};

/// The delta rule's sizes.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    /// Numbers of a head of queries, keys and values.
    size: usize,
    /// Tokens that a convolution sees.
    taps: usize,
    epsilon: f32,
}

/// Kimi Linear.
pub(super) fn kimi_linear(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let layers = keys.layers()?;
    // Layers with the delta rule have no heads of keys.
    let heads = keys.sizes("attention.head_count_kv", layers)?;
    let latent = Latent::read_still(keys)?;
    let sizes = latent.sizes;
    let delta = Sizes {
        heads: sizes.heads,
        size: keys.required("kda.head_dim")?,
        taps: keys.required("ssm.conv_kernel")?,
        epsilon: sizes.epsilon,
    };
    let mixture = Mixture::read(keys, Gating::Sigmoid)?.map(Mixture::normalized);
    let dense = mixture::dense_layers(keys, mixture.is_some())?;
    let layer = |(number, heads): (usize, &usize)| -> LayerGraph {
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let mixed = match *heads {
            0 => delta.add_to(&mut layer, normed),
            _ => latent.attention(&mut layer, normed),
        };
        layer.add(mixed);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = match mixture.as_ref().filter(|_| number >= dense) {
            None => decoder::gated(&mut layer, normed, sizes.intermediate, Activation::Silu),
            Some(mixture) => mixture.add_to(&mut layer, normed),
        };
        layer.add(fed);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: heads.iter().enumerate().map(layer).collect(),
        rotaries: Vec::new(),
        around: Around::plain(sizes.epsilon),
    })
}

impl Sizes {
    /// Adds it to a layer; the products of its output matrix.
    fn add_to(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let Self { heads, size, taps, epsilon } = *self;
        let inner = heads * size;
        let members = [
            (Role::AttentionQuery, inner),
            (Role::AttentionKey, inner),
            (Role::AttentionValue, inner),
            (Role::StateSpaceNarrowStep, size),
            (Role::StateSpaceNarrowGate, size),
            (Role::StateSpaceStrength, heads),
        ];
        let rows = layer.linear(input, &members);
        let convolutions = [Role::QueryConvolution, Role::KeyConvolution, Role::ValueConvolution];
        let mut inputs: Vec<Register> = rows
            .iter()
            .zip(convolutions)
            .map(|(rows, role)| layer.convolve(*rows, role, taps, true))
            .collect();
        inputs.push(layer.product(rows[3], Role::StateSpaceStep, inner));
        inputs.push(rows[5]);
        let delta = Delta {
            key_heads: heads,
            value_heads: heads,
            key_size: size,
            value_size: size,
            takes_turns: false,
            decays_by_number: true,
        };
        let weights =
            [(Role::StateSpaceTimeStep, Part::Bias), (Role::StateSpaceDecay, Part::Weight)];
        let answers = layer.recur(Recurrence::Delta(delta), inputs, &weights);
        layer.head_norm(answers, Role::StateSpaceNorm, size, epsilon);
        let gate = layer.product(rows[4], Role::StateSpaceGate, inner);
        layer.activate(Activation::Sigmoid, gate, answers);
        layer.product(gate, Role::AttentionOutput, layer.hidden())
    }
}
