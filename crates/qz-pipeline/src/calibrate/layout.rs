//! The statistics file: which tensors it has, and what is in them.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use qz_calib::sums::{entry_tensors, metadata, tensor, to_bytes};
use qz_calib::{
    GRAM, ImportanceSums, MAGNITUDES, Moments, TOKEN_COUNTS, TensorSums, tell_quantized,
};
use qz_gguf::{GgufLayout, GgufSink};
use qz_kernels::backend::Backend;
use qz_linalg::packed_len;
use qz_models::LayerIndex;
use qz_models::forward::{Chunks, Forward};
use qz_models::graph::{GroupIndex, LinearGroup};
use qz_tensor::{Location, OutputOptions, SinkTensor, TensorIndex, TensorSink};
use sha2::{Digest, Sha256};

use super::{CalibrateOptions, StatisticsFormat};
use crate::error::Error;
use crate::model_weights::ModelWeights;
use crate::statistics::LackingKind;

/// Matrices that share inputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// Their layer; none for the output matrix.
    pub(crate) layer: Option<LayerIndex>,
    /// What its layer's graph says of it; of the output matrix nothing.
    pub(crate) linear: Option<(GroupIndex, LinearGroup)>,
    /// Their GGUF names.
    pub(crate) names: Vec<String>,
    /// Numbers of a row of inputs.
    pub(crate) width: usize,
    /// Experts that have matrices of their own; 1 if there are none.
    pub(crate) experts: usize,
    /// Numbers of a hidden state.
    pub(crate) hidden: usize,
}

impl Group {
    /// All groups of a model, in the order in which it computes them.
    pub(crate) fn of_model<B: Backend>(
        forward: &Forward<'_, B, ModelWeights<'_>>,
        output_matrix: bool,
    ) -> Result<Vec<Self>, Error> {
        let mut groups = Vec::new();
        for layer in (0..forward.graph().layer_count()).map(LayerIndex) {
            let graph = forward.graph().layer(layer);
            for (index, linear) in graph.numbered() {
                let name = |matrix| forward.stored(layer, matrix).map(|(name, _)| name);
                groups.push(Self {
                    layer: Some(layer),
                    linear: Some((index, linear.clone())),
                    names: graph.matrices(index).map(name).collect::<Result<_, Error>>()?,
                    width: linear.columns,
                    experts: linear.experts.unwrap_or(1),
                    hidden: forward.graph().hidden,
                });
            }
        }
        let (name, _) = forward.stored_output()?;
        // A matrix that is the embedding, too, is nothing that llama-imatrix collects.
        if output_matrix && name.starts_with("output.") {
            let width = forward.graph().hidden;
            groups.push(Self {
                layer: None,
                linear: None,
                names: vec![name],
                width,
                experts: 1,
                hidden: width,
            });
        }
        Ok(groups)
    }

    /// True for one of a layer's groups with experts, to tell of each once.
    pub(super) fn is_first_of_experts(&self) -> bool {
        self.linear.as_ref().is_some_and(|(_, linear)| linear.inputs_of_all.is_some())
    }

    /// Whose matrices they are.
    pub(super) fn experts(&self) -> Vec<Option<usize>> {
        let experts = self.linear.as_ref().and_then(|(_, linear)| linear.experts);
        experts.map_or_else(|| vec![None], |experts| (0..experts).map(Some).collect())
    }

    /// Of what differences between a full and a quantized model are summed.
    pub(crate) fn lacking(&self) -> Option<LackingKind> {
        match &self.linear {
            Some((_, linear)) => LackingKind::of(linear, self.hidden),
            None => Some(LackingKind::Inputs),
        }
    }

    /// The name of the sums of these differences.
    pub(super) fn cross_name(&self) -> Option<String> {
        Some(format!("{}{}", self.names[0], self.lacking()?.id()))
    }

    /// The name of its Gram matrix; routers get none: nobody rounds them.
    pub(super) fn gram_name(&self) -> Option<String> {
        let wanted = self.linear.as_ref().is_none_or(|(_, linear)| !linear.is_router);
        wanted.then(|| format!("{}{GRAM}", self.names[0]))
    }
}

