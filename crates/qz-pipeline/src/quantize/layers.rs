//! The matrices of decoder layers, one stage of a layer after the other.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;

use qz_codec::grid::{RowBatch, Rows as WeightRows};
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_methods::{Needs, Problem, Target, TensorReport};
use qz_models::forward::{Chunks, Forward};
use qz_models::graph::{GroupIndex, MatrixIndex};
use qz_tensor::DataType;

use super::QuantizeOptions;
use super::captured::Captured;
use super::effort::Effort;
use super::known::Known;
use super::packed::PackedMatrix;
use super::plan::Chosen;
use super::report::{MethodTensor, Reports};
use super::rest::Rest;
use super::storage::{Numbers, Storage, TypedRows};
use crate::calibrate::{ExpertCoverage, Group};
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::format::TargetPlan;
use crate::loss::{self, Suspicion};
use crate::measuring::Measures;
use crate::model::{Model, to_usize};
use crate::model_weights::ModelWeights;
use crate::sinks::Sinks;
use crate::statistics::{Collected, Collector, MeanOfExperts, Stream, Streams};
use crate::stream::{Cancel, Content, Piece, check_cancelled};

/// Weights of the output matrix that are quantized at a time.
const OUTPUT_WEIGHTS: usize = 16 << 20;

/// Rows of the output matrix that are quantized at a time.
pub(super) fn output_rows(matrix: &Matrix) -> usize {
    (OUTPUT_WEIGHTS / matrix.columns.max(1)).clamp(1, matrix.rows.max(1))
}

/// Everything that stays the same from layer to layer.
pub(super) struct Layers<'a, B> {
    pub(super) backend: &'a B,
    pub(super) model: &'a Model,
    pub(super) plans: &'a [TargetPlan],
    pub(super) measures: &'a Measures,
    pub(super) chosen: &'a Chosen,
    pub(super) options: &'a QuantizeOptions,
    pub(super) workers: &'a Workers,
    pub(super) cancel: &'a Cancel,
}

/// A matrix that was quantized.
struct Quantized {
    /// For the output.
    content: Content,
    /// For the stream of hidden states: the same values.
    numbers: Numbers,
    /// Weights that the output cannot hold.
    lost: u64,
    report: TensorReport,
}

/// A matrix that is to be quantized.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    /// The tensor it is, or is in.
    pub(super) position: usize,
    pub(super) expert: Option<usize>,
    /// Its first row in the tensor.
    pub(super) first_row: u64,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) data_type: DataType,
}

impl Matrix {
    pub(super) fn row_bytes(&self) -> usize {
        self.data_type.byte_size(self.columns as u64).map_or(0, to_usize)
    }
}

