//! Shapes of buffers and matrices, and what each operation asks of them. A backend asks before
//! it computes: so a mismatch is an error on every one of them, and never a wrong number.

use std::ops::Range;

use qz_tensor::DataType;

use super::{
    Attention, Distances, Error, ExpertLoad, InputRounding, JoinedColumns, Queries, Recurrence,
    Rotation, Router, Rowwise, Scan, ScanWeights,
};

/// Rows of numbers of one width.
pub trait Shaped {
    /// How many rows.
    fn rows(&self) -> usize;

    /// Numbers of a row.
    fn columns(&self) -> usize;
}

/// One thing that an operation asks for.
struct Asked {
    operation: &'static str,
}

impl Asked {
    fn equal(&self, what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
        self.that(what, found, expected, found == expected)
    }

    fn at_most(&self, what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
        self.that(what, found, expected, found <= expected)
    }

    fn multiple(&self, what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
        self.that(what, found, expected, expected > 0 && found.is_multiple_of(expected))
    }

    fn that(
        &self,
        what: &'static str,
        found: usize,
        expected: usize,
        holds: bool,
    ) -> Result<(), Error> {
        let operation = self.operation;
        if holds { Ok(()) } else { Err(Error::Shape { operation, what, found, expected }) }
    }
}

fn asked(operation: &'static str) -> Asked {
    Asked { operation }
}

fn count(buffer: &impl Shaped) -> usize {
    buffer.rows() * buffer.columns()
}

/// Of [`super::Backend::buffer`].
pub(super) fn buffer(columns: usize, values: &[f32]) -> Result<(), Error> {
    if values.is_empty() {
        return Ok(());
    }
    asked("buffer").multiple("numbers in whole rows", values.len(), columns)
}

/// Of [`super::Backend::matrix`]: whole blocks, and as many bytes as they take.
pub(super) fn matrix(
    data_type: DataType,
    rows: usize,
    columns: usize,
    bytes: usize,
) -> Result<(), Error> {
    let size = (columns as u64)
        .checked_mul(rows as u64)
        .filter(|_| columns.is_multiple_of(data_type.block_elements()))
        .and_then(|elements| data_type.byte_size(elements).ok());
    if size == Some(bytes as u64) && columns > 0 {
        return Ok(());
    }
    Err(Error::MatrixSize { data_type, rows, columns, bytes })
}

/// Of [`super::Backend::check_finite`].
pub(super) fn check_finite(found: &impl Shaped, at: usize) -> Result<(), Error> {
    asked("check_finite").at_most("results", at + 1, count(found))
}

/// Of [`super::Backend::matmul`].
pub(super) fn matmul(activations: &impl Shaped, matrix: &impl Shaped) -> Result<(), Error> {
    asked("matmul").equal("columns of activations", activations.columns(), matrix.columns())
}

/// Of [`super::Backend::round_inputs`].
pub(super) fn round_inputs(inputs: &impl Shaped, rounding: &InputRounding) -> Result<(), Error> {
    let run = rounding.activations.run().unwrap_or(1);
    asked("round_inputs").multiple("columns of inputs", inputs.columns(), run)
}

/// Of [`super::Backend::rms_norm`] and [`super::Backend::layer_norm`].
pub(super) fn norm<B: Shaped>(
    operation: &'static str,
    input: &B,
    weights: &B,
    bias: Option<&B>,
    groups: usize,
) -> Result<(), Error> {
    let asked = asked(operation);
    asked.multiple("weights of all groups", count(weights), groups)?;
    asked.multiple("columns", input.columns(), count(weights))?;
    bias.map_or(Ok(()), |bias| asked.equal("numbers of the bias", count(bias), count(weights)))
}

/// Of [`super::Backend::rotate`].
pub(super) fn rotate(
    rows: &impl Shaped,
    rotation: &Rotation,
    table: &impl Shaped,
) -> Result<(), Error> {
    let asked = asked("rotate");
    let Rotation { head_size, first, count, .. } = *rotation;
    asked.multiple("columns", rows.columns(), head_size)?;
    asked.at_most("elements of a head", first + count, head_size)?;
    asked.equal("columns of the table", table.columns(), count)?;
    asked.multiple("rows", rows.rows(), table.rows())
}

/// Of [`super::Backend::store`], into a cache whose rows have these widths.
pub(super) fn store<B: Shaped>(
    (key_width, value_width, capacity): (usize, usize, usize),
    position: usize,
    keys: &B,
    values: &B,
    rows: &Range<usize>,
) -> Result<(), Error> {
    let asked = asked("store");
    asked.equal("columns of keys", keys.columns(), key_width)?;
    asked.equal("columns of values", values.columns(), value_width)?;
    asked.at_most("rows of keys", rows.end, keys.rows())?;
    asked.at_most("rows of values", rows.end, values.rows())?;
    asked.at_most("positions", position + rows.len(), capacity)
}

