//! An adapter alone, as the GGUF file that llama.cpp applies to its base while it runs.
//!
//! The reference is `convert_lora_to_gguf.py`. It writes `lora_alpha` as it is stated, and
//! llama.cpp multiplies each product by alpha over its rank, which is not what rank-stabilized
//! adapters and those with patterns mean. Here alpha says what they mean; where one alpha cannot
//! say it for all tensors, the difference is in the numbers of `lora_b`.

use std::path::{Path, PathBuf};

use qz_gguf::{GgufLayout, GgufSink};
use qz_models::{Change as MapChange, Role, TensorOrigin, ValueChange};
use qz_tensor::{
    DataType, Location, Metadata, OutputOptions, Shape, SideFiles, SinkTensor, TensorIndex,
    TensorSink, Warning,
};

use super::merge::Change;
use super::{Adapter, CONFIG};
use crate::edits::{Kept, LowRank, grid_of, matrix_rows_of};
use crate::error::Error;
use crate::inputs::Inputs;
use crate::loss;
use crate::model::{Model, ModelTensor, to_usize};

/// What was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterReport {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Tensors in it: two for each that is adapted.
    pub tensors: usize,
    /// `adapter.lora.alpha`.
    pub alpha: f32,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Writes the adapter at `path` as a GGUF file for `base`.
///
/// # Errors
/// If the adapter is malformed, does not belong to the base, or does what such a file has no
/// place for: whole tensors, DoRA.
pub fn convert_adapter(
    path: &Path,
    base: &Model,
    output: &Path,
    data_type: DataType,
    options: OutputOptions,
) -> Result<AdapterReport, Error> {
    Inputs::default().with_model(path).with_open_model(base).check(output)?;
    let adapter = Adapter::open(path)?;
    let change = adapter.change_of(base, 1.0)?;
    refuse_whole(&adapter, &change)?;
    let adapted = adapted(&adapter, base, &change)?;
    let alpha = common_alpha(&adapted, adapter.config.alpha);
    let mut warnings: Vec<Warning> = Vec::new();
    let architecture = base.metadata.string("general.architecture").unwrap_or_default();
    let metadata = qz_models::describe_adapter(
        &adapter.folder,
        architecture,
        None,
        alpha as f32,
        &mut warnings,
    )?;
    let tensors = sink_tensors(&adapted, data_type)?;
    let bytes = write(
        &Writing { base, change: &change, adapted: &adapted, alpha },
        output,
        &metadata,
        &tensors,
        options,
    )?;
    base.check_unchanged()?;
    Ok(AdapterReport {
        path: output.to_owned(),
        bytes,
        tensors: tensors.len(),
        alpha: alpha as f32,
        warnings: warnings.iter().map(ToString::to_string).collect(),
    })
}

/// llama.cpp multiplies inputs by thin matrices, and does nothing else.
fn refuse_whole(adapter: &Adapter, change: &Change) -> Result<(), Error> {
    const MERGE: &str = "a GGUF adapter has no place for that; merge it into its base instead";
    if let Some((name, index)) = change.tensors.whole.iter().next() {
        return Err(adapter.fault(*index, format!("takes the place of {name}, and {MERGE}")));
    }
    let magnitudes = change.tensors.factors.values().filter_map(|factors| factors.magnitude);
    match magnitudes.into_iter().next() {
        Some(index) => Err(adapter.fault(index, format!("is a magnitude of DoRA, and {MERGE}"))),
        None => Ok(()),
    }
}

/// A tensor of the model with a product.
struct Adapted<'a> {
    tensor: &'a ModelTensor,
    change: MapChange,
    rank: u64,
    /// What its product is multiplied by; those of other runs are relative to it.
    factor: f64,
}

/// The model's tensors that are adapted, as the adapter's tensors follow each other.
fn adapted<'a>(
    adapter: &Adapter,
    base: &'a Model,
    change: &Change,
) -> Result<Vec<Adapted<'a>>, Error> {
    let mut found: Vec<(usize, Adapted<'_>)> = Vec::new();
    let mut placed = vec![false; change.order.len()];
    for tensor in &base.tensors {
        let Some(rows) = tensor.stored_rows() else { continue };
        let stored: Vec<TensorIndex> = rows.slices().iter().map(|slice| slice.tensor).collect();
        let places: Vec<usize> =
            (0..change.order.len()).filter(|at| stored.contains(&change.order[*at])).collect();
        let products = stored.iter().filter_map(|tensor| change.edits.low_rank(*tensor));
        let (Some(last), Some(first)) = (places.last(), products.clone().next()) else { continue };
        if tensor.is_beside {
            continue;
        }
        places.iter().for_each(|place| placed[*place] = true);
        let rank = products.map(|product| product.rank).max().unwrap_or(first.rank);
        let factor = f64::from(first.scale);
        let own = Adapted { tensor, change: tensor.change(), rank, factor };
        if own.change.values != ValueChange::None {
            let problem = format!("{} is stored as other numbers than GGUF has", tensor.name);
            return Err(Error::Adapter { location: base.location(tensor, 0), problem });
        }
        found.push((*last, own));
    }
    if let Some(place) = placed.iter().position(|placed| !placed) {
        let name = &base.source.tensors()[change.order[place].0].name;
        let location = Location::file(adapter.folder.path(CONFIG));
        let problem = format!("adapts {name}, which a GGUF file of the base does not have");
        return Err(Error::Adapter { location, problem });
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, adapted)| adapted).collect())
}

