//! Documents in parquet files, as data sets are published: a row each, with a column of
//! text or of messages.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use qz_tensor::SourceFile;
use serde_json::{Map, Value};

use crate::error::Error;

/// Calls `visit` with every row of a file, and its number, as a JSON object.
pub(super) fn each_row(
    path: &Path,
    visit: &mut dyn FnMut(u64, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let malformed = |problem: String| Error::Parquet { path: path.to_owned(), problem };
    let failed = |error: ParquetError| malformed(error.to_string());
    // For its messages: the file is there, and is a file.
    SourceFile::open(path)?;
    let file = File::open(path).map_err(|error| malformed(error.to_string()))?;
    // The decoder takes some broken files for impossible, and panics.
    let caught = |_| malformed("the file is broken".to_owned());
    let reader = catch_unwind(|| SerializedFileReader::new(file)).map_err(caught)?;
    let mut rows = RowIter::from_file_into(Box::new(reader.map_err(failed)?));
    for number in 0.. {
        let row = catch_unwind(AssertUnwindSafe(|| rows.next())).map_err(caught)?;
        let Some(row) = row else { break };
        visit(number, &object(&row.map_err(failed)?))?;
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
