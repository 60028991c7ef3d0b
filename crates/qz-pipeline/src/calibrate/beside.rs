//! A quantized model beside the full one: statistics of its inputs, and of what it lacks.

use qz_calib::Moments;
use qz_kernels::backend::Backend;
use qz_models::forward::{Chunks, Forward, ForwardOptions, WeightSource};
use qz_models::graph::{LayerGraph, MatrixIndex};
use qz_tensor::DataType;

use super::Job;
use super::experts::ExpertCoverage;
use super::layout::Group;
use crate::error::Error;
use crate::eval::Steps;
use crate::model::{Model, to_usize};
use crate::model_weights::ModelWeights;
use crate::statistics::{Collected, Collector, GroupExperts, Stream, Streams};
use crate::stream::Cancel;

/// A quantized model that computes the same as the full one.
pub(super) struct Quantized<'a, B: Backend> {
    /// The full model's weights, and its own.
    weights: [&'a ModelWeights<'a>; 2],
    forward: Forward<'a, B, ModelWeights<'a>>,
}

impl<'a, B: Backend> Quantized<'a, B> {
    /// # Errors
    /// If it has another vocabulary or other layers than the full model.
    pub(super) fn open(
        backend: &'a B,
        model: &'a Model,
        weights: [&'a ModelWeights<'a>; 2],
        share: ForwardOptions,
        (full_model, full): (&Model, &Forward<'_, B, ModelWeights<'_>>),
    ) -> Result<Self, Error> {
        let forward = model.forward(backend, weights[1], share)?;
        let path = model.path.clone();
        let (found, expected) = (forward.vocabulary()?, full.vocabulary()?);
        if found != expected {
            return Err(Error::Vocabulary { path, found, expected });
        }
        if Group::of_model(&forward, false)? != Group::of_model(full, false)? {
            return Err(Error::OtherLayers { path, full: full_model.path.clone() });
        }
        Ok(Self { weights, forward })
    }
}