/// Of [`super::Backend::attend`].
pub(super) fn attend<B: Shaped>(
    shape: &Attention,
    sinks: Option<&B>,
    learned: Option<&B>,
    queries: &Queries<'_, B>,
    out: &B,
) -> Result<(), Error> {
    let asked = asked("attend");
    let ranges = match shape.distances {
        Distances::Ranges { count } => count,
        Distances::None | Distances::Slopes { .. } => 0,
    };
    asked.equal("numbers of distances", learned.map_or(0, count), ranges * shape.heads)?;
    asked.equal("columns of queries", queries.buffer.columns(), shape.query_width())?;
    asked.equal("columns of results", out.columns(), shape.result_width())?;
    asked.at_most("rows of queries", queries.rows.end, queries.buffer.rows())?;
    asked.at_most("rows of results", queries.rows.end, out.rows())?;
    sinks.map_or(Ok(()), |sinks| asked.equal("sinks", count(sinks), shape.heads))
}

/// Of [`super::Backend::scan`].
pub(super) fn scan<B: Shaped>(
    shape: &Scan,
    weights: &ScanWeights<'_, B>,
    state: &B,
    input: &B,
    rows: &Range<usize>,
    out: &B,
) -> Result<(), Error> {
    let asked = asked("scan");
    let convolved = shape.convolved();
    asked.equal("weights", count(weights.convolution), convolved * shape.taps)?;
    asked.equal("numbers of the bias", count(weights.convolution_bias), convolved)?;
    for (what, own) in [
        ("time steps", weights.time_step),
        ("decays", weights.decay),
        ("skipped inputs", weights.skip),
    ] {
        asked.equal(what, count(own), shape.heads)?;
    }
    asked.equal("numbers of the state", count(state), shape.state())?;
    asked.equal("columns of inputs", input.columns(), shape.width())?;
    asked.equal("columns of results", out.columns(), shape.inner())?;
    asked.at_most("rows of inputs", rows.end, input.rows())?;
    asked.at_most("rows of results", rows.end, out.rows())
}

/// Of [`super::Backend::recur`].
pub(super) fn recur<B: Shaped>(
    shape: &Recurrence,
    weights: &[&B],
    state: &B,
    inputs: &[&B],
    rows: &Range<usize>,
    out: &B,
) -> Result<(), Error> {
    let asked = asked("recur");
    let (wanted, widths) = (shape.weights(), shape.inputs());
    // What comes last may be left out.
    asked.at_most("weights", weights.len(), wanted.len())?;
    for (own, wanted) in weights.iter().zip(wanted) {
        asked.equal("numbers of weights", count(*own), wanted)?;
    }
    asked.equal("inputs", inputs.len(), widths.len())?;
    for (own, width) in inputs.iter().zip(widths) {
        asked.equal("columns of inputs", own.columns(), width)?;
        asked.at_most("rows of inputs", rows.end, own.rows())?;
    }
    asked.equal("numbers of the state", count(state), shape.state())?;
    asked.equal("columns of results", out.columns(), shape.width())?;
    asked.at_most("rows of results", rows.end, out.rows())
}

/// Of [`super::Backend::rowwise`]: the rows and the columns of what it makes.
pub(super) fn rowwise<B: Shaped>(
    operation: &Rowwise,
    inputs: &[&B],
) -> Result<(usize, usize), Error> {
    let asked = asked("rowwise");
    let width = |at: usize| inputs.get(at).map_or(0, |input| input.columns());
    let (wanted, made) = operation.widths(width(0), width(1));
    asked.equal("inputs", inputs.len(), wanted.len())?;
    let rows = inputs.first().map_or(0, |input| input.rows());
    for (input, (columns, is_vector)) in inputs.iter().zip(wanted) {
        asked.equal("columns of inputs", input.columns(), columns)?;
        asked.equal("rows of inputs", input.rows(), if is_vector { 1 } else { rows })?;
    }
    match *operation {
        Rowwise::Project { count, columns, .. } if width(0) != columns => {
            asked.equal("columns of all parts", width(0), count * columns)?;
        }
        Rowwise::Combine { size } => {
            asked.multiple("columns", width(0), size)?;
            asked.multiple("columns of the other row", width(1), size)?;
        }
        Rowwise::Match => asked.multiple("columns", width(0), width(1))?,
        Rowwise::Project { .. } | Rowwise::Times | Rowwise::Exceed { .. } => {}
    }
    Ok((rows, made))
}

/// Of operations on numbers at the same places.
pub(super) fn same<B: Shaped>(operation: &'static str, a: &B, b: &B) -> Result<(), Error> {
    asked(operation).equal("rows", b.rows(), a.rows())?;
    asked(operation).equal("columns", b.columns(), a.columns())
}

