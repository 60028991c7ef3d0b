//! Mamba 1 and FalconMamba: states that decay as fast as each token says, and nothing else.

use qz_kernels::backend::{Activation, Recurrence, Selective};

use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register};
use crate::error::Error;
use crate::rules::{Part, Role};

/// Mamba 1.
pub(super) fn mamba(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let hidden = keys.required("embedding_length")?;
    let epsilon = keys
        .number("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| keys.fault("attention.layer_norm_rms_epsilon", "is missing"))?;
    let (inner, taps) = (keys.required("ssm.inner_size")?, keys.required("ssm.conv_kernel")?);
    let state_size = keys.required("ssm.state_size")?;
    let rank = keys.required("ssm.time_step_rank")?;
    // transformers' epsilon; ggml takes the layers' own.
    const PARTS_EPSILON: f32 = 1e-6;
    let norms_parts = keys.flag("ssm.dt_b_c_rms")?.unwrap_or(false);
    let shape = Recurrence::Selective(Selective { width: inner, state_size });
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, epsilon);
        let both = layer.product(normed, Role::StateSpaceInput, 2 * inner);
        let (rows, gate) = (layer.columns(both, 0..inner), layer.columns(both, inner..2 * inner));
        let seen = layer.convolve(rows, Role::StateSpaceConvolution, taps, true);
        let parts = layer.product(seen, Role::StateSpaceParts, rank + 2 * state_size);
        let step = layer.columns(parts, 0..rank);
        let write = layer.columns(parts, rank..rank + state_size);
        let read = layer.columns(parts, rank + state_size..rank + 2 * state_size);
        if norms_parts {
            [step, write, read].into_iter().for_each(|part| layer.bare_norm(part, PARTS_EPSILON));
        }
        let steps = layer.product(step, Role::StateSpaceTimeStep, inner);
        let weights = [(Role::StateSpaceDecay, Part::Weight), (Role::StateSpaceSkip, Part::Weight)];
        let scanned = layer.recur(shape, vec![seen, steps, write, read], &weights);
        layer.activate(Activation::Silu, gate, scanned);
        let product = layer.product(gate, Role::StateSpaceOutput, hidden);
        layer.add(product);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden,
        layers: (0..keys.layers()?).map(layer).collect(),
        rotaries: Vec::new(),
        around: Around::plain(epsilon),
    })
}
