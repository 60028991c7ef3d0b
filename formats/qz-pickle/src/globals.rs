//! The classes and functions that a pickle may name. Each stands for something
//! done here; none is ever looked up or called.

use qz_tensor::DataType;

use crate::error::Fault;

/// Something that a pickle names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor`, as before hooks were stored.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v2`: storage, offset, size, stride,
    /// requires_grad, hooks, and maybe metadata.
    RebuildTensorV2,
    /// `torch._utils._rebuild_tensor_v3`: the same with the element type before
    /// the metadata, for types that have no storage class.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter`: tensor, requires_grad, hooks.
    RebuildParameter,
    /// `torch.Size`: a tuple.
    Size,
    /// A storage class with its element type; none for untyped storages.
    Storage(Option<DataType>),
    /// An element type.
    DataType(DataType),
}

/// `torch`'s storage classes, by element type.
const STORAGES: &[(&str, DataType)] = &[
    ("DoubleStorage", DataType::F64),
    ("FloatStorage", DataType::F32),
    ("HalfStorage", DataType::F16),
    ("BFloat16Storage", DataType::BF16),
    ("LongStorage", DataType::I64),
    ("IntStorage", DataType::I32),
    ("ShortStorage", DataType::I16),
    ("CharStorage", DataType::I8),
    ("ByteStorage", DataType::U8),
    ("BoolStorage", DataType::BOOL),
    ("ComplexFloatStorage", DataType::C64),
];

/// `torch`'s element types.
const DATA_TYPES: &[(&str, DataType)] = &[
    ("float64", DataType::F64),
    ("float32", DataType::F32),
    ("float16", DataType::F16),
    ("bfloat16", DataType::BF16),
    ("int64", DataType::I64),
    ("int32", DataType::I32),
    ("int16", DataType::I16),
    ("int8", DataType::I8),
    ("uint64", DataType::U64),
    ("uint32", DataType::U32),
    ("uint16", DataType::U16),
    ("uint8", DataType::U8),
    ("bool", DataType::BOOL),
    ("float8_e4m3fn", DataType::F8_E4M3),
    ("float8_e5m2", DataType::F8_E5M2),
    ("float8_e8m0fnu", DataType::F8_E8M0),
    ("complex64", DataType::C64),
];

/// Storages and element types of `torch` that hold nothing we can read. They are
/// harmless, and get a message of their own.
const UNSUPPORTED: &[&str] = &[
    "ComplexDoubleStorage",
    "QInt8Storage",
    "QUInt8Storage",
    "QInt32Storage",
    "QUInt4x2Storage",
    "QUInt2x4Storage",
    "complex32",
    "complex128",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float4_e2m1fn_x2",
    "qint8",
    "quint8",
    "qint32",
    "quint4x2",
    "quint2x4",
];

/// What `module.name` stands for.
pub(crate) fn find(module: &str, name: &str) -> Result<Global, Fault> {
    let typed = |all: &[(&str, DataType)]| {
        all.iter().find(|(known, _)| *known == name).map(|(_, data_type)| *data_type)
    };
    let storage = || typed(STORAGES).map(|data_type| Global::Storage(Some(data_type)));
    let found = match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensorV2),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTensorV3),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch", "Size") => Some(Global::Size),
        ("torch" | "torch.storage", "UntypedStorage") => Some(Global::Storage(None)),
        ("torch", _) => storage().or_else(|| typed(DATA_TYPES).map(Global::DataType)),
        ("torch.cuda", _) => storage(),
        _ => None,
    };
    found.ok_or_else(|| {
        let full = format!("{module}.{name}");
        if matches!(module, "torch" | "torch.cuda") && UNSUPPORTED.contains(&name) {
            Fault::UnknownType(full)
        } else {
            Fault::ForbiddenGlobal(qz_shards::shown(&full))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed() {
        let check = |module: &str, name: &str, expected: Result<Global, &str>| {
            let found = find(module, name).map_err(|fault| fault.rule());
            assert_eq!(found, expected, "{module}.{name}");
        };
        let forbidden = Err("forbidden-global");
        check("torch", "HalfStorage", Ok(Global::Storage(Some(DataType::F16))));
        check("torch.cuda", "HalfStorage", Ok(Global::Storage(Some(DataType::F16))));
        check("torch", "bfloat16", Ok(Global::DataType(DataType::BF16)));
        check("torch.storage", "UntypedStorage", Ok(Global::Storage(None)));
        check("collections", "OrderedDict", Ok(Global::OrderedDict));
        check("torch", "QInt8Storage", Err("unsupported-type"));
        check("torch", "float8_e4m3fnuz", Err("unsupported-type"));
        check("torch.cuda", "float16", forbidden);
        check("torch.storage", "FloatStorage", forbidden);
        check("torch.storage", "_load_from_bytes", forbidden);
        check("torch", "load", forbidden);
        check("torch._utils", "_import_dotted_name", forbidden);
        check("collections", "Counter", forbidden);
        check("os", "system", forbidden);
        check("builtins", "eval", forbidden);
        check("", "", forbidden);
    }
}
