//! Factors that are folded into a model's tensors before a method rounds them, so that rounding
//! loses less: AWQ. The folded model computes what the model computed.
//!
//! | where | what |
//! |---|---|
//! | `mod.rs` | the job: the full model reads the text, layer by layer |
//! | `search.rs` | one fold's factors |
//! | `apply.rs` | factors as edits of the model's tensors |
//!
//! What can be folded is a matter of what a layer computes (`qz_models::graph::Fold`), which
//! factors are good one of methods (`qz_methods::search_factors`).

mod apply;
mod search;
#[cfg(test)]
mod tests;

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::LayerIndex;
use qz_models::graph::Fold;

use super::QuantizeOptions;
use super::capture::Calibration;
use super::layers::Layers;
use super::plan::Chosen;
use crate::convert::Output;
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::measuring::Measures;
use crate::model::Model;
use crate::model_weights::ModelWeights;
use crate::planning::plan_all;
use crate::statistics::{Collector, Item, OfAllExperts, Streams, WantedSums};
use crate::stream::{Cancel, check_cancelled};
use search::Readers;

/// What is done to a model before a method rounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// AWQ: columns are scaled by what their inputs are worth.
    Awq,
}

/// Every transform. Command-line values walk this list.
pub static TRANSFORMS: &[Transform] = &[Transform::Awq];

impl Transform {
    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
        }
    }
}

/// A fold with its factors.
pub(super) struct Folded {
    layer: Option<LayerIndex>,
    place: FoldPlace,
    /// One list, or one of each expert.
    factors: Vec<Vec<f32>>,
}

/// What is folded.
enum FoldPlace {
    /// Tensors of a layer.
    OfLayer(Fold),
    /// The norm behind the layers into the output matrix.
    Output,
}

/// What came of a transform.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FoldingSummary {
    /// The transform's name.
    pub transform: &'static str,
    /// Norms and matrices that have taken factors.
    pub folds: usize,
    /// Those that were left alone, because no factors lose less.
    pub unfolded: usize,
    /// What the sampled rows lose with factors, in parts of what they lose without: the mean over
    /// all folds.
    pub mean_loss_ratio: f64,
}

/// The model with factors folded in, which are good for one output.
///
/// # Errors
/// As those of [`super::quantize`], and if there is no text.
pub(super) fn folded<B: Backend>(
    transform: Transform,
    (backend, workers): (&B, &Workers),
    model: &Model,
    output: &Output,
    options: &QuantizeOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<(Model, FoldingSummary), Error> {
    let text = options.text.as_ref().ok_or(Error::TransformWithoutText(transform.name()))?;
    let planning = plan_all(model, std::slice::from_ref(&output.target), &options.convert.plan)?;
    let weights = ModelWeights::new(model);
    let forward = model.forward(backend, &weights, options.compute.share(1))?;
    let chosen = Chosen::of(&forward, model, output, &planning.targets[0], None)?;
    let calibration = Calibration::read(model, text, cancel, observer)?;
    let measures = Measures::default();
    let plans = &planning.targets;
    let layers = Layers {
        backend,
        model,
        plans,
        measures: &measures,
        chosen: &chosen,
        options,
        workers,
        cancel,
    };
    let graph = forward.graph();
    let all: usize = graph.layers.iter().map(|layer| layer.folds().len()).sum();
    let weights = chosen.positions().map(|at| model.tensors[at].shape.elements()).sum();
    observer.observe(Event::Started { job: transform.name(), tensors: all, weights });
    let mut job = Job { layers, found: Vec::new(), unfolded: 0, ratios: Vec::new() };
    let mut streams =
        Streams::begin(None, &forward, &calibration.chunks, options.experts.routing())?;
    let count = u64::from(graph.layer_count());
    while streams.load_next()? {
        let number = u64::from(streams.quantized.layer().0) + 1;
        observer.observe(Event::At { part: "layer", number, count, steady: true });
        let folds = streams.quantized.graph().folds();
        for fold in folds {
            job.fold(&mut streams, fold)?;
        }
        observer.observe(Event::Advanced { weights: weights / count.max(1) });
        streams.advance(&mut |_| check_cancelled(cancel))?;
    }
    // Layers that predict further tokens may read what the norm makes, too.
    let folds_output = graph.folds_output() && !model.has_further_layers();
    if let Some((position, _)) = chosen.output.filter(|_| folds_output) {
        job.fold_output(&mut streams, position)?;
    }
    let summary = job.summary(transform);
    Ok((apply::folded(model, &graph.layers, &job.found)?, summary))
}

/// What sums the full model's inputs.
fn collector<'a, B: Backend>(layers: &Layers<'a, B>) -> Collector<'a> {
    Collector {
        moments: false,
        gram: true,
        may_cut: false,
        is_beside: false,
        in_halves: false,
        experts: layers.options.experts,
        max_memory: layers.options.compute.max_memory,
        workers: layers.workers,
        cancel: layers.cancel,
    }
}