/// The alpha that says what all products are multiplied by, or else the stated one.
fn common_alpha(adapted: &[Adapted<'_>], stated: f64) -> f64 {
    let alphas = || adapted.iter().map(Adapted::alpha);
    let is_near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
    match alphas().next() {
        Some(first) if !is_near(first, stated) && alphas().all(|alpha| is_near(alpha, first)) => {
            first
        }
        _ => stated,
    }
}

impl Adapted<'_> {
    /// What would be its alpha, were it alone.
    fn alpha(&self) -> f64 {
        self.factor * self.rank as f64
    }

    /// Stacked matrices, and rows and columns of each.
    fn sizes(&self) -> [u64; 3] {
        let (rows, columns) = self.tensor.grid();
        let matrix_rows = self.tensor.rows_per_matrix().min(rows.max(1));
        [rows / matrix_rows, matrix_rows, columns]
    }

    /// An embedding's rows are looked up in its first factor.
    fn is_embedding(&self) -> bool {
        self.tensor.role == Some(Role::TokenEmbedding)
    }

    /// The shapes of both factors.
    fn shapes(&self) -> [Vec<u64>; 2] {
        let [matrices, rows, columns] = self.sizes();
        let pair = match self.is_embedding() {
            true => [vec![rows, self.rank], vec![columns, self.rank]],
            false => [vec![self.rank, columns], vec![rows, self.rank]],
        };
        match self.tensor.shape.rank() {
            ..=2 => pair,
            _ => pair.map(|shape| [vec![matrices], shape].concat()),
        }
    }
}

fn sink_tensors(adapted: &[Adapted<'_>], data_type: DataType) -> Result<Vec<SinkTensor>, Error> {
    let mut tensors = Vec::new();
    for own in adapted {
        for (ending, dimensions) in ["lora_a", "lora_b"].into_iter().zip(own.shapes()) {
            let name = format!("{}.{ending}", own.tensor.name);
            let shape = Shape::new(&dimensions).map_err(|_| Error::Adapter {
                location: Location::default().tensor(&name),
                problem: "is too large".to_owned(),
            })?;
            // As the reference: rows that fill no block stay numbers.
            let fits = shape.columns() % data_type.block_elements() as u64 == 0;
            let data_type = if fits { data_type } else { DataType::F16 };
            tensors.push(SinkTensor { name, data_type, shape });
        }
    }
    Ok(tensors)
}

struct Writing<'a> {
    base: &'a Model,
    change: &'a Change,
    adapted: &'a [Adapted<'a>],
    alpha: f64,
}

fn write(
    writing: &Writing<'_>,
    output: &Path,
    metadata: &Metadata,
    tensors: &[SinkTensor],
    options: OutputOptions,
) -> Result<u64, Error> {
    let layout = GgufLayout::new(output, metadata, tensors, None)?;
    let size = layout.size();
    let mut sink = GgufSink::begin(layout, &writing.fingerprint(), options)?;
    let kept = Kept::default();
    for (number, own) in writing.adapted.iter().enumerate() {
        for (part, values) in writing.factors(own, &kept)?.iter().enumerate() {
            let index = TensorIndex(2 * number + part);
            if sink.completed().contains(&index) {
                continue;
            }
            let bytes = encoded(values, &tensors[index.0], output)?;
            sink.put(index, 0, &bytes)?;
            sink.record_complete(index, 0);
        }
    }
    sink.finish()?;
    Ok(size)
}

/// The bytes of a factor.
///
/// # Errors
/// If a number is too large for the type it is stored in.
fn encoded(values: &[f32], tensor: &SinkTensor, output: &Path) -> Result<Vec<u8>, Error> {
    let SinkTensor { data_type, shape, name } = tensor;
    let location = || Location::file(output).tensor(name);
    let columns = to_usize(shape.columns());
    let overflow = |place: usize, data_type: DataType| {
        let row = place / columns.max(1);
        let largest = loss::largest(&values[row * columns..][..columns]);
        Error::Overflow { location: location(), row: row as u64, largest, data_type }
    };
    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
        return Err(overflow(place, DataType::F32));
    }
    let codec = qz_kernels::codec_for(*data_type).ok_or_else(|| Error::NoCodec {
        location: location(),
        data_type: DataType::F32,
        target: *data_type,
        missing: *data_type,
    })?;
    let mut bytes = vec![0; shape.byte_size(*data_type).map_or(0, to_usize)];
    codec.encode(values, columns, None, &mut bytes);
    match codec.first_non_finite_block(&bytes) {
        Some(block) => Err(overflow(block * data_type.block_elements(), *data_type)),
        None => Ok(bytes),
    }
}

