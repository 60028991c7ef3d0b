//! The outputs of a conversion while they are written: what each still wants, and
//! where encoded rows go.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_models::{PickedColumns, RowSlice};
use qz_packed::{Measure, Rounding};
use qz_tensor::{DataType, SinkTensor, SourceFile, StagedArtifact, TensorIndex};
use sha2::{Digest, Sha256};

use crate::convert::{ConvertOptions, Output, importance};
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::format::{Destination, PartPlace, Placement, Sink, TargetPlan};
use crate::loss;
use crate::measuring::Measures;
use crate::model::{Model, to_usize};
use crate::planning::PlanOptions;
use crate::stream::{Content, Encoding, Piece, Wanted, Work};

/// The outputs being written.
pub(crate) struct Sinks {
    outputs: Vec<Growing>,
}

/// An output being written.
pub(crate) struct Growing {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) files: Vec<PathBuf>,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Which of the model's tensors it wants no more: those that an interrupted run
    /// had finished, and those that it does not hold.
    done: Vec<bool>,
    /// Of each of its own tensors, how many of the model's still have rows for it.
    awaited: Vec<usize>,
    /// Of the model's tensors, weights that it cannot hold.
    lost: BTreeMap<usize, u64>,
    /// The same of its own tensors, of those of the model's that are complete.
    noted: Vec<u64>,
    /// True if it is at its final path already, made by this job.
    pub(crate) is_there: bool,
    fingerprint: String,
}

impl Growing {
    /// Moves it to its final path.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let placed: Box<dyn Sink> = Box::new(Placed::new(0));
        std::mem::replace(&mut self.sink, placed).finish()
    }

    /// What a later run finds of it once it is at its final path, should the job's other
    /// outputs not be there by then.
    pub(crate) fn note(&self) -> Option<String> {
        note(&self.fingerprint, &self.files)
    }

    /// What a person should know of weights that it cannot hold.
    pub(crate) fn loss(&self, target: &str, model: &Model) -> Option<String> {
        let tensor = |(position, lost): (&usize, &u64)| {
            let tensor = &model.tensors[*position];
            (&*tensor.name, *lost, tensor.shape.elements())
        };
        loss::warning(target, &self.lost.iter().map(tensor).collect::<Vec<_>>())
    }
}

impl Sinks {
    /// Begins all outputs, or continues them. `recipe` is what decides about their bytes
    /// beside the model, the plans and the options. `all` are the paths of all the job's
    /// outputs.
    pub(crate) fn create(
        model: &Model,
        outputs: &[Output],
        plans: &[TargetPlan],
        options: &ConvertOptions,
        recipe: &str,
        all: &[&Path],
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let mut growing = Vec::with_capacity(outputs.len());
        let inputs = options.inputs(model);
        for (output, plan) in outputs.iter().zip(plans) {
            let layout = output.target.format.layout(&output.path, plan, &options.plan)?;
            let (files, bytes) = (layout.paths(), layout.size());
            files.iter().try_for_each(|file| inputs.check(file))?;
            let fingerprint = fingerprint(model, plan, &options.plan, recipe);
            let is_there = is_there(&fingerprint, &files, all)?;
            let sink: Box<dyn Sink> = match is_there {
                true => Box::new(Placed::new(plan.tensors.len())),
                false => layout.begin(&fingerprint, options.output)?,
            };
            let finished: HashSet<TensorIndex> = sink.completed().iter().copied().collect();
            if is_there {
                observer.observe(Event::There { path: &output.path });
            } else if !finished.is_empty() {
                let tensors = finished.len();
                observer.observe(Event::Resumed { path: &output.path, tensors });
            }
            let damaged = sink.damaged().iter().map(|tensor| &*plan.tensors[tensor.0].name);
            warn_of_damage(&output.path, &damaged.collect::<Vec<_>>(), observer);
            let positions = 0..plan.places.len();
            let is_done = |position: usize| plan.tensors_of(position).is_subset(&finished);
            let done: Vec<bool> = positions.clone().map(is_done).collect();
            let mut awaited = vec![0; plan.tensors.len()];
            for position in positions.filter(|position| !done[*position]) {
                plan.tensors_of(position).iter().for_each(|tensor| awaited[tensor.0] += 1);
            }
            let lost = earlier_losses(&*sink, plan, &done);
            let noted = vec![0; plan.tensors.len()];
            growing.push(Growing {
                sink,
                files,
                bytes,
                done,
                awaited,
                lost,
                noted,
                is_there,
                fingerprint,
            });
        }
        Ok(Self { outputs: growing })
    }

