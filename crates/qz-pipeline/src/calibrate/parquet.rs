//! Documents in parquet files, as data sets are published: a row each, with a column of
//! text or of messages.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use qz_tensor::SourceFile;
use serde_json::{Map, Value};

use crate::caught::caught;
use crate::error::Error;

mod pages;

/// What is called with a row's number and the row, and says whether it wants more.
pub type VisitRow<'v> = dyn FnMut(u64, &Value) -> Result<ControlFlow<()>, Error> + 'v;

/// Calls `visit` with every row of a file, and its number, as a JSON object, until it says
/// that it has enough.
///
/// # Errors
/// If the file is no parquet file, says what cannot be, or takes too much memory to decode;
/// and what `visit` returns.
pub fn each_row(path: &Path, visit: &mut VisitRow<'_>) -> Result<(), Error> {
    let malformed = |problem: String| Error::Parquet { path: path.to_owned(), problem };
    let failed = |error: ParquetError| malformed(error.to_string());
    // The decoder takes some broken files for impossible, and panics.
    let broken = || malformed("the file is broken".to_owned());
    let source = SourceFile::open(path)?;
    let file = File::open(path).map_err(|error| malformed(error.to_string()))?;
    let reader = caught(|| SerializedFileReader::new(file)).ok_or_else(broken)?.map_err(failed)?;
    let pages = |group: usize, column: usize| {
        let group = reader.get_row_group(group).map_err(|error| error.to_string())?;
        group.get_column_page_reader(column).map_err(|error| error.to_string())
    };
    let checked = caught(|| pages::check(&source, reader.metadata(), &pages));
    checked.ok_or_else(broken)?.map_err(malformed)?;
    let mut rows = caught(|| RowIter::from_file_into(Box::new(reader))).ok_or_else(broken)?;
    for number in 0.. {
        let Some(row) = caught(|| rows.next()).ok_or_else(broken)? else { break };
        if visit(number, &object(&row.map_err(failed)?))?.is_break() {
            break;
        }
    }
    Ok(())
}

fn object(row: &Row) -> Value {
    let fields = row.get_column_iter();
    Value::Object(fields.map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>())
}

/// Text and what contains it; other values are nothing that a document is made of.
fn value(field: &Field) -> Value {
    match field {
        Field::Str(text) => Value::String(text.clone()),
        Field::Bool(value) => Value::Bool(*value),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        _ => Value::Null,
    }
}
