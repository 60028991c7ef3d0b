//! Factors that are folded into a model's tensors before a method rounds them, so that rounding
//! loses less: AWQ and SmoothQuant. The folded model computes what the model computed.
//!
//! | where | what |
//! |---|---|
//! | `mod.rs` | the job: the full model reads the text, layer by layer |
//! | `readers.rs` | the matrices that read a fold's channels |
//! | `search.rs` | one fold's factors for AWQ |
//! | `smoothing.rs` | the same for SmoothQuant |
//! | `apply.rs` | factors as edits of the model's tensors |
//!
//! What can be folded is a matter of what a layer computes (`qz_models::graph::Fold`), which
//! factors are good one of methods (`qz_methods::search_factors`, `qz_methods::smoothing_factors`).

mod apply;
mod readers;
mod search;
mod smoothing;
#[cfg(test)]
mod tests;

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_methods::FoundFactors;
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
use crate::statistics::{Collector, Item, Maxima, MeanOfExperts, Streams, WantedSums};
use crate::stream::{Cancel, check_cancelled};
use crate::target::Target;
use readers::Readers;

/// What is done to a model before a method rounds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transform {
    /// AWQ: columns are scaled by what their inputs are worth.
    Awq,
    /// SmoothQuant: channels of activations are divided by what makes them hard to round.
    SmoothQuant {
        /// How much of that goes into weights: 0 nothing, 1 all.
        strength: f64,
    },
}

/// Every transform. Command-line values walk this list.
pub static TRANSFORMS: &[Transform] = &[Transform::Awq, Transform::SmoothQuant { strength: 0.5 }];

impl Transform {
    /// As the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::SmoothQuant { .. } => "smoothquant",
        }
    }

    /// The method that goes with it if none is named: the one of its paper, told what is known
    /// anyway.
    pub fn usual_method(self) -> &'static str {
        match self {
            Self::Awq => "imatrix",
            Self::SmoothQuant { .. } => "rtn",
        }
    }

    /// Fails where it would do harm.
    pub(super) fn check(self, target: &Target) -> Result<(), Error> {
        if target.rotates() {
            return Err(Error::ColumnsMix { transform: self.name(), target: target.to_string() });
        }
        let is_for_weights = self == Self::Awq;
        if is_for_weights || target.activations().rounds() {
            return Ok(());
        }
        Err(Error::ActivationsStay { transform: self.name(), target: target.to_string() })
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
    /// all folds, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_loss_ratio: Option<f64>,
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
    let mut job = Job { transform, layers, found: Vec::new(), unfolded: 0, ratios: Vec::new() };
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
    // Layers that predict further tokens may read what the norm makes, too. Engines that round
    // activations leave those of the output matrix alone.
    let folds_output = graph.folds_output() && !model.has_further_layers();
    let folds_output = folds_output && transform == Transform::Awq;
    if let Some((position, _)) = chosen.output.filter(|_| folds_output) {
        job.fold_output(&mut streams, position)?;
    }
    let summary = job.summary();
    Ok((apply::folded(model, &graph.layers, &job.found)?, summary))
}

/// What sums the full model's inputs.
fn collector<'a, B: Backend>(layers: &Layers<'a, B>) -> Collector<'a> {
    Collector {
        moments: false,
        gram: true,
        may_cut: false,
        is_beside: false,
        samples: false,
        in_halves: false,
        experts: layers.options.experts,
        max_memory: layers.options.compute.max_memory,
        workers: layers.workers,
        cancel: layers.cancel,
    }
}

struct Job<'a, B> {
    transform: Transform,
    layers: Layers<'a, B>,
    found: Vec<Folded>,
    unfolded: usize,
    ratios: Vec<f64>,
}

impl<B: Backend> Job<'_, B> {
    fn summary(&self) -> FoldingSummary {
        FoldingSummary {
            transform: self.transform.name(),
            folds: self.found.len(),
            unfolded: self.unfolded,
            mean_loss_ratio: (!self.ratios.is_empty())
                .then(|| self.ratios.iter().sum::<f64>() / self.ratios.len() as f64),
        }
    }

    /// What a transform has to know of a fold's channels.
    fn wanted(&self, columns: usize) -> WantedSums {
        let is_awq = self.transform == Transform::Awq;
        let (maxima, gram) = (!is_awq, is_awq.then_some(0..columns));
        WantedSums { columns, moments: false, maxima, gram, lacking: None, samples: false }
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
        let wanted = self.wanted(columns);
        let item = |expert| Item { group: fold.group, expert, wanted: wanted.clone() };
        let experts = match own.experts.filter(|_| fold.of_each_expert) {
            Some(count) => (0..count).map(Some).collect(),
            None => vec![None],
        };
        let collector = collector(&self.layers);
        let items: Vec<Item> = experts.into_iter().map(item).collect();
        let mut factors = Vec::with_capacity(items.len());
        let (mut of_all, mut is_folded) = (MeanOfExperts::default(), false);
        for items in collector.passes(items) {
            for collected in collector.collect(streams, items, &mut of_all)? {
                let expert = collected.item.expert;
                let of = (&self.layers, &streams.quantized);
                let found = match self.transform {
                    Transform::Awq => {
                        let found = search::of_fold(of, &readers, &fold, expert, collected.sums)?;
                        self.ratios.extend(found.as_ref().map(FoundFactors::ratio));
                        found.map(|found| found.factors)
                    }
                    Transform::SmoothQuant { strength } => {
                        let maxima = collected.sums.get::<Maxima>();
                        smoothing::of_fold(of, &readers, &fold, expert, maxima, strength)?
                    }
                };
                is_folded |= found.is_some();
                factors.push(found.unwrap_or_else(|| vec![1.0; fold.channels]));
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
                self.ratios.push(found.ratio());
                let place = FoldPlace::Output;
                self.found.push(Folded { layer: None, place, factors: vec![found.factors] });
            }
            None => self.unfolded += 1,
        }
        Ok(())
    }
}
