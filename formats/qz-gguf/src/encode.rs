//! A file's header as bytes, and the places of its tensors.

use qz_tensor::{Array, DataType, Metadata, SinkTensor, Value, ValueKind};

use crate::error::Fault;
use crate::rules::{
    ALIGNMENT_KEY, MAGIC, MAX_DIMENSIONS, MAX_HEADER, VERSION, alignment, check_key, check_name,
    padded,
};

/// Where a tensor's data lies in the file to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The first byte, from the start of the file.
    pub(crate) offset: u64,
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Zeros that follow.
    pub(crate) padding: u64,
}

/// All of a file but its tensors' bytes.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The header with its padding.
    pub(crate) header: Vec<u8>,
    /// A place for each tensor.
    pub(crate) places: Vec<Place>,
    /// Bytes of the whole file.
    pub(crate) size: u64,
}

/// A broken rule and the key or tensor that breaks it.
pub(crate) type NamedFault = (Option<String>, Fault);

/// The name that a fault is about.
fn named(name: &str) -> impl Fn(Fault) -> NamedFault {
    move |fault| (Some(name.to_owned()), fault)
}

/// Lays out a file of these parts. No name may occur twice.
pub(crate) fn layout(metadata: &Metadata, tensors: &[SinkTensor]) -> Result<Layout, NamedFault> {
    let alignment = alignment(metadata).map_err(named(ALIGNMENT_KEY))?;
    let mut places = place(tensors, alignment)?;
    let mut header = header(metadata, tensors, &places)?;
    let data_offset = padded(header.len() as u64, alignment)
        .filter(|offset| *offset <= MAX_HEADER)
        .ok_or((None, Fault::HeaderTooLong))?;
    // At most MAX_HEADER, so the cast is exact.
    header.resize(data_offset as usize, 0);
    let mut size = data_offset;
    for place in &mut places {
        place.offset = size;
        size = size
            .checked_add(place.bytes)
            .and_then(|end| padded(end, alignment))
            .ok_or((None, Fault::TotalSize))?;
    }
    Ok(Layout { header, places, size })
}

/// The tensors' places counted from the start of the data section.
fn place(tensors: &[SinkTensor], alignment: u32) -> Result<Vec<Place>, NamedFault> {
    let mut places = Vec::with_capacity(tensors.len());
    let mut next = 0u64;
    for tensor in tensors {
        let fail = named(&tensor.name);
        check_name(&tensor.name).map_err(&fail)?;
        let bytes = byte_size(tensor).map_err(&fail)?;
        let end = next.checked_add(bytes).ok_or_else(|| fail(Fault::TotalSize))?;
        let padded_end = padded(end, alignment).ok_or_else(|| fail(Fault::TotalSize))?;
        places.push(Place { offset: next, bytes, padding: padded_end.saturating_sub(end) });
        next = padded_end;
    }
    Ok(places)
}

fn byte_size(tensor: &SinkTensor) -> Result<u64, Fault> {
    if tensor.shape.rank() > MAX_DIMENSIONS as usize {
        return Err(Fault::Dimensions(tensor.shape.rank() as u64));
    }
    tensor.shape.byte_size(tensor.data_type).map_err(|source| {
        let dimensions = tensor.shape.dimensions().iter().rev().copied().collect();
        Fault::Size { dimensions, source }
    })
}

fn header(
    metadata: &Metadata,
    tensors: &[SinkTensor],
    places: &[Place],
) -> Result<Vec<u8>, NamedFault> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        check_key(key).map_err(named(key))?;
        put_string(&mut out, key);
        put_value(&mut out, value);
    }
    for (tensor, place) in tensors.iter().zip(places) {
        put_string(&mut out, &tensor.name);
        let dimensions = tensor.shape.dimensions();
        // At most MAX_DIMENSIONS, so the cast is exact.
        out.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().rev().for_each(|dimension| out.extend(dimension.to_le_bytes()));
        let id = type_id(tensor.data_type).map_err(named(&tensor.name))?;
        out.extend(id.to_le_bytes());
        out.extend(place.offset.to_le_bytes());
    }
    Ok(out)
}

fn type_id(data_type: DataType) -> Result<u32, Fault> {
    data_type.spec().ggml.map(|id| id.0).ok_or(Fault::NoSuchType(data_type))
}

fn put_string(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn put_kind(out: &mut Vec<u8>, kind: ValueKind) {
    out.extend((kind as u32).to_le_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    put_kind(out, value.kind());
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(value) => put_string(out, value),
        Value::Bytes(value) => put_string(out, value),
        Value::Array(array) => put_array(out, array),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    put_kind(out, array.kind());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(elements) => out.extend(elements),
        Array::I8(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::U16(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::I16(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::U32(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::I32(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::F32(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::Bool(elements) => put_all(out, elements, |value| [u8::from(value)]),
        Array::String(elements) => elements.iter().for_each(|text| put_string(out, text)),
        Array::Bytes(elements) => elements.iter().for_each(|text| put_string(out, text)),
        Array::U64(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::I64(elements) => put_all(out, elements, |value| value.to_le_bytes()),
        Array::F64(elements) => put_all(out, elements, |value| value.to_le_bytes()),
    }
}

fn put_all<T: Copy, const N: usize>(
    out: &mut Vec<u8>,
    elements: &[T],
    bytes: impl Fn(T) -> [u8; N],
) {
    elements.iter().for_each(|element| out.extend(bytes(*element)));
}
