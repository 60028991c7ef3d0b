//! What a method is.

use std::ops::{ControlFlow, Range};

use qz_codec::grid::{RowBatch, Rows};
use qz_linalg::Factor;

use crate::error::Error;
use crate::gptq::{Gptq, GptqOptions};
use crate::hqq::Hqq;
use crate::report::TensorReport;
use crate::rounding::{Importance, Plain};
use crate::statistics::Statistics;
use crate::target::Target;

/// Every method. Command-line values, tables and tests walk this list.
pub static METHODS: &[&dyn Method] = &[&Plain, &Importance, &Gptq, &Hqq];

/// The method of a name.
pub fn method_named(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|method| method.name() == name)
}

/// What a method wants to know of a layer's inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The mean square of each column.
    Importance,
    /// The Gram matrix.
    Gram,
}

/// One matrix to be quantized.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Its rows.
    pub weights: Rows<'a>,
    /// What is known of its inputs.
    pub statistics: Statistics<'a>,
    /// The values that weights may take.
    pub target: Target<'a>,
    /// Where matrices are factored.
    pub device: &'a dyn Factor,
    /// How.
    pub options: &'a Options,
}

/// What methods can be told. Each takes what concerns it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Error feedback.
    pub gptq: GptqOptions,
}

/// Takes rows that are finished, in order; stops the method if it breaks.
pub type RowSink<'a> = dyn FnMut(Range<usize>, &RowBatch) -> ControlFlow<()> + Send + 'a;

/// Decides which of a grid's values each weight takes.
pub trait Method: Send + Sync {
    /// As the command line calls it.
    fn name(&self) -> &'static str;

    /// What it wants to know.
    fn needs(&self) -> Needs;

    /// True if it is what encoders do by themselves, so that it need not be asked.
    fn is_encoding(&self) -> bool {
        false
    }

    /// Quantizes a matrix, in the threads of the current pool.
    ///
    /// # Errors
    /// If a weight is not finite, rows do not fill the target's units, statistics are
    /// of another size or missing, or the receiver stops it.
    fn quantize(&self, problem: &Problem<'_>, out: &mut RowSink<'_>)
    -> Result<TensorReport, Error>;
}

/// Fails where no method could go on.
pub(crate) fn check(problem: &Problem<'_>) -> Result<(), Error> {
    let columns = problem.weights.columns();
    let spec = problem.target.grid().spec();
    if !columns.is_multiple_of(spec.unit_columns) {
        let target = problem.target.name().to_owned();
        return Err(Error::Units { columns, unit_columns: spec.unit_columns, target });
    }
    if let Some(found) = problem.statistics.columns().find(|found| *found != columns) {
        return Err(Error::Statistics { columns, found });
    }
    let entries = problem.weights.count() * columns;
    if let Some(missing) = problem.statistics.missing.filter(|own| own.mean.len() != entries) {
        let found = missing.mean.len() / problem.weights.count().max(1);
        return Err(Error::Statistics { columns, found });
    }
    check_finite(problem.weights)?;
    Ok(())
}

fn check_finite(weights: Rows<'_>) -> Result<(), Error> {
    let bad = |(row, values): (usize, &[f32])| {
        let column = values.iter().position(|value| !value.is_finite())?;
        Some(qz_codec::grid::rounding::NonFiniteWeight { row, column })
    };
    match weights.iter().enumerate().find_map(bad) {
        Some(weight) => Err(weight.into()),
        None => Ok(()),
    }
}