impl<B: Backend> Layers<'_, B> {
    /// Quantizes all matrices while a text goes through the layers: those of the full model,
    /// and those behind the token embedding that is written.
    pub(super) fn run(
        &self,
        (forward, embedded): (&Forward<'_, B, ModelWeights<'_>>, &Forward<'_, B, ModelWeights<'_>>),
        chunks: Chunks,
        rest: &mut Rest<'_>,
        sinks: &mut Sinks,
        reports: &mut Reports,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        if self.is_all_done(sinks) {
            return Ok(());
        }
        let mut effort = Effort::of(self, forward, &chunks, sinks)?;
        let full = self.options.propagates().then_some(forward);
        let mut streams = Streams::begin(full, embedded, &chunks, self.options.experts.routing())?;
        let count = u64::from(forward.graph().layer_count());
        while streams.load_next()? {
            let (layer, graph) = (streams.quantized.layer(), streams.quantized.graph());
            let (mut passed, mut is_open) = (0.0, false);
            for matrix in graph.rounded() {
                let (name, stored) = streams.quantized.stored(matrix)?;
                passed += effort.of_pass(stored.shape.elements());
                let position = self.chosen.position(&name);
                is_open |= position.is_some_and(|position| !sinks.is_done(0, position));
            }
            let part = if is_open { "layer" } else { "finished layer" };
            let number = u64::from(layer.0) + 1;
            observer.observe(Event::At { part, number, count, steady: is_open });
            for (group, _) in graph.numbered() {
                self.group(&mut streams, group, sinks, reports, &mut effort, observer)?;
            }
            rest.encode(Some(layer), sinks, observer)?;
            if self.chosen.output.is_none() && streams.quantized.is_at_last_layer() {
                // Nobody asks what comes out of it.
                return Ok(());
            }
            streams.advance(&mut |_| check_cancelled(self.cancel))?;
            effort.advance(passed, observer);
        }
        let Some((position, _)) = self.chosen.output else { return Ok(()) };
        let columns = to_usize(self.model.tensors[position].shape.columns());
        if sinks.is_done(0, position) {
            return Ok(());
        }
        observer.observe(Event::At { part: "output matrix", number: 1, count: 1, steady: true });
        self.collector().output(&mut streams, columns, &mut |sums| {
            let tokens = sums.tokens();
            let captured = Captured::of(self.backend, sums, tokens, false)?;
            self.output(&captured, sinks, reports, observer)
        })
    }

    /// Quantizes all matrices with statistics that are known; what a matrix became changes
    /// nothing for those that come after it.
    pub(super) fn run_known(
        &self,
        forward: &Forward<'_, B, ModelWeights<'_>>,
        known: &Known,
        rest: &mut Rest<'_>,
        sinks: &mut Sinks,
        reports: &mut Reports,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let mut layer = None;
        for group in Group::of_model(forward, true)? {
            if group.layer != layer {
                rest.encode(layer, sinks, observer)?;
                layer = group.layer;
            }
            if group.layer.is_none() {
                return self.known_output(&group, known, sinks, reports, observer);
            }
            let is_open = |name: &String| {
                self.chosen.position(name).filter(|position| !sinks.is_done(0, *position))
            };
            let open: Vec<usize> = group.names.iter().filter_map(is_open).collect();
            if open.is_empty() {
                continue;
            }
            for expert in 0..group.experts {
                let captured = known.of(&group, expert, self.options.method.needs())?;
                for position in &open {
                    let matrix = self.matrix(*position, (group.experts > 1).then_some(expert));
                    let first = matrix.first_row;
                    let rows = first..first + matrix.rows as u64;
                    let name = &self.model.tensors[*position].name;
                    let weights = forward.numbers(name, rows)?;
                    let report = self.written(&matrix, &weights, &captured, sinks)?;
                    reports.methods.push(self.described(&matrix, &captured, report));
                    observer.observe(Event::Advanced { weights: weights.len() as u64 });
                }
            }
            open.into_iter().for_each(|position| self.complete(sinks, position, observer));
        }
        Ok(())
    }

    /// Quantizes the output matrix, with what is known of its inputs.
    fn known_output(
        &self,
        group: &Group,
        known: &Known,
        sinks: &mut Sinks,
        reports: &mut Reports,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        if self.chosen.output.is_none_or(|(position, _)| sinks.is_done(0, position)) {
            return Ok(());
        }
        let captured = known.whatever(group, 0, self.options.method.needs())?;
        self.output(&captured, sinks, reports, observer)
    }

    /// A matrix of a tensor that is chosen.
    pub(super) fn matrix(&self, position: usize, expert: Option<usize>) -> Matrix {
        let shape = &self.model.tensors[position].shape;
        let rows = match expert {
            Some(_) => self.model.tensors[position].rows_per_matrix(),
            None => shape.rows(),
        };
        let data_type = self.plans[0].assignments[position].data_type;
        let columns = to_usize(shape.columns());
        let first_row = expert.unwrap_or(0) as u64 * rows;
        Matrix { position, expert, first_row, rows: to_usize(rows), columns, data_type }
    }

    /// True if nothing is left to be quantized.
    fn is_all_done(&self, sinks: &Sinks) -> bool {
        self.chosen.positions().all(|position| sinks.is_done(0, position))
    }

    pub(super) fn collector(&self) -> Collector<'_> {
        let gram = self.options.method.needs() == Needs::Gram;
        Collector {
            moments: !gram,
            gram,
            may_cut: false,
            is_beside: self.options.propagates(),
            samples: gram,
            in_halves: self.options.options.gptq.propagation_damping.is_none(),
            experts: self.options.experts,
            max_memory: self.options.compute.max_memory,
            workers: self.workers,
            cancel: self.cancel,
        }
    }

    /// Whether later layers see what earlier ones became.
    fn replaces(&self) -> bool {
        self.options.method.needs() == Needs::Gram
    }

    /// Quantizes the matrices of a group.
    fn group(
        &self,
        streams: &mut Streams<'_, B>,
        group: GroupIndex,
        sinks: &mut Sinks,
        reports: &mut Reports,
        effort: &mut Effort,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let stream = &mut streams.quantized;
        let (graph, mut open, mut tensors) = (stream.graph(), Vec::new(), Vec::new());
        for index in graph.matrices(group) {
            let matrices = self.matrices(stream, index)?;
            let Some(position) = matrices.first().map(|matrix| matrix.position) else { continue };
            let is_done = sinks.is_done(0, position);
            if !(is_done && self.taken_back(stream, index, &matrices, sinks)?) {
                open.extend(matrices.into_iter().map(|matrix| (index, matrix)));
            }
            if !is_done {
                tensors.push(position);
            }
        }
        let mut experts: Vec<_> = open.iter().map(|(_, matrix)| matrix.expert).collect();
        experts.sort_unstable();
        experts.dedup();
        let collector = self.collector();
        let (mut mean, mut tokens_of_experts) = (MeanOfExperts::default(), Vec::new());
        let (width, all) = (graph.group(group).columns, experts.len().max(1) as f64);
        let items = collector.items(graph, group, streams.quantized.hidden_width(), &experts);
        let mut replacements = Vec::new();
        for items in collector.passes(items) {
            let share = items.len() as f64 / all;
            let collected = collector.collect(streams, items, &mut mean)?;
            effort.advance(effort.of_inputs(width) * share, observer);
            for Collected { item, sums, tokens } in collected {
                let expert = item.expert;
                tokens_of_experts.push(tokens);
                let is_short = item.is_too_short(tokens);
                let captured = Captured::of(self.backend, sums, tokens, is_short)?;
                let own = open.iter().filter(|(_, matrix)| matrix.expert == expert);
                for (index, matrix) in own {
                    let weights = streams.quantized.weights(*index, matrix.expert)?;
                    let Quantized { content, numbers, lost, report } =
                        self.quantized(matrix, &weights, &captured)?;
                    if !sinks.is_done(0, matrix.position) {
                        self.put(sinks, matrix, content, lost)?;
                    }
                    if self.replaces() {
                        replacements.push((*index, matrix.expert, numbers));
                    }
                    reports.methods.push(self.described(matrix, &captured, report));
                    let weights = (matrix.rows * matrix.columns) as u64;
                    effort.advance(effort.of_matrix(weights, matrix.columns as u64), observer);
                }
            }
        }
        // Only now: what one expert became must change nothing that the others are told.
        for (index, expert, Numbers { data_type, bytes }) in replacements {
            streams.quantized.replace(index, expert, data_type, bytes)?;
        }
        if graph.group(group).inputs_of_all.is_some() && !tokens_of_experts.is_empty() {
            let layer = streams.quantized.layer().0;
            let coverage = ExpertCoverage { layer, tokens: tokens_of_experts };
            let warnings = coverage.warnings(self.options.experts.least_tokens());
            warnings.iter().for_each(|warning| observer.observe(Event::Warning(warning)));
            reports.experts.push(coverage);
        }
        for position in tensors {
            self.complete(sinks, position, observer);
        }
        Ok(())
    }

    /// The matrices, one of each expert where each has its own, that are to be quantized.
    pub(super) fn matrices(
        &self,
        stream: &Stream<'_, B>,
        index: MatrixIndex,
    ) -> Result<Vec<Matrix>, Error> {
        let (name, stored) = stream.stored(index)?;
        let Some(position) = self.chosen.position(&name) else { return Ok(Vec::new()) };
        let experts: Vec<_> = match stored.shape.dimensions() {
            [experts, _, _] => (0..to_usize(*experts)).map(Some).collect(),
            _ => vec![None],
        };
        Ok(experts.into_iter().map(|expert| self.matrix(position, expert)).collect())
    }

    /// Replaces matrices by what an earlier run wrote; false if that cannot be read.
    fn taken_back(
        &self,
        stream: &mut Stream<'_, B>,
        index: MatrixIndex,
        matrices: &[Matrix],
        sinks: &Sinks,
    ) -> Result<bool, Error> {
        for matrix in matrices.iter().filter(|_| self.replaces()) {
            let numbers = self.storage(matrix).read_back(self.plans, sinks)?;
            let Some(Numbers { data_type, bytes }) = numbers else { return Ok(false) };
            stream.replace(index, matrix.expert, data_type, bytes)?;
        }
        Ok(true)
    }

    /// How the output stores a matrix, or rows of one.
    pub(super) fn storage(&self, matrix: &Matrix) -> Box<dyn Storage + '_> {
        let plan = &self.plans[0];
        let Some(place) = plan.packed(matrix.position) else {
            let Matrix { position, first_row, rows, columns, data_type, .. } = *matrix;
            let row_bytes = matrix.row_bytes();
            return Box::new(TypedRows {
                data_type,
                position,
                first_row,
                rows,
                columns,
                row_bytes,
            });
        };
        let row_order = plan.row_order(matrix.position);
        let gguf = self.model.tensors[matrix.position].row_order();
        let number = matrix.expert.unwrap_or(0);
        let measures = self.measures.of(0, matrix.position);
        let measure = measures.and_then(|measures| measures.get(number).copied());
        let measure = measure.unwrap_or_default();
        Box::new(PackedMatrix::new(place, number, measure, gguf, row_order))
    }

    /// A matrix, or rows of one, in the form that its output has.
    fn quantized(
        &self,
        matrix: &Matrix,
        weights: &[f32],
        captured: &Captured,
    ) -> Result<Quantized, Error> {
        let storage = self.storage(matrix);
        let captured = storage.rotation().map_or(captured, |rotation| captured.rotated(rotation));
        let ordered = storage.in_order(weights);
        let mut grid = None;
        let target = storage
            .target(&ordered, &mut grid)
            .ok_or_else(|| Error::MethodFormat { target: matrix.data_type.name().to_owned() })?;
        let mut writer = storage.writer();
        let report = self.choose(matrix, &ordered, captured, target, &mut |rows, batch| {
            writer.take(rows, batch);
        })?;
        let (content, numbers) = writer.finish();
        let suspicion = storage.suspicion(loss::largest(weights));
        let lost = self.lost(matrix, weights, suspicion, &numbers)?;
        Ok(Quantized { content, numbers, lost, report })
    }

    /// Quantizes a matrix, or rows of one, into the output.
    pub(super) fn written(
        &self,
        matrix: &Matrix,
        weights: &[f32],
        captured: &Captured,
        sinks: &mut Sinks,
    ) -> Result<TensorReport, Error> {
        let Quantized { content, lost, report, .. } = self.quantized(matrix, weights, captured)?;
        self.put(sinks, matrix, content, lost)?;
        Ok(report)
    }

    /// Weights that the output cannot hold; `numbers` are what became of all.
    fn lost(
        &self,
        matrix: &Matrix,
        weights: &[f32],
        suspicion: Suspicion,
        Numbers { data_type, bytes }: &Numbers,
    ) -> Result<u64, Error> {
        let data_type = *data_type;
        let Some(codec) = qz_kernels::codec_for(data_type) else { return Ok(0) };
        let row_bytes = data_type.byte_size(matrix.columns as u64).map_or(1, to_usize).max(1);
        let mut written = vec![0.0; matrix.columns];
        let mut lost = 0;
        let rows = weights.chunks(matrix.columns.max(1)).zip(bytes.chunks(row_bytes));
        for (row, (weights, bytes)) in
            rows.enumerate().filter(|(_, (own, _))| suspicion.is_raised(own))
        {
            codec.decode(bytes, &mut written);
            let found = suspicion.lost(weights, &written).map_err(|_| {
                let tensor = &self.model.tensors[matrix.position];
                let location = self.model.location(tensor, 0);
                Error::Overflow {
                    location: qz_tensor::Location { offset: None, ..location },
                    row: matrix.first_row + row as u64,
                    largest: loss::largest(weights),
                    data_type: matrix.data_type,
                }
            })?;
            lost += found.weights;
        }
        Ok(lost)
    }

    /// Has the method choose among the target's values; `take` gets the rows in order.
    fn choose(
        &self,
        matrix: &Matrix,
        weights: &[f32],
        captured: &Captured,
        target: Target<'_>,
        take: &mut (dyn FnMut(Range<usize>, &RowBatch) + Send),
    ) -> Result<TensorReport, Error> {
        let problem = Problem {
            weights: WeightRows::dense(weights, matrix.columns),
            statistics: captured.statistics(),
            target,
            device: self.backend,
            options: &self.options.options,
        };
        let mut take = |rows: Range<usize>, batch: &RowBatch| {
            take(rows, batch);
            match self.cancel.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let report = self.workers.install(|| self.options.method.quantize(&problem, &mut take));
        check_cancelled(self.cancel)?;
        report.map_err(|error| match error {
            qz_methods::Error::Stopped => Error::Interrupted,
            qz_methods::Error::Weight(weight) => {
                let tensor = &self.model.tensors[matrix.position];
                let row = matrix.first_row + weight.row as u64;
                let index = row * matrix.columns as u64 + weight.column as u64;
                let value = weights[weight.row * matrix.columns + weight.column];
                let location = self.model.location(tensor, 0);
                Error::NonFiniteWeight { location, index, value }
            }
            source => {
                let tensor = self.model.tensors[matrix.position].name.to_string();
                Error::Method { tensor, source }
            }
        })
    }

    fn put(
        &self,
        sinks: &mut Sinks,
        matrix: &Matrix,
        content: Content,
        lost: u64,
    ) -> Result<(), Error> {
        let piece = Piece { work: 0, output: 0, first_row: matrix.first_row, content, lost };
        sinks.put(self.plans, matrix.position, &piece)
    }

    pub(super) fn described(
        &self,
        matrix: &Matrix,
        captured: &Captured,
        report: TensorReport,
    ) -> MethodTensor {
        MethodTensor {
            tensor: self.model.tensors[matrix.position].name.to_string(),
            expert: matrix.expert,
            data_type: matrix.data_type.name(),
            tokens: captured.tokens,
            filled_up_to: captured.filled_up_to,
            is_uncorrected: captured.is_uncorrected,
            report,
        }
    }

    pub(super) fn complete(&self, sinks: &mut Sinks, position: usize, observer: &mut dyn Observer) {
        sinks.complete(self.plans, position);
        sinks.checkpoint();
        let tensor = &self.model.tensors[position];
        let to = [self.plans[0].assignments[position].data_type];
        let from = tensor.source_type;
        observer.observe(Event::TensorDone { name: &tensor.name, from, to: &to });
    }

    /// Quantizes the output matrix, some rows at a time.
    fn output(
        &self,
        captured: &Captured,
        sinks: &mut Sinks,
        reports: &mut Reports,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let Some((position, _)) = self.chosen.output else { return Ok(()) };
        let whole = self.matrix(position, None);
        let importance = QuantizeOptions {
            method: qz_methods::method_named("imatrix").expect("a method"),
            ..self.options.clone()
        };
        // Statistics of another run may have no more.
        let has_gram = captured.gram.is_some() || self.options.method.needs() != Needs::Gram;
        let options = if has_gram { self.options } else { &importance };
        let layers = Layers { options, ..*self };
        let mut parts = Vec::new();
        for first in (0..whole.rows).step_by(output_rows(&whole)) {
            let count = output_rows(&whole).min(whole.rows - first);
            let weights = self.read_rows(position, first as u64, count)?;
            let part = Matrix { first_row: first as u64, rows: count, ..whole };
            let report = layers.written(&part, &weights, captured, sinks)?;
            observer.observe(Event::Advanced { weights: weights.len() as u64 });
            parts.push(report);
        }
        let report = TensorReport::of_parts(parts);
        reports.methods.extend(report.map(|report| self.described(&whole, captured, report)));
        self.complete(sinks, position, observer);
        Ok(())
    }

    /// Rows of a tensor as numbers, in the order of GGUF.
    pub(super) fn read_rows(
        &self,
        position: usize,
        first: u64,
        count: usize,
    ) -> Result<Vec<f32>, Error> {
        let tensor = &self.model.tensors[position];
        let data_type = tensor.source_type;
        let mut bytes = vec![0; count * tensor.row_bytes(data_type)];
        self.model.read_ordered_rows(tensor, first..first + count as u64, &mut bytes)?;
        let codec = qz_kernels::codec_for(data_type).ok_or_else(|| Error::NoCodec {
            location: self.model.location(tensor, 0),
            data_type,
            target: data_type,
            missing: data_type,
        })?;
        let mut weights = vec![0.0; count * to_usize(tensor.shape.columns())];
        codec.decode(&bytes, &mut weights);
        Ok(weights)
    }
}
