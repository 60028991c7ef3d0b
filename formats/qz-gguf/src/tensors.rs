//! Reading the tensor list and checking where the data lies.

use std::sync::Arc;

use qz_tensor::{DataType, GgmlTypeId, Name, Shape, SourceFile, TensorInfo};

use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::rules::{MAGIC, MAX_DIMENSIONS, MAX_NAME, check_name, padded};
use crate::seen::Seen;

/// A tensor is at least a name of one byte with its length, a number of
/// dimensions, a type and an offset.
pub(crate) const MIN_TENSOR: u64 = 8 + 1 + 4 + 4 + 8;

/// A tensor list whose offsets have not been checked yet: they count from the
/// end of the list, which is known only once the list has been read.
pub(crate) struct TensorList {
    tensors: Vec<TensorInfo>,
    /// Where each one's data offset is written.
    offset_positions: Vec<u64>,
}

/// Reads `count` tensors, which were compared with the bytes that are left.
pub(crate) fn read(
    cursor: &mut Cursor<'_>,
    file: &SourceFile,
    count: usize,
) -> Result<TensorList, Error> {
    let mut tensors: Vec<TensorInfo> = Vec::with_capacity(count);
    let mut offset_positions = Vec::with_capacity(count);
    let mut seen = Seen::default();
    for second in 0..count {
        let begin = cursor.position();
        let name: Name = cursor.string("tensor name", MAX_NAME, Fault::LongName)?.into();
        check_name(&name).map_err(|fault| cursor.error(begin, fault))?;
        let name_at = |at: usize| tensors.get(at).map(|tensor| &*tensor.name);
        if let Some(first) = seen.insert(&name, second, name_at) {
            let fault = Fault::DuplicateName { first, second };
            return Err(cursor.error(begin, fault).inside(&name));
        }
        let found = read_tensor(cursor, file.path(), name.clone());
        let (tensor, offset_position) = found.map_err(|error| error.inside(&name))?;
        tensors.push(tensor);
        offset_positions.push(offset_position);
    }
    Ok(TensorList { tensors, offset_positions })
}

/// Reads what follows a tensor's name, and says where its offset is written.
/// `offset` is left as the file has it.
fn read_tensor(
    cursor: &mut Cursor<'_>,
    path: &Arc<std::path::Path>,
    name: Name,
) -> Result<(TensorInfo, u64), Error> {
    let shape_position = cursor.position();
    let dimensions = read_dimensions(cursor)?;
    let type_position = cursor.position();
    let id = cursor.u32()?;
    let data_type = known_type(id).map_err(|fault| cursor.error(type_position, fault))?;
    let offset_position = cursor.position();
    let offset = cursor.u64()?;
    let (shape, bytes) =
        sized(&dimensions, data_type).map_err(|fault| cursor.error(shape_position, fault))?;
    let info = TensorInfo { name, data_type, shape, file: path.clone(), offset, bytes };
    Ok((info, offset_position))
}

/// The dimensions in file order, innermost first.
fn read_dimensions(cursor: &mut Cursor<'_>) -> Result<Vec<u64>, Error> {
    let offset = cursor.position();
    let rank = cursor.u32()?;
    if rank > MAX_DIMENSIONS {
        return Err(cursor.error(offset, Fault::Dimensions(u64::from(rank))));
    }
    (0..rank).map(|_| cursor.u64()).collect()
}

fn known_type(id: u32) -> Result<DataType, Fault> {
    let id = GgmlTypeId(id);
    DataType::from_ggml(id).ok_or_else(|| match DataType::removed_ggml_name(id) {
        Some(name) => Fault::RemovedType { id: id.0, name },
        None => Fault::UnknownType(id.0),
    })
}

/// Shape and bytes of a tensor with these dimensions, innermost first.
fn sized(dimensions: &[u64], data_type: DataType) -> Result<(Shape, u64), Fault> {
    let outermost_first: Vec<u64> = dimensions.iter().rev().copied().collect();
    Shape::new(outermost_first)
        .and_then(|shape| shape.byte_size(data_type).map(|bytes| (shape, bytes)))
        .map_err(|source| Fault::Size { dimensions: dimensions.to_vec(), source })
}

impl TensorList {
    /// Checks that the tensors lie one after the other from `data_offset` on, inside the
    /// file. Gives them with their places from the start of the file, and where bytes
    /// begin that belong to none.
    pub(crate) fn placed(
        self,
        file: &SourceFile,
        data_offset: u64,
        alignment: u32,
    ) -> Result<(Vec<TensorInfo>, Option<u64>), Error> {
        let Self { mut tensors, offset_positions } = self;
        let mut expected = 0;
        let mut end = data_offset;
        for (info, offset_position) in tensors.iter_mut().zip(offset_positions) {
            let name = &*info.name;
            let fail = |fault| Error::at(file.path(), offset_position, fault).inside(name);
            if info.offset != expected {
                return Err(fail(Fault::DataOffset { found: info.offset, expected }));
            }
            expected = expected
                .checked_add(info.bytes)
                .and_then(|end| padded(end, alignment))
                .ok_or_else(|| fail(Fault::TotalSize))?;
            let offset =
                data_offset.checked_add(info.offset).ok_or_else(|| fail(Fault::TotalSize))?;
            end = offset.checked_add(info.bytes).ok_or_else(|| fail(Fault::TotalSize))?;
            if end > file.len() && info.bytes > 0 {
                return Err(fail(missing(info, end, file.len())));
            }
            info.offset = offset;
        }
        let trailing = check_end(file, end, alignment)?;
        Ok((tensors, trailing))
    }
}

fn missing(info: &TensorInfo, end: u64, length: u64) -> Fault {
    Fault::DataMissing { data_type: info.data_type, shape: info.shape.clone(), end, length }
}

/// After the last tensor there may be its padding. Where other bytes follow, no loader
/// looks at them; another file behind this one is a mistake, whatever it holds.
fn check_end(file: &SourceFile, end: u64, alignment: u32) -> Result<Option<u64>, Error> {
    let padded_end = padded(end, alignment).unwrap_or(end);
    // Files are joined as they are, and not all have the padding.
    for second in [end, padded_end] {
        let mut start = [0; 8];
        if file.len().saturating_sub(second) < start.len() as u64 {
            continue;
        }
        file.read_exact_at(second, &mut start)?;
        if matches!(start.strip_prefix(&MAGIC), Some([1..=3, 0, 0, 0])) {
            return Err(Error::at(file.path(), second, Fault::JoinedFiles));
        }
    }
    Ok((file.len() > padded_end).then_some(padded_end))
}