impl Job<'_> {
    /// Puts the text through both models, and keeps the sums of each group.
    pub(super) fn run_beside<B: Backend>(
        &mut self,
        (full, quantized): (&Forward<'_, B, ModelWeights<'_>>, &Quantized<'_, B>),
        chunks: &Chunks,
        groups: &[Group],
        progress: &mut Steps<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let collector = Collector {
            moments: true,
            gram: true,
            is_beside: true,
            experts: self.options.experts,
            max_memory: self.options.compute.max_memory,
            workers: self.workers,
            cancel,
        };
        let routing = self.options.experts.routing();
        let mut streams = Streams::begin(Some(full), &quantized.forward, chunks, routing)?;
        let count = full.graph().layer_count().into();
        while streams.load_next()? {
            let layer = streams.quantized.layer();
            let own: Vec<&Group> =
                groups.iter().filter(|group| group.layer == Some(layer)).collect();
            let is_open = own.iter().any(|group| !self.file.is_complete(group));
            let part = if is_open { "layer" } else { "finished layer" };
            progress.at(part, u64::from(layer.0) + 1, count, is_open);
            for group in own.into_iter().filter(|_| is_open) {
                self.group_beside(&collector, &mut streams, group, quantized.weights)?;
                progress.advance(0)?;
            }
            streams.advance(&mut |steps| progress.advance(steps))?;
        }
        if let Some(group) = groups.iter().find(|group| group.layer.is_none()) {
            let collected = collector.output(&mut streams, group.width)?;
            progress.advance(0)?;
            let (moments, _) = self.keep_beside(group, collected)?;
            self.file.put_moments(group, &[moments])?;
        }
        Ok(())
    }

    /// Keeps the sums of a group. Where its products are added to hidden states these are told
    /// apart as they are with the full model's matrices: what a target's own become has to make
    /// up for everything else.
    fn group_beside<B: Backend>(
        &mut self,
        collector: &Collector<'_>,
        streams: &mut Streams<'_, B>,
        group: &Group,
        [full, quantized]: [&ModelWeights<'_>; 2],
    ) -> Result<(), Error> {
        let Some((index, linear)) = &group.linear else { return Ok(()) };
        let graph = streams.quantized.graph();
        let matrices: Vec<_> = graph
            .matrices(*index)
            .filter(|_| linear.is_added)
            .flat_map(|matrix| experts_of(group).into_iter().map(move |expert| (matrix, expert)))
            .collect();
        for (matrix, expert) in &matrices {
            let (data_type, bytes) = stored(graph, full, &streams.quantized, *matrix, *expert)?;
            streams.quantized.replace(*matrix, *expert, data_type, bytes)?;
        }
        let mut known = GroupExperts::of(group.experts);
        let (mut moments, mut tokens) = (Vec::new(), Vec::new());
        let wanted = collector.wanted(linear, group.hidden);
        for experts in experts_of(group).chunks(collector.experts_at_once(wanted)) {
            for collected in collector.collect(streams, *index, experts, &mut known)? {
                let (own, count) = self.keep_beside(group, collected)?;
                moments.push(own);
                tokens.push(count);
            }
        }
        if let Some(layer) = group.layer.filter(|_| group.is_first_of_experts()) {
            let coverage = ExpertCoverage { layer: layer.0, tokens };
            self.warnings.extend(coverage.warnings(self.options.experts.prior));
            self.coverage.push(coverage);
        }
        self.file.put_moments(group, &moments)?;
        for (matrix, expert) in matrices {
            let (data_type, bytes) = stored(graph, quantized, &streams.quantized, matrix, expert)?;
            streams.quantized.replace(matrix, expert, data_type, bytes)?;
        }
        Ok(())
    }

    /// Writes one expert's sums of products; its moments, and how many tokens it was given.
    fn keep_beside(
        &mut self,
        group: &Group,
        collected: Collected,
    ) -> Result<(Moments, u64), Error> {
        let Collected { expert, mut sums, tokens, .. } = collected;
        let expert = expert.unwrap_or(0);
        // Gram matrices are sums of as many tokens as experts with few of them count.
        let (count, lacking) = (sums.tokens(), sums.take_lacking(tokens));
        if let Some(gram) = sums.gram {
            self.file.put_gram(group, expert, gram)?;
        }
        if let Some(kind) = group.lacking() {
            let entries = kind.rows(group.width) * group.width;
            let mut lacking = lacking.unwrap_or_else(|| vec![0.0; entries]);
            let count = count as f64;
            lacking.iter_mut().for_each(|entry| *entry = (f64::from(*entry) * count) as f32);
            self.file.put_cross(group, expert, &lacking)?;
        }
        let moments = sums.moments.expect("moments are collected");
        Ok((moments, tokens))
    }
}

/// Whose matrices a group's are.
fn experts_of(group: &Group) -> Vec<Option<usize>> {
    let experts = group.linear.as_ref().and_then(|(_, linear)| linear.experts);
    experts.map_or_else(|| vec![None], |experts| (0..experts).map(Some).collect())
}

/// A matrix of the layer that is loaded, as one of the models stores it.
fn stored<B: Backend>(
    graph: &LayerGraph,
    weights: &ModelWeights<'_>,
    stream: &Stream<'_, B>,
    matrix: MatrixIndex,
    expert: Option<usize>,
) -> Result<(DataType, Vec<u8>), Error> {
    let (name, of_stream) = stream.stored(matrix)?;
    let stored = weights.find(&name).unwrap_or(of_stream);
    let rows = graph.member(matrix).rows as u64;
    let first = expert.unwrap_or(0) as u64 * rows;
    let row_bytes = stored.shape.row_bytes(stored.data_type).unwrap_or(0);
    let mut bytes = vec![0; to_usize(rows * row_bytes)];
    weights.read(&name, first..first + rows, &mut bytes)?;
    Ok((stored.data_type, bytes))
}