/// A statistics file that grows.
pub(super) struct File<'a> {
    earlier: &'a ImportanceSums,
    sums: ImportanceSums,
    options: &'a CalibrateOptions,
    path: PathBuf,
    chunk_size: u32,
    chunks: u32,
    bytes: u64,
    /// None for a legacy file, which is written at its end.
    sink: Option<GgufSink>,
    tensors: Vec<String>,
    positions: HashMap<String, TensorIndex>,
}

impl<'a> File<'a> {
    /// Begins it, or goes on with what an interrupted run left.
    pub(super) fn new(
        path: &Path,
        groups: &[Group],
        earlier: &'a ImportanceSums,
        options: &'a CalibrateOptions,
        text: &Chunks,
        identity: &str,
        (vocabulary, quantized_bits): (usize, Option<f64>),
    ) -> Result<Self, Error> {
        let chunk_size = u32::try_from(options.data.context).unwrap_or(u32::MAX);
        check_fits(groups, earlier, options, path)?;
        let most = earlier.tensors.values().flat_map(|sums| &sums.counts).max().copied();
        let tokens = text.tokens().len() as u64;
        let chunks = (most.unwrap_or(0) + tokens) / u64::from(chunk_size.max(1));
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        let mut datasets = earlier.datasets.clone();
        for name in options.data.names() {
            // A run that goes on has the same text again.
            if !(options.resume && datasets.contains(&name)) {
                datasets.push(name);
            }
        }
        let sums = ImportanceSums { datasets: datasets.clone(), ..ImportanceSums::default() };
        let tensors = tensors(groups, options, vocabulary);
        let names: Vec<String> = tensors.iter().map(|one| one.name.clone()).collect();
        let positions = names.iter().cloned().zip((0..).map(TensorIndex)).collect();
        let mut file = Self {
            earlier,
            sums,
            options,
            path: path.to_owned(),
            chunk_size,
            chunks,
            bytes: 0,
            sink: None,
            tensors: names,
            positions,
        };
        if options.format == StatisticsFormat::Gguf {
            let mut metadata = metadata(&datasets, chunks, chunk_size);
            if let Some(bits) = quantized_bits {
                tell_quantized(&mut metadata, bits);
            }
            let layout = GgufLayout::new(path, &metadata, &tensors, None)?;
            file.bytes = layout.size();
            let fingerprint = file.fingerprint(identity);
            file.sink = Some(GgufSink::begin(layout, &fingerprint, file.output())?);
        }
        Ok(file)
    }

    /// A run that goes on from its output replaces it.
    fn output(&self) -> OutputOptions {
        let output = self.options.output;
        output.replacing(output.replace || self.options.resume)
    }

    /// One line that tells this job from any other.
    fn fingerprint(&self, identity: &str) -> String {
        let options = self.options;
        let mut text = format!("calibrate\n{identity}\n");
        let compute = (options.compute.rounding, options.compute.cache_type.name());
        let routing = (options.experts.all, options.experts.prior);
        let _ = writeln!(text, "{compute:?} {routing:?} {} {}", self.chunk_size, self.chunks);
        for name in &self.tensors {
            let _ = writeln!(text, "{name}");
        }
        for (name, sums) in &self.earlier.tensors {
            let bytes = to_bytes(sums.squares.iter().copied());
            let _ = writeln!(text, "{name} {:x} {:?}", Sha256::digest(bytes), sums.counts);
        }
        format!("{:x}", Sha256::digest(text.as_bytes()))
    }

    /// How many tensors an interrupted run had finished.
    pub(super) fn finished(&self) -> usize {
        self.sink.as_ref().map_or(0, |sink| sink.completed().len())
    }

    /// Tensors that an interrupted run had finished, and that have changed since.
    pub(super) fn damaged(&self) -> Vec<&str> {
        let damaged = self.sink.iter().flat_map(|sink| sink.damaged());
        damaged.map(|index| &*self.tensors[index.0]).collect()
    }