    /// True if all outputs are at their final paths already.
    pub(crate) fn are_there(&self) -> bool {
        self.outputs.iter().all(|output| output.is_there)
    }

    /// True if this output still wants the model's tensor at `position`.
    pub(crate) fn wants(&self, output: usize, position: usize) -> bool {
        !self.outputs[output].done[position]
    }

    /// True if some output wants the model's tensor at `position`.
    pub(crate) fn is_wanted(&self, position: usize) -> bool {
        self.outputs.iter().any(|output| !output.done[position])
    }

    /// True if this output has the model's tensor at `position`, or holds no such tensor.
    pub(crate) fn is_done(&self, output: usize, position: usize) -> bool {
        self.outputs[output].done[position]
    }

    /// The bytes of some rows of the model's tensor at `position`, if the output has
    /// them and can give them back.
    pub(crate) fn read_back(
        &self,
        plans: &[TargetPlan],
        output: usize,
        position: usize,
        first_row: u64,
        row_bytes: usize,
        bytes: &mut [u8],
    ) -> Result<bool, Error> {
        let Some(place) = &plans[output].places[position] else { return Ok(false) };
        let Destination::Runs(runs) = &place.destination else { return Ok(false) };
        if runs.columns().is_some() {
            return Ok(false);
        }
        let sink = &self.outputs[output].sink;
        let row_bytes = row_bytes.max(1);
        let (mut row, mut rest) = (first_row, bytes);
        while !rest.is_empty() {
            let (slice, left) = runs.locate(row);
            if slice.first_row >= rows_of(&plans[output].tensors[slice.tensor.0], row_bytes) {
                return Ok(false);
            }
            let rows = left.clamp(1, (rest.len() / row_bytes).max(1) as u64);
            let length = (rows as usize * row_bytes).min(rest.len());
            let (run, after) = rest.split_at_mut(length);
            if !sink.read_back(slice.tensor, slice.first_row * row_bytes as u64, run)? {
                return Ok(false);
            }
            (row, rest) = (row + rows, after);
        }
        Ok(true)
    }

    /// Some bytes of an output's tensor; none if it is not complete.
    pub(crate) fn read_part(
        &self,
        output: usize,
        part: PartPlace,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut read = vec![0; to_usize(bytes)];
        let is_there =
            self.outputs[output].sink.read_back(part.tensor, part.first_byte, &mut read)?;
        Ok(is_there.then_some(read))
    }

