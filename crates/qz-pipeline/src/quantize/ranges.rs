//! The largest inputs of matrices, for checkpoints that have numbers of them: what the full model
//! multiplies while it reads the text, before anything is quantized.

use std::collections::{BTreeMap, HashMap};

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::LayerIndex;
use qz_models::forward::{Chunks, Forward, LinearInputs};
use qz_models::graph::GroupIndex;
use rayon::prelude::*;

use crate::calibrate::ExpertOptions;
use crate::error::Error;
use crate::eval::Steps;
use crate::event::Observer;
use crate::format::{Measured, StoredNumber, TargetPlan};
use crate::model::{Model, ModelTensor, to_usize};
use crate::model_weights::ModelWeights;
use crate::rounded_inputs::TensorInputs;
use crate::sinks::Sinks;
use crate::stream::{Cancel, check_cancelled};
use crate::target::Target;

/// A matrix that saw no token: an expert.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct UnseenInputs {
    /// Its tensor.
    pub tensor: String,
    /// Whose of those stacked in the tensor.
    pub expert: usize,
}

/// Whose inputs: those of a group, or of one of its experts.
type Place = (LayerIndex, GroupIndex, Option<usize>);

/// What a target has to be told.
pub(super) struct Ranges<'a> {
    plan: &'a TargetPlan,
    /// Of each number of the plan.
    places: Vec<Place>,
}

/// The numbers themselves.
#[derive(Default)]
pub(super) struct Measurements {
    /// By the model's tensor and the matrix in it.
    stored: HashMap<(usize, usize), f32>,
    /// Of each number of the plan, in its order.
    bytes: Vec<Vec<u8>>,
    /// Matrices that the largest number of their siblings stands in for.
    pub(super) unseen: Vec<UnseenInputs>,
}

impl<'a> Ranges<'a> {
    /// Finds whose inputs are asked for.
    ///
    /// # Errors
    /// If the model multiplies by a matrix that its forward pass does not know.
    pub(super) fn of<B: Backend>(
        forward: &Forward<'_, B, ModelWeights<'_>>,
        model: &Model,
        target: &Target,
        plan: &'a TargetPlan,
    ) -> Result<Self, Error> {
        let mut groups = HashMap::new();
        for layer in (0..forward.graph().layer_count()).map(LayerIndex) {
            let graph = forward.graph().layer(layer);
            for (index, group) in graph.numbered() {
                for matrix in graph.matrices(index) {
                    let (name, _) = forward.stored(layer, matrix)?;
                    groups.insert(name, (layer, index, group.experts.is_some()));
                }
            }
        }
        let place = |number: &StoredNumber| {
            let Measured::Inputs { matrix, .. } = number.of;
            let name = model.tensors[number.position].name.as_str();
            let (layer, group, has_experts) = groups.get(name).copied().ok_or_else(|| {
                let (target, tensor) = (target.to_string().into(), name.into());
                Error::UnseenMatrix { target, tensor }
            })?;
            Ok((layer, group, has_experts.then_some(matrix)))
        };
        let places = plan.numbers.iter().map(place).collect::<Result<_, Error>>()?;
        Ok(Self { plan, places })
    }

    /// True if nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Has the full model read the text.
    pub(super) fn take<B: Backend>(
        &self,
        forward: &Forward<'_, B, ModelWeights<'_>>,
        (model, chunks, experts): (&Model, &Chunks, ExpertOptions),
        workers: &Workers,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Measurements, Error> {
        if self.is_empty() {
            return Ok(Measurements::default());
        }
        let mut largest: BTreeMap<Place, f32> = BTreeMap::new();
        let backend = forward.backend();
        let mut note = |inputs: &LinearInputs<'_, B>| {
            check_cancelled(cancel)?;
            let numbers = backend.numbers(inputs.rows)?;
            let magnitude = |most: f32, number: &f32| most.max(number.abs());
            let own = workers.install(|| {
                let parts = numbers.par_chunks(1 << 14);
                let of_parts = parts.map(|part| part.iter().fold(0.0, magnitude));
                of_parts.reduce(|| 0.0, f32::max)
            });
            let place = (inputs.layer, inputs.group, inputs.expert);
            let most = largest.entry(place).or_default();
            *most = most.max(own);
            Ok(())
        };
        let steps = forward.stream_steps(chunks);
        let mut progress = Steps::begin("inputs", [model], steps, cancel, observer);
        let mut stream = forward.stream(chunks.clone())?;
        stream.set_routing(experts.routing());
        while stream.load_next()? {
            stream.visit_and_advance(&mut note, &mut |steps| progress.advance(steps))?;
        }
        Ok(self.measurements(model, &largest))
    }

    fn measurements(&self, model: &Model, largest: &BTreeMap<Place, f32>) -> Measurements {
        let mut found = Measurements::default();
        let of_group = |(layer, group, _): &Place| {
            let own = largest.iter().filter(|((a, b, _), _)| (a, b) == (layer, group));
            own.fold(0.0f32, |most, (_, own)| most.max(*own))
        };
        let mut own = Vec::with_capacity(self.places.len());
        for (number, place) in self.plan.numbers.iter().zip(&self.places) {
            let Measured::Inputs { matrix, .. } = number.of;
            own.push(largest.get(place).copied().unwrap_or_else(|| {
                let tensor = model.tensors[number.position].name.to_string();
                found.unseen.push(UnseenInputs { tensor, expert: matrix });
                of_group(place)
            }));
        }
        // What engines multiply by together has one number.
        let fused = |number: &StoredNumber| {
            let Measured::Inputs { matrix, .. } = number.of;
            (self.plan.packed(number.position).map(|place| place.fused), matrix)
        };
        let mut together: HashMap<_, f32> = HashMap::new();
        for (number, own) in self.plan.numbers.iter().zip(&own) {
            let most = together.entry(fused(number)).or_default();
            *most = most.max(*own);
        }
        for number in &self.plan.numbers {
            let Measured::Inputs { matrix, part } = number.of;
            let place = self.plan.packed(number.position);
            let activations = place.map(|place| place.activations).unwrap_or_default();
            let stored = activations.stored(together[&fused(number)]);
            found.bytes.push(part.bytes(stored));
            found.stored.insert((number.position, matrix), part.rounded(stored));
        }
        found
    }
}

impl Measurements {
    /// What becomes of the inputs of an output's matrices.
    pub(super) fn inputs(&self, model: &Model, plan: &TargetPlan) -> TensorInputs {
        let of_tensor = |(position, tensor): (usize, &ModelTensor)| {
            let place = plan.packed(position).filter(|place| place.activations.rounds())?;
            let of = |matrix: usize| {
                let stored = self.stored.get(&(position, matrix)).copied();
                Some(place.activations.with(stored.unwrap_or(1.0)))
            };
            // Several modules may be one matrix of the model.
            let matrices = to_usize(tensor.shape.rows().div_ceil(tensor.rows_per_matrix()));
            Some((tensor.name.to_string(), (0..matrices).map(of).collect()))
        };
        model.tensors.iter().enumerate().filter_map(of_tensor).collect()
    }

    /// Writes what an output still wants.
    pub(super) fn put(&self, plan: &TargetPlan, sinks: &mut Sinks) -> Result<(), Error> {
        for (number, bytes) in plan.numbers.iter().zip(&self.bytes) {
            if !sinks.is_done(0, number.position) {
                sinks.put_tensor(0, number.tensor, bytes)?;
            }
        }
        Ok(())
    }
}