    /// True if everything about a group is in the file.
    pub(super) fn is_complete(&self, group: &Group) -> bool {
        let Some(sink) = &self.sink else { return false };
        let is_there =
            |name: &String| self.positions.get(name).is_some_and(|index| is_finished(sink, *index));
        let own = |name: &String| {
            let magnitudes = self.options.collect.magnitudes.then(|| format!("{name}{MAGNITUDES}"));
            let sums = ["in_sum2", "counts"].map(|kind| format!("{name}.{kind}"));
            sums.into_iter().chain(magnitudes)
        };
        let gram = group.gram_name().filter(|_| self.options.collect.grams);
        let cross = group.cross_name().filter(|_| self.options.beside.is_some());
        gram.iter().chain(&cross).all(is_there)
            && group.names.iter().flat_map(own).all(|name| is_there(&name))
    }

    /// Writes some rows of an expert's Gram matrix, from entry `first` of its triangle on.
    pub(super) fn put_gram(
        &mut self,
        group: &Group,
        expert: usize,
        first: usize,
        entries: impl Iterator<Item = f32>,
    ) -> Result<(), Error> {
        let name = format!("{}{GRAM}", group.names[0]);
        let start = expert * packed_len(group.width) + first;
        self.put(&name, (start * size_of::<f32>()) as u64, &to_bytes(entries))
    }

    /// Writes an expert's sums of what is lacking, as sums over so many tokens.
    pub(super) fn put_lacking(
        &mut self,
        group: &Group,
        expert: usize,
        kind: LackingKind,
        means: Option<Vec<f32>>,
        tokens: u64,
    ) -> Result<(), Error> {
        let name = format!("{}{}", group.names[0], kind.id());
        let entries = kind.rows(group.width) * group.width;
        let means = means.unwrap_or_else(|| vec![0.0; entries]);
        let sums = means.into_iter().map(|mean| (f64::from(mean) * tokens as f64) as f32);
        let start = expert * entries * size_of::<f32>();
        self.put(&name, start as u64, &to_bytes(sums))
    }

    /// Writes a group's moments, with those of files before.
    pub(super) fn put_moments(&mut self, group: &Group, experts: &[Moments]) -> Result<(), Error> {
        if let Some(name) = group.gram_name().filter(|_| self.options.collect.grams) {
            self.record(&name);
        }
        if let Some(name) = group.cross_name().filter(|_| self.options.beside.is_some()) {
            self.record(&name);
        }
        for name in &group.names {
            let mut sums = self.earlier.tensors.get(name).cloned().unwrap_or_default();
            if !sums.merge(&TensorSums::of(experts)) {
                return Err(misfit(&self.path, name));
            }
            if self.options.collect.magnitudes {
                let name = format!("{name}{MAGNITUDES}");
                let magnitudes = experts.iter().flat_map(Moments::magnitudes);
                self.put(&name, 0, &to_bytes(magnitudes.map(|sum| sum as f32)))?;
                self.record(&name);
            }
            let squares = to_bytes(sums.squares.iter().copied());
            self.put(&format!("{name}.in_sum2"), 0, &squares)?;
            self.record(&format!("{name}.in_sum2"));
            let counts = to_bytes(sums.counts.iter().map(|count| *count as f32));
            self.put(&format!("{name}.counts"), 0, &counts)?;
            self.record(&format!("{name}.counts"));
            if self.sink.is_none() {
                self.sums.tensors.insert(name.clone(), sums);
            }
        }
        if let Some(sink) = &mut self.sink {
            sink.checkpoint();
        }
        Ok(())
    }

    /// Writes how often each token was there.
    pub(super) fn put_token_counts(
        &mut self,
        vocabulary: usize,
        tokens: &[u32],
    ) -> Result<(), Error> {
        let mut counts = vec![0.0; vocabulary];
        tokens.iter().for_each(|token| counts[*token as usize] += 1.0);
        self.put(TOKEN_COUNTS, 0, &to_bytes(counts.into_iter()))
    }