    pub(crate) fn remaining_work<'a>(
        &self,
        model: &'a Model,
        plans: &[TargetPlan],
        measures: &Measures,
        options: &'a PlanOptions,
    ) -> Vec<Work<'a>> {
        let wanted = |position: usize| {
            let of = |(number, (plan, output)): (usize, (&TargetPlan, &Growing))| {
                let measures = measures.of(number, position);
                let wanted = plan.wanted(position, measures, options.rounding);
                wanted.filter(|_| !output.done[position])
            };
            plans.iter().zip(&self.outputs).enumerate().map(of).collect()
        };
        model
            .tensors
            .iter()
            .enumerate()
            .filter(|(position, _)| self.is_wanted(*position))
            .map(|(position, tensor)| Work {
                tensor,
                wanted: wanted(position),
                importance: importance(options, tensor),
            })
            .collect()
    }

    /// Writes all of one of an output's own tensors.
    pub(crate) fn put_tensor(
        &mut self,
        output: usize,
        tensor: TensorIndex,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.outputs[output].sink.put(tensor, 0, bytes)
    }

    /// Writes encoded rows of the model's tensor at `position` to where they go.
    pub(crate) fn put(
        &mut self,
        plans: &[TargetPlan],
        position: usize,
        piece: &Piece,
    ) -> Result<(), Error> {
        let Some(place) = &plans[piece.output].places[position] else { return Ok(()) };
        let Growing { sink, lost, .. } = &mut self.outputs[piece.output];
        if piece.lost > 0 {
            *lost.entry(position).or_default() += piece.lost;
        }
        let (row_bytes, bytes, runs) = match (&piece.content, &place.destination) {
            (Content::Rows { row_bytes, bytes }, Destination::Runs(runs)) => {
                (*row_bytes.max(&1), bytes, runs)
            }
            (Content::Packed(packed), _) => {
                for (tensor, offset, bytes) in packed.strips() {
                    sink.put(tensor, offset, bytes)?;
                }
                return Ok(());
            }
            (Content::Rows { .. } | Content::Measure(_), _) => return Ok(()),
        };
        let (mut row, mut rest) = (piece.first_row, bytes.as_slice());
        while !rest.is_empty() {
            let (slice, mut left) = runs.locate(row);
            if runs.columns().is_none() {
                let all = rows_of(&plans[piece.output].tensors[slice.tensor.0], row_bytes);
                left = left.min(all.saturating_sub(slice.first_row));
                if left == 0 {
                    // The rest is padding, which this tensor has not.
                    break;
                }
            }
            let rows = left.clamp(1, (rest.len() / row_bytes).max(1) as u64);
            // No more than the rest has, so the cast is exact.
            let (run, after) = rest.split_at((rows as usize * row_bytes).min(rest.len()));
            match runs.columns() {
                None => sink.put(slice.tensor, slice.first_row * row_bytes as u64, run)?,
                Some(columns) => {
                    let data_type = plans[piece.output].assignments[position].data_type;
                    put_columns(&mut **sink, slice, columns, data_type, row_bytes, run)?;
                }
            }
            (row, rest) = (row + rows, after);
        }
        Ok(())
    }

    /// Notes that all rows of the model's tensor at `position` have been put.
    pub(crate) fn complete(&mut self, plans: &[TargetPlan], position: usize) {
        for (output, plan) in self.outputs.iter_mut().zip(plans) {
            if output.done[position] {
                continue;
            }
            let lost = output.lost.get(&position).copied().unwrap_or(0);
            for tensor in plan.tensors_of(position) {
                let (awaited, noted) = (&mut output.awaited[tensor.0], &mut output.noted[tensor.0]);
                *awaited -= 1;
                *noted += lost;
                if *awaited == 0 {
                    output.sink.record_complete(tensor, *noted);
                }
            }
        }
    }

    /// Begins to write down what is complete, for a run that is killed from here on.
    pub(crate) fn checkpoint(&mut self) {
        self.outputs.iter_mut().for_each(|output| output.sink.checkpoint());
    }

    /// Leaves all outputs for a later run to continue.
    pub(crate) fn keep(self) -> Result<(), Error> {
        self.outputs.into_iter().try_for_each(|output| output.sink.keep())
    }
}

impl IntoIterator for Sinks {
    type Item = Growing;
    type IntoIter = std::vec::IntoIter<Growing>;

    fn into_iter(self) -> Self::IntoIter {
        self.outputs.into_iter()
    }
}

/// Rows of so many bytes that a tensor has.
fn rows_of(SinkTensor { data_type, shape, .. }: &SinkTensor, row_bytes: usize) -> u64 {
    shape.byte_size(*data_type).unwrap_or(u64::MAX) / row_bytes.max(1) as u64
}

/// Writes rows into some columns of longer ones, whose other columns come from elsewhere
/// and stay as they are.
fn put_columns(
    sink: &mut dyn Sink,
    slice: RowSlice,
    columns: PickedColumns,
    data_type: DataType,
    row_bytes: usize,
    rows: &[u8],
) -> Result<(), Error> {
    let size = data_type.block_bytes();
    let all_bytes = to_usize(columns.of) * size;
    let mut all = vec![0; rows.len() / row_bytes * all_bytes];
    let offset = slice.first_row * all_bytes as u64;
    sink.read_back(slice.tensor, offset, &mut all)?;
    for (all, row) in all.chunks_exact_mut(all_bytes).zip(rows.chunks_exact(row_bytes)) {
        for (out, element) in columns.of_row_mut(all, size).zip(row.chunks_exact(size)) {
            out.copy_from_slice(element);
        }
    }
    sink.put(slice.tensor, offset, &all)
}

/// An output that an earlier run of the job has finished.
struct Placed {
    tensors: Vec<TensorIndex>,
}

impl Placed {
    fn new(tensors: usize) -> Self {
        Self { tensors: (0..tensors).map(TensorIndex).collect() }
    }
}