impl Writing<'_> {
    fn fingerprint(&self) -> String {
        format!("{}{}", self.base.identity(), self.change.edits.digest()).replace('\n', " ")
    }

    /// Both factors of a tensor, as they are written.
    fn factors(&self, own: &Adapted<'_>, kept: &Kept) -> Result<[Vec<f32>; 2], Error> {
        let [matrices, rows, columns] = own.sizes();
        let rank = to_usize(own.rank);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for matrix in 0..matrices {
            let Sides { rows: stored_rows, columns: stored_columns } =
                self.sides(own, matrix, kept)?;
            let (of_rows, of_columns) = match own.change.transposed {
                None => (stored_rows, stored_columns),
                Some(_) => (stored_columns, stored_rows),
            };
            let source = |row| to_usize(own.change.order.source_row(row));
            let of_rows: Vec<f32> = (0..rows)
                .flat_map(|row| of_rows[source(row) * rank..][..rank].iter().copied())
                .collect();
            if own.is_embedding() {
                first.extend(of_rows);
                second.extend(of_columns);
                continue;
            }
            let columns = to_usize(columns);
            for place in 0..rank {
                first.extend((0..columns).map(|column| of_columns[column * rank + place]));
            }
            second.extend(of_rows);
        }
        let scale = (own.alpha() / self.alpha) as f32;
        if (f64::from(scale) - 1.0).abs() > 1e-6 {
            second.iter_mut().for_each(|value| *value *= scale);
        }
        Ok([first, second])
    }

    /// The factors of one matrix as it is stored: of each row, and of each column that is taken.
    fn sides(&self, own: &Adapted<'_>, matrix: u64, kept: &Kept) -> Result<Sides, Error> {
        let TensorOrigin::Mapped(map) = &own.tensor.origin else {
            return Ok(Sides::default());
        };
        let [_, matrix_rows, columns] = own.sizes();
        let stored_rows = if own.change.transposed.is_some() { columns } else { matrix_rows };
        let mut sides = Sides::default();
        let (mut row, end) = (matrix * stored_rows, (matrix + 1) * stored_rows);
        while row < end {
            let (slice, left) = map.rows.locate(row);
            let count = left.max(1).min(end - row);
            row += count;
            let info = &self.base.source.tensors()[slice.tensor.0];
            let Some(product) = self.change.edits.low_rank(slice.tensor) else {
                sides.rows.resize(sides.rows.len() + to_usize(count * own.rank), 0.0);
                continue;
            };
            let of_stack = matrix_rows_of(info);
            let (matrix, first) = (slice.first_row / of_stack, slice.first_row % of_stack);
            let relative = (f64::from(product.scale) / own.factor) as f32;
            let rows = product.rows.items(kept, matrix, first..first + count, product.rank)?;
            sides.rows.extend(padded(product, &rows, own.rank).map(|value| value * relative));
            let (_, all) = grid_of(info);
            let every = product.columns.items(kept, matrix, 0..all, product.rank)?;
            let every: Vec<f32> = padded(product, &every, own.rank).collect();
            let taken = match map.rows.columns() {
                None => every,
                Some(picked) => {
                    let every = every.chunks_exact(to_usize(own.rank));
                    picked.of_columns(every).flatten().copied().collect()
                }
            };
            if sides.columns.is_empty() {
                sides.columns = taken;
            } else if sides.columns != taken {
                let problem = format!(
                    "is made of several matrices, which the adapter gives different lora_A; a \
                     GGUF adapter has one for {}",
                    own.tensor.name
                );
                return Err(Error::Adapter {
                    location: self.base.location(own.tensor, 0),
                    problem,
                });
            }
        }
        if sides.columns.is_empty() {
            let count = if own.change.transposed.is_some() { matrix_rows } else { columns };
            sides.columns = vec![0.0; to_usize(count * own.rank)];
        }
        Ok(sides)
    }
}

/// Both factors of a stored matrix.
#[derive(Default)]
struct Sides {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

/// A factor's numbers in rows of a larger rank.
fn padded<'a>(
    product: &LowRank,
    numbers: &'a [f32],
    rank: u64,
) -> impl Iterator<Item = f32> + use<'a> {
    let (own, missing) = (to_usize(product.rank), to_usize(rank - product.rank));
    numbers
        .chunks_exact(own)
        .flat_map(move |place| place.iter().copied().chain(std::iter::repeat_n(0.0, missing)))
}
