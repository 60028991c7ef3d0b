//! Mamba 2: layers that have a state space in the place of attention, and nothing else.

use qz_kernels::backend::Scan;

use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, Register};
use crate::error::Error;
use crate::rules::Role;

/// Mamba 2.
pub(super) fn mamba2(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let hidden = keys.required("embedding_length")?;
    let epsilon = keys
        .number("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| keys.fault("attention.layer_norm_rms_epsilon", "is missing"))?;
    let scan = scan(keys)?;
    let layer = |_| -> LayerGraph {
        let mut layer = LayerBuilder::new(hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, epsilon);
        let product = scanned(&mut layer, normed, scan, epsilon);
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

/// Adds a state space to a layer; the products of its output matrix.
pub(super) fn scanned(
    layer: &mut LayerBuilder,
    input: Register,
    scan: Scan,
    epsilon: f32,
) -> Register {
    let rows = layer.product(input, Role::StateSpaceInput, scan.width());
    let seen = layer.scan(rows, scan);
    layer.group_norm(seen, Role::StateSpaceNorm, scan.groups, epsilon);
    layer.product(seen, Role::StateSpaceOutput, layer.hidden())
}

/// A state space's shape.
pub(super) fn scan(keys: &Keys<'_>) -> Result<Scan, Error> {
    let inner = keys.required("ssm.inner_size")?;
    let heads = keys.required("ssm.time_step_rank")?;
    let groups = keys.required("ssm.group_count")?;
    if !inner.is_multiple_of(heads) {
        return Err(keys.fault("ssm.time_step_rank", "does not divide ssm.inner_size"));
    }
    if !heads.is_multiple_of(groups) {
        return Err(keys.fault("ssm.group_count", "does not divide ssm.time_step_rank"));
    }
    Ok(Scan {
        heads,
        head_size: inner / heads,
        groups,
        state_size: keys.required("ssm.state_size")?,
        taps: keys.required("ssm.conv_kernel")?,
    })
}