/// It wants nothing.
impl Sink for Placed {
    fn put(&mut self, _: TensorIndex, _: u64, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn completed(&self) -> &[TensorIndex] {
        &self.tensors
    }

    fn damaged(&self) -> &[TensorIndex] {
        &[]
    }

    fn record_complete(&mut self, _: TensorIndex, _: u64) {}

    fn lost(&self, _: TensorIndex) -> u64 {
        0
    }

    fn checkpoint(&mut self) {}

    fn read_back(&self, _: TensorIndex, _: u64, _: &mut [u8]) -> Result<bool, Error> {
        Ok(false)
    }

    fn keep(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// True if these files were made by an earlier run of this job, and nobody has changed them:
/// it has left a note of them beside an output that it has not finished.
fn is_there(fingerprint: &str, files: &[PathBuf], all: &[&Path]) -> Result<bool, Error> {
    let mut notes = Vec::new();
    for path in all {
        notes.extend(StagedArtifact::notes(path)?);
    }
    Ok(!notes.is_empty() && note(fingerprint, files).is_some_and(|note| notes.contains(&note)))
}

/// One line that tells a finished output from any other; none if it is not there.
fn note(fingerprint: &str, files: &[PathBuf]) -> Option<String> {
    let mut text = fingerprint.to_owned();
    for file in files {
        let file = SourceFile::open(file).ok()?;
        let _ = write!(text, " {:?}", file.identity());
    }
    Some(format!("{:x}", Sha256::digest(text.as_bytes())))
}

/// Tells of tensors that an interrupted run had finished, and that have changed since.
pub(crate) fn warn_of_damage(output: &Path, tensors: &[&str], observer: &mut dyn Observer) {
    const NAMED: usize = 5;
    if tensors.is_empty() {
        return;
    }
    let names = tensors.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let others = match tensors.len().saturating_sub(NAMED) {
        0 => String::new(),
        others => format!(" and {others} others"),
    };
    let path = output.display();
    observer.observe(Event::Warning(&format!(
        "{path}: the interrupted run's bytes of {names}{others} have changed since they were \
         written; they are computed again"
    )));
}

/// What an interrupted run noted of the model's tensors that it finished. Each of several
/// tensors that hold one notes all of it.
fn earlier_losses(sink: &dyn Sink, plan: &TargetPlan, done: &[bool]) -> BTreeMap<usize, u64> {
    let finished = done.iter().enumerate().filter(|(_, done)| **done);
    let lost = finished.filter_map(|(position, _)| {
        let lost = plan.tensors_of(position).into_iter().map(|tensor| sink.lost(tensor)).max()?;
        (lost > 0).then_some((position, lost))
    });
    lost.collect()
}

impl TargetPlan {
    /// What the output wants of the model's tensor at `position`. Of packed matrices
    /// those without a measure get an empty one.
    pub(crate) fn wanted(
        &self,
        position: usize,
        measures: Option<Arc<[Measure]>>,
        rounding: Rounding,
    ) -> Option<Wanted> {
        let Placement { change, destination } = self.places[position].as_ref()?;
        let encoding = match destination {
            Destination::Runs(_) => Encoding::Rows(self.assignments[position].data_type),
            Destination::Packed(place) => Encoding::Packed {
                measures: measures
                    .unwrap_or_else(|| vec![Measure::default(); place.parts.len()].into()),
                place: place.clone(),
                rounding,
            },
        };
        Some(Wanted { encoding, change: *change })
    }
}

/// One line that tells this job from any other: a staging folder may be
/// continued only by a job with the same line. Overrides are in it through the
/// types and the metadata that came of them.
fn fingerprint(model: &Model, plan: &TargetPlan, options: &PlanOptions, recipe: &str) -> String {
    let mut text = model.identity();
    for (key, value) in plan.metadata.iter() {
        let _ = writeln!(text, "{key} {value:?}");
    }
    for tensor in &plan.tensors {
        let _ = writeln!(text, "{} {} {}", tensor.name, tensor.data_type, tensor.shape);
    }
    for file in &plan.files {
        let _ = writeln!(text, "{} {:x}", file.name, Sha256::digest(&file.content));
    }
    let _ = writeln!(text, "rounding {:?}", options.rounding);
    if let Some(matrix) = &options.importance {
        let _ = writeln!(text, "importance {}", matrix.digest());
    }
    text.push_str(recipe);
    format!("{:x}", Sha256::digest(text.as_bytes()))
}