    fn put(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        match (&mut self.sink, self.positions.get(name)) {
            // What an interrupted run finished is there already.
            (Some(sink), Some(index)) if !is_finished(sink, *index) => {
                Ok(sink.put(*index, offset, bytes)?)
            }
            _ => Ok(()),
        }
    }

    fn record(&mut self, name: &str) {
        if let (Some(sink), Some(index)) = (&mut self.sink, self.positions.get(name))
            && !is_finished(sink, *index)
        {
            sink.record_complete(*index, 0);
        }
    }

    /// Chunks in the file.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Matrices in the file.
    pub(super) fn entries(&self) -> usize {
        self.tensors.iter().filter(|name| name.ends_with(".in_sum2")).count()
    }

    /// Leaves what is there for the next run to go on with.
    pub(super) fn keep(self) -> Result<(), Error> {
        match self.sink {
            Some(sink) => Ok(sink.keep()?),
            None => Ok(()),
        }
    }

    /// Puts it into its place; its size.
    pub(super) fn finish(self) -> Result<u64, Error> {
        match self.sink {
            Some(sink) => {
                sink.finish()?;
                Ok(self.bytes)
            }
            None => {
                let output = self.output();
                Ok(self.sums.write_legacy(&self.path, self.chunk_size, output)?)
            }
        }
    }
}

/// True if an interrupted run had finished the tensor.
fn is_finished(sink: &GgufSink, index: TensorIndex) -> bool {
    sink.completed().binary_search(&index).is_ok()
}

/// The file's tensors: importance as llama-imatrix orders it, then what else is there.
fn tensors(groups: &[Group], options: &CalibrateOptions, vocabulary: usize) -> Vec<SinkTensor> {
    let mut entries: Vec<(&String, &Group)> =
        groups.iter().flat_map(|group| group.names.iter().map(move |name| (name, group))).collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    let mut tensors: Vec<SinkTensor> = entries
        .iter()
        .flat_map(|(name, group)| entry_tensors(name, group.experts, group.width))
        .collect();
    let stacked = |group: &Group, each: usize| match group.experts {
        1 => vec![each as u64],
        experts => vec![experts as u64, each as u64],
    };
    if options.collect.magnitudes {
        let magnitudes = entries.iter().map(|(name, group)| {
            tensor(format!("{name}{MAGNITUDES}"), stacked(group, group.width))
        });
        tensors.extend(magnitudes);
    }
    if options.collect.tokens {
        tensors.push(tensor(TOKEN_COUNTS.to_owned(), vec![vocabulary as u64]));
    }
    if options.collect.grams {
        let named = groups.iter().filter_map(|group| Some((group.gram_name()?, group)));
        tensors.extend(
            named.map(|(name, group)| tensor(name, stacked(group, packed_len(group.width)))),
        );
    }
    if options.beside.is_some() {
        let named = groups.iter().filter_map(|group| Some((group.cross_name()?, group)));
        tensors.extend(named.map(|(name, group)| {
            let rows = group.lacking().map_or(0, |kind| kind.rows(group.width));
            tensor(name, stacked(group, rows * group.width))
        }));
    }
    tensors
}

/// Files to add must be of this model, and of the same kind.
fn check_fits(
    groups: &[Group],
    earlier: &ImportanceSums,
    options: &CalibrateOptions,
    path: &Path,
) -> Result<(), Error> {
    let widths: HashMap<&str, usize> = groups
        .iter()
        .flat_map(|group| {
            group.names.iter().map(|name| (name.as_str(), group.width * group.experts))
        })
        .collect();
    for (name, sums) in &earlier.tensors {
        if widths.get(name.as_str()) != Some(&sums.squares.len()) {
            return Err(misfit(options.add.first().map_or(path, PathBuf::as_path), name));
        }
    }
    Ok(())
}

fn misfit(path: &Path, name: &str) -> Error {
    let location = Location::file(path).tensor(name);
    qz_calib::Error::Malformed { location, fault: qz_calib::Fault::OtherShape }.into()
}
