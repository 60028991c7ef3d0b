//! The pass before packing: what a packed row has to know of its whole matrix, and of
//! those that engines multiply by together with it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use qz_packed::{Measure, Prepass};

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::format::{Destination, PackedPlace, TargetPlan};
use crate::model::Model;
use crate::sinks::Sinks;
use crate::stream::{self, Cancel, Content, Encoding, Step, Wanted, Work};

/// Measures of all matrices that need one.
#[derive(Default)]
pub(crate) struct Measures {
    /// By output and the model's tensor; one for each of the stacked matrices.
    taken: BTreeMap<(usize, usize), Arc<[Measure]>>,
}

/// Which matrices share a measure: those of one number and one expert, or one alone.
type Group = (usize, usize, usize);

impl Measures {
    pub(crate) fn of(&self, output: usize, position: usize) -> Option<Arc<[Measure]>> {
        self.taken.get(&(output, position)).cloned()
    }

    /// Reads the tensors that some output has to know before it can pack them, or
    /// others that are packed with them. No outputs are written to.
    pub(crate) fn take(
        model: &Model,
        plans: &[TargetPlan],
        sinks: &Sinks,
        threads: usize,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let wanted = |position: usize| -> Vec<Option<Wanted>> {
            let of = |(output, plan): (usize, &TargetPlan)| {
                let place = place(plan, position)?;
                let change = plan.places[position].as_ref()?.change;
                is_wanted(output, plan, place, position, sinks)
                    .then(|| Wanted { encoding: Encoding::Measured(place.clone()), change })
            };
            plans.iter().enumerate().map(of).collect()
        };
        let (mut work, mut positions) = (Vec::new(), Vec::new());
        for (position, tensor) in model.tensors.iter().enumerate() {
            let wanted = wanted(position);
            if wanted.iter().any(Option::is_some) {
                work.push(Work { tensor, wanted, importance: None });
                positions.push(position);
            }
        }
        if work.is_empty() {
            return Ok(Self::default());
        }
        let weights = work.iter().map(|work| work.tensor.shape.elements()).sum();
        observer.observe(Event::Started { job: "measure", tensors: work.len(), weights });
        // In order of outputs, tensors and rows, whichever tile was ready first.
        let mut of_tiles: BTreeMap<(usize, usize, u64), Measure> = BTreeMap::new();
        stream::run(model, &work, threads, cancel, |step| {
            match step {
                Step::Piece(piece) => {
                    if let Content::Measure(measure) = piece.content {
                        let position = positions[piece.work];
                        of_tiles.insert((piece.output, position, piece.first_row), measure);
                    }
                }
                Step::TileDone { weights, .. } => observer.observe(Event::Advanced { weights }),
            }
            Ok(())
        })?;
        Ok(Self::merged(plans, of_tiles))
    }

    fn merged(plans: &[TargetPlan], of_tiles: BTreeMap<(usize, usize, u64), Measure>) -> Self {
        let mut groups: BTreeMap<Group, Measure> = BTreeMap::new();
        let mut tensors: HashSet<(usize, usize)> = HashSet::new();
        for ((output, position, first_row), measure) in of_tiles {
            let Some(place) = place(&plans[output], position) else { continue };
            let matrix = (first_row / place.matrix.rows.max(1)) as usize;
            let group = groups.entry(group(output, position, place, matrix)).or_default();
            *group = group.merged(measure);
            tensors.insert((output, position));
        }
        let of = |(output, position): (usize, usize)| {
            let place = place(&plans[output], position)?;
            let measure = |matrix| {
                groups.get(&group(output, position, place, matrix)).copied().unwrap_or_default()
            };
            Some(((output, position), (0..place.parts.len()).map(measure).collect()))
        };
        Self { taken: tensors.into_iter().filter_map(of).collect() }
    }
}

fn place(plan: &TargetPlan, position: usize) -> Option<&Arc<PackedPlace>> {
    match &plan.places[position].as_ref()?.destination {
        Destination::Packed(place) => Some(place),
        Destination::Runs(_) => None,
    }
}

/// Numbers of tensors and of fused groups must not meet: the former are odd.
fn group(output: usize, position: usize, place: &PackedPlace, matrix: usize) -> Group {
    match place.layout.prepass() {
        Prepass::Fused => (output, 2 * place.fused, matrix),
        Prepass::Own | Prepass::None => (output, 2 * position + 1, matrix),
    }
}

/// True if the output has still to pack the tensor, or one that shares its measure.
fn is_wanted(
    output: usize,
    plan: &TargetPlan,
    of: &PackedPlace,
    position: usize,
    sinks: &Sinks,
) -> bool {
    match of.layout.prepass() {
        Prepass::None => false,
        Prepass::Own => sinks.wants(output, position),
        Prepass::Fused => (0..plan.places.len()).any(|other| {
            sinks.wants(output, other) && place(plan, other).is_some_and(|it| it.fused == of.fused)
        }),
    }
}