struct Job<'a, B> {
    layers: Layers<'a, B>,
    found: Vec<Folded>,
    unfolded: usize,
    ratios: Vec<f64>,
}

impl<B: Backend> Job<'_, B> {
    fn summary(&self, transform: Transform) -> FoldingSummary {
        FoldingSummary {
            transform: transform.name(),
            folds: self.found.len(),
            unfolded: self.unfolded,
            mean_loss_ratio: self.ratios.iter().sum::<f64>() / self.ratios.len().max(1) as f64,
        }
    }

    /// Searches factors of a fold of the layer that is loaded.
    fn fold(&mut self, streams: &mut Streams<'_, B>, fold: Fold) -> Result<(), Error> {
        let layer = streams.quantized.layer();
        let Some(readers) = Readers::of(&self.layers, &streams.quantized, &fold)? else {
            return Ok(());
        };
        let graph = streams.quantized.graph();
        let own = graph.group(fold.group);
        let columns = own.columns;
        let gram = Some(0..columns);
        let wanted = WantedSums { columns, moments: false, gram, lacking: None };
        let item = |expert| Item { group: fold.group, expert, wanted: wanted.clone() };
        let experts = match own.experts.filter(|_| fold.of_each_expert) {
            Some(count) => (0..count).map(Some).collect(),
            None => vec![None],
        };
        let collector = collector(&self.layers);
        let items: Vec<Item> = experts.into_iter().map(item).collect();
        let mut factors = Vec::with_capacity(items.len());
        let (mut of_all, mut is_folded) = (OfAllExperts::default(), false);
        for items in collector.passes(items) {
            for collected in collector.collect(streams, items, &mut of_all)? {
                let expert = collected.item.expert;
                let found = readers.search(
                    &self.layers,
                    &streams.quantized,
                    &fold,
                    expert,
                    collected.sums,
                )?;
                is_folded |= found.is_some();
                let ones = || vec![1.0; fold.channels];
                if let Some(found) = &found {
                    self.ratios.push(found.losses[1] / found.losses[0]);
                }
                factors.push(found.map_or_else(ones, |found| found.factors));
            }
        }
        match is_folded {
            true => {
                let place = FoldPlace::OfLayer(fold);
                self.found.push(Folded { layer: Some(layer), place, factors });
            }
            false => self.unfolded += 1,
        }
        Ok(())
    }

    /// Searches factors of what the output matrix reads.
    fn fold_output(&mut self, streams: &mut Streams<'_, B>, position: usize) -> Result<(), Error> {
        let columns = streams.quantized.hidden_width();
        let mut found = None;
        let layers = &self.layers;
        collector(layers).output(streams, columns, &mut |sums| {
            found = search::of_output(layers, position, sums)?;
            Ok(())
        })?;
        match found {
            Some(found) => {
                self.ratios.push(found.losses[1] / found.losses[0]);
                let place = FoldPlace::Output;
                self.found.push(Folded { layer: None, place, factors: vec![found.factors] });
            }
            None => self.unfolded += 1,
        }
        Ok(())
    }
}
