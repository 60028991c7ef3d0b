//! Which tensors the method is used on.

use std::collections::{HashMap, HashSet};

use qz_kernels::backend::Backend;
use qz_kernels::codec_for;
use qz_methods::Target;
use qz_models::forward::Forward;
use qz_models::{LayerIndex, Role};
use qz_tensor::DataType;

use super::QuantizeOptions;
use super::known::Known;
use crate::convert::Output;
use crate::error::Error;
use crate::format::TargetPlan;
use crate::model::{Model, ModelTensor};
use crate::model_weights::ModelWeights;
use crate::planning::importance_of;

/// The matrices of decoder layers that the method chooses values for, and the output
/// matrix.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    positions: HashSet<usize>,
    /// By the tensor's name: its position.
    names: HashMap<String, usize>,
    /// The matrix that gives logits, and its type.
    pub(super) output: Option<(usize, DataType)>,
    /// The token embedding, where `convert` encodes it and it is no output matrix: one that is
    /// gets a finer type, and to begin with it did not help (QUALITY.md).
    embedding: Option<usize>,
    /// Layers that only predict further tokens, of which the statistics have nothing: they are
    /// rounded.
    unseen: Vec<LayerIndex>,
}

impl Chosen {
    pub(super) fn of<B: Backend>(
        forward: &Forward<'_, B, ModelWeights<'_>>,
        model: &Model,
        output: &Output,
        plan: &TargetPlan,
        known: Option<&Known>,
    ) -> Result<Self, Error> {
        let mut chosen = Self::default();
        let by_name: HashMap<&str, usize> = model
            .tensors
            .iter()
            .enumerate()
            .map(|(at, tensor)| (tensor.name.as_str(), at))
            .collect();
        let is_chosen = |position: usize| has_values(model, plan, position);
        for layer in (0..forward.graph().layer_count()).map(LayerIndex) {
            if Self::is_unseen(forward, layer, known)? {
                chosen.unseen.push(layer);
                continue;
            }
            for matrix in forward.graph().layer(layer).rounded() {
                let (name, _) = forward.stored(layer, matrix)?;
                let position = by_name.get(name.as_str()).copied();
                if let Some(position) = position.filter(|position| is_chosen(*position)) {
                    chosen.positions.insert(position);
                    chosen.names.insert(name, position);
                }
            }
        }
        // A token embedding that serves as output matrix is encoded as `convert` does it, and
        // so is an output matrix that is stored in parts.
        let (name, _) = forward.stored_output()?;
        let last = by_name.get(name.as_str()).copied();
        let is_tied = forward.is_output_tied()?;
        let is_rounded = |at: usize| is_tied || plan.packed(at).is_some();
        if let Some(position) = last.filter(|at| is_chosen(*at) && !is_rounded(*at)) {
            chosen.positions.insert(position);
            chosen.output = Some((position, plan.assignments[position].data_type));
        }
        let (name, _) = forward.stored_embedding()?;
        chosen.embedding = by_name.get(name.as_str()).copied().filter(|position| {
            let data_type = plan.assignments[*position].data_type;
            !is_tied
                && plan.places[*position].is_some()
                && plan.packed(*position).is_none()
                && data_type != model.tensors[*position].source_type
                && codec_for(data_type).is_some()
        });
        chosen.checked(output)
    }

    /// What a method chooses values for that knows nothing of inputs: whatever has values to
    /// choose among. Of what is stored in parts embedding and output matrix are left: those are
    /// looked at whole, and nothing else is as large.
    pub(super) fn alone(model: &Model, output: &Output, plan: &TargetPlan) -> Result<Self, Error> {
        let is_at_end = |position: usize| {
            let role = model.tensors[position].role;
            matches!(role, Some(Role::TokenEmbedding | Role::Output))
        };
        let positions = (0..model.tensors.len())
            .filter(|at| has_values(model, plan, *at))
            .filter(|at| plan.packed(*at).is_none() || !is_at_end(*at))
            .collect();
        Self { positions, ..Self::default() }.checked(output)
    }