/// Of [`super::Backend::columns`].
pub(super) fn columns(from: &impl Shaped, columns: &Range<usize>) -> Result<(), Error> {
    asked("columns").at_most("columns", columns.end, from.columns())
}

/// Of [`super::Backend::join`]: the columns of what it makes.
pub(super) fn join<B: Shaped>(parts: &[JoinedColumns<'_, B>]) -> Result<usize, Error> {
    let asked = asked("join");
    let Some(first) = parts.first() else { return Ok(0) };
    let heads = joined_heads(parts);
    for JoinedColumns { buffer, size, columns } in parts {
        asked.equal("rows", buffer.rows(), first.buffer.rows())?;
        if buffer.columns() != *size {
            asked.equal("columns", buffer.columns(), heads * size)?;
        }
        asked.at_most("numbers of a head", columns.end, *size)?;
    }
    Ok(heads * parts.iter().map(|part| part.columns.len()).sum::<usize>())
}

/// Heads of what parts are joined to: a part with one head has it for all.
pub(super) fn joined_heads<B: Shaped>(parts: &[JoinedColumns<'_, B>]) -> usize {
    let heads = |part: &JoinedColumns<'_, B>| part.buffer.columns() / part.size.max(1);
    parts.iter().map(heads).max().unwrap_or(0)
}

/// Of [`super::Backend::times_sigmoid`].
pub(super) fn times_sigmoid<B: Shaped>(rows: &B, scores: &B) -> Result<(), Error> {
    asked("times_sigmoid").equal("scores", count(scores), rows.rows())
}

/// Of [`super::Backend::add_bias`].
pub(super) fn add_bias<B: Shaped>(to: &B, bias: &B) -> Result<(), Error> {
    asked("add_bias").equal("numbers of the bias", count(bias), to.columns())
}

/// Of [`super::Backend::route`].
pub(super) fn route<B: Shaped>(router: &Router, scores: &B, bias: Option<&B>) -> Result<(), Error> {
    let asked = asked("route");
    asked.equal("columns of scores", scores.columns(), router.experts)?;
    asked.at_most("experts in use", router.used, router.experts)?;
    bias.map_or(Ok(()), |bias| asked.equal("numbers of the bias", count(bias), router.experts))
}

/// Of [`super::Backend::gather`].
pub(super) fn gather(from: &impl Shaped, rows: &[usize]) -> Result<(), Error> {
    let last = rows.iter().max().map_or(0, |row| row + 1);
    asked("gather").at_most("rows", last, from.rows())
}

/// Of [`super::Backend::stack`]: the columns of what it makes.
pub(super) fn stack<B: Shaped>(parts: &[&B]) -> Result<usize, Error> {
    let columns = parts.first().map_or(0, |part| part.columns());
    let mut all = parts.iter();
    all.try_for_each(|part| asked("stack").equal("columns", part.columns(), columns))?;
    Ok(columns)
}

/// Of [`super::Backend::scatter_add`].
pub(super) fn scatter_add<B: Shaped>(to: &B, load: &ExpertLoad, from: &B) -> Result<(), Error> {
    let asked = asked("scatter_add");
    let last = load.tokens.iter().max().map_or(0, |row| row + 1);
    asked.at_most("rows", last, to.rows())?;
    asked.equal("columns", from.columns(), to.columns())?;
    asked.equal("rows of answers", from.rows(), load.tokens.len())?;
    asked.equal("weights", load.weights.len(), load.tokens.len())
}

/// Of [`super::Backend::add_products`].
pub(super) fn add_products<B: Shaped>(
    sums: &B,
    left: &B,
    right: &B,
    rows: &Range<usize>,
) -> Result<(), Error> {
    let asked = asked("add_products");
    asked.equal("rows of sums", sums.rows(), left.columns())?;
    asked.equal("columns of sums", sums.columns(), right.columns())?;
    asked.at_most("rows", rows.end, left.rows())?;
    asked.at_most("rows of the other", rows.end, right.rows())
}

/// Of [`super::Backend::add_gram`].
pub(super) fn add_gram<B: Shaped>(
    sums: &B,
    inputs: &B,
    first: usize,
    rows: &Range<usize>,
) -> Result<(), Error> {
    let asked = asked("add_gram");
    asked.equal(
        "the first column and columns of sums",
        first + sums.columns(),
        inputs.columns(),
    )?;
    asked.at_most("rows of sums", sums.rows(), sums.columns())?;
    asked.at_most("rows", rows.end, inputs.rows())
}

/// Of [`super::Backend::factor`].
pub(super) fn factor(size: usize, matrix: &[f32]) -> Result<(), Error> {
    asked("factor").equal("numbers", matrix.len(), size * size)
}
