//! The largest inputs of matrices, and the largest keys and values, for checkpoints that have
//! numbers of them: what the full model computes while it reads the text, before anything is
//! quantized.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use qz_kernels::Workers;
use qz_kernels::backend::{Backend, Shaped};
use qz_models::LayerIndex;
use qz_models::forward::{Chunks, Forward, LinearInputs};
use qz_models::graph::GroupIndex;
use rayon::prelude::*;

use crate::calibrate::ExpertOptions;
use crate::error::Error;
use crate::eval::Steps;
use crate::event::Observer;
use crate::format::{Cached, Measured, StoredNumber, TargetPlan};
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

/// Whose numbers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The inputs of a group, or of one of its experts.
    Inputs(LayerIndex, GroupIndex, Option<usize>),
    /// The keys of a layer, or its values.
    Cache { layer: LayerIndex, is_of_values: bool },
}

/// What a target has to be told.
pub(super) struct Ranges<'a> {
    plan: &'a TargetPlan,
    /// Of each number of the plan.
    places: Vec<Place>,
    /// Heads that layers' keys and values have, where each gets a scale of its own.
    heads: BTreeMap<LayerIndex, usize>,
}

/// The largest magnitudes of a place: one, or one of each head.
type Largest = BTreeMap<Place, Vec<f32>>;

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
    /// Finds whose numbers are asked for.
    ///
    /// # Errors
    /// If the model's forward pass does not compute them.
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
        let unseen = |position: usize| {
            let tensor = model.tensors[position].name.as_str();
            Error::UnseenMatrix { target: target.to_string().into(), tensor: tensor.into() }
        };
        let mut heads = BTreeMap::new();
        let mut place = |number: &StoredNumber| match number.of {
            Measured::Inputs { matrix, .. } => {
                let name = model.tensors[number.position].name.as_str();
                let found = groups.get(name).copied().ok_or_else(|| unseen(number.position));
                let (layer, group, has_experts) = found?;
                Ok(Place::Inputs(layer, group, has_experts.then_some(matrix)))
            }
            Measured::Cache(Cached { layer, is_of_values, heads: own, .. }) => {
                let cached = forward.graph().layer(layer).cached_heads();
                let cached = cached.ok_or_else(|| unseen(number.position))?;
                if own.is_some_and(|own| own != cached as u64) {
                    return Err(unseen(number.position));
                }
                heads.extend(own.map(|_| (layer, cached)));
                Ok(Place::Cache { layer, is_of_values })
            }
        };
        let places = plan.numbers.iter().map(&mut place).collect::<Result<_, _>>()?;
        Ok(Self { plan, places, heads })
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
        let largest = RefCell::new(Largest::new());
        let backend = forward.backend();
        let note = |place: Place, rows: &B::Buffer, heads: usize| -> Result<(), Error> {
            check_cancelled(cancel)?;
            let numbers = backend.numbers(rows)?;
            let own = workers.install(|| magnitudes(&numbers, rows.columns(), heads));
            let mut largest = largest.borrow_mut();
            let most = largest.entry(place).or_insert_with(|| vec![0.0; heads]);
            most.iter_mut().zip(own).for_each(|(most, own)| *most = most.max(own));
            Ok(())
        };
        let mut see = |inputs: &LinearInputs<'_, B>| {
            note(Place::Inputs(inputs.layer, inputs.group, inputs.expert), inputs.rows, 1)
        };
        let mut cached = |layer: LayerIndex, keys: &B::Buffer, values: &B::Buffer| {
            let heads = self.heads.get(&layer).copied().unwrap_or(1);
            note(Place::Cache { layer, is_of_values: false }, keys, heads)?;
            note(Place::Cache { layer, is_of_values: true }, values, heads)
        };
        let steps = forward.stream_steps(chunks);
        let mut progress = Steps::begin("inputs", [model], steps, cancel, observer);
        let mut stream = forward.stream(chunks.clone())?;
        stream.set_routing(experts.routing());
        while stream.load_next()? {
            let mut on_steps = |steps| progress.advance(steps);
            stream.visit_all_and_advance(&mut see, &mut cached, &mut on_steps)?;
        }
        Ok(self.measurements(model, &largest.into_inner()))
    }

    fn measurements(&self, model: &Model, largest: &Largest) -> Measurements {
        let mut found = Measurements::default();
        let of_group = |layer: LayerIndex, group: GroupIndex| {
            let is_own = |place: &Place| matches!(place, Place::Inputs(own, of, _) if (*own, *of) == (layer, group));
            let own = largest.iter().filter(|(place, _)| is_own(place));
            own.flat_map(|(_, own)| own).copied().fold(0.0f32, f32::max)
        };
        // What engines multiply by together has one number.
        let mut together: HashMap<(Option<usize>, usize), f32> = HashMap::new();
        let fused = |position: usize, matrix: usize| {
            (self.plan.packed(position).map(|place| place.fused), matrix)
        };
        for (number, place) in self.plan.numbers.iter().zip(&self.places) {
            let (Measured::Inputs { matrix, .. }, Place::Inputs(layer, group, _)) =
                (&number.of, *place)
            else {
                continue;
            };
            let seen = largest.get(place).and_then(|own| own.first().copied());
            let own = seen.unwrap_or_else(|| {
                let tensor = model.tensors[number.position].name.to_string();
                found.unseen.push(UnseenInputs { tensor, expert: *matrix });
                of_group(layer, group)
            });
            let most = together.entry(fused(number.position, *matrix)).or_default();
            *most = most.max(own);
        }
        for (number, place) in self.plan.numbers.iter().zip(&self.places) {
            found.bytes.push(match &number.of {
                Measured::Inputs { matrix, part } => {
                    let activations = self.plan.packed(number.position);
                    let activations = activations.map(|own| own.activations).unwrap_or_default();
                    let stored = activations.stored(together[&fused(number.position, *matrix)]);
                    found.stored.insert((number.position, *matrix), part.rounded(stored));
                    part.bytes(stored)
                }
                Measured::Cache(own) => own.bytes(&largest[place]),
            });
        }
        found
    }
}

/// The largest magnitude of each of so many parts of all rows.
fn magnitudes(numbers: &[f32], columns: usize, parts: usize) -> Vec<f32> {
    let width = (columns / parts.max(1)).max(1);
    let of_rows = |rows: &[f32]| {
        let mut most = vec![0.0f32; parts];
        for row in rows.chunks(columns.max(1)) {
            for (most, part) in most.iter_mut().zip(row.chunks(width)) {
                *most = part.iter().fold(*most, |most, number| most.max(number.abs()));
            }
        }
        most
    };
    let larger = |mut most: Vec<f32>, other: Vec<f32>| {
        most.iter_mut().zip(other).for_each(|(most, own)| *most = most.max(own));
        most
    };
    let rows = numbers.par_chunks((64 * columns).max(1));
    rows.map(of_rows).reduce(|| vec![0.0; parts], larger)
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