    /// These, unless there is nothing that a method could be asked.
    fn checked(self, output: &Output) -> Result<Self, Error> {
        if self.is_empty() && output.target.format.name != "gguf" {
            return Err(Error::MethodFormat { target: output.target.to_string() });
        }
        Ok(self)
    }

    /// True for a layer that only predicts further tokens, and of which statistics have nothing:
    /// other programs do not collect them.
    fn is_unseen<B: Backend>(
        forward: &Forward<'_, B, ModelWeights<'_>>,
        layer: LayerIndex,
        known: Option<&Known>,
    ) -> Result<bool, Error> {
        let Some(known) = known.filter(|_| forward.graph().layer(layer).is_further()) else {
            return Ok(false);
        };
        for matrix in forward.graph().layer(layer).rounded() {
            if known.has(&forward.stored(layer, matrix)?.0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is said of such layers.
    pub(super) fn remark(&self, model: &Model) -> Option<String> {
        let mut names = self.unseen.iter().map(|layer| format!("blk.{}", layer.0));
        let first = names.next()?;
        let names = names.fold(first, |all, name| format!("{all}, {name}"));
        Some(format!(
            "{}: {names} only predict further tokens, and the statistics have nothing of them: \
             their matrices are rounded",
            model.path.display()
        ))
    }

    /// The model as its layers find it in an output: with the token embedding that is written.
    pub(super) fn embedded<'m>(
        &self,
        model: &'m Model,
        plan: &TargetPlan,
        options: &QuantizeOptions,
    ) -> ModelWeights<'m> {
        let weights = ModelWeights::new(model);
        let is_plain = |position: &usize| {
            importance_of(&options.convert.plan, &model.tensors[*position]).is_none()
        };
        match self.embedding.filter(is_plain).filter(|_| options.propagates()) {
            None => weights,
            Some(position) => {
                let data_type = plan.assignments[position].data_type;
                weights.with_rounded(&model.tensors[position].name, data_type)
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.positions.iter().copied()
    }

    /// True for the model's tensor at `position`.
    pub(super) fn has(&self, position: usize) -> bool {
        self.positions.contains(&position)
    }

    /// True for the tensor of a name.
    pub(super) fn holds(&self, model: &Model, name: &str) -> bool {
        let position = model.tensors.iter().position(|tensor| tensor.name == name);
        position.is_some_and(|position| self.has(position))
    }

    /// The position of a layer's matrix by name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }
}

/// Whether an output has values for a tensor that a method can choose among.
fn has_values(model: &Model, plan: &TargetPlan, position: usize) -> bool {
    match plan.packed(position) {
        // Blocks that are kept as they are have their values.
        Some(place) => {
            place.layout.has_grid(place.matrix)
                && !place.layout.takes(model.tensors[position].source_type)
        }
        None => {
            let data_type = plan.assignments[position].data_type;
            plan.places[position].is_some()
                && data_type != model.tensors[position].source_type
                && Target::of_type(data_type).is_some()
        }
    }
}

/// Bits per weight of what is planned for a model.
pub(super) fn bits_per_weight(model: &Model, plan: &TargetPlan) -> f64 {
    let bytes = |(position, tensor): (usize, &ModelTensor)| {
        let shape = &tensor.shape;
        let data_type = plan.assignments[position].data_type;
        let Some(place) = plan.packed(position) else {
            return shape.byte_size(data_type).unwrap_or(0);
        };
        let parts = place.layout.parts(place.matrix).unwrap_or_default();
        let sizes = parts.iter().filter_map(|part| part.shape.byte_size(part.data_type).ok());
        sizes.sum::<u64>() * place.parts.len() as u64
    };
    let bytes: u64 = model.tensors.iter().enumerate().map(bytes).sum();
    bytes as f64 * 8.0 / model.weights().max(1) as f64
}
