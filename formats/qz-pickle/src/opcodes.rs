//! The names of pickle's opcodes (`pickletools` of CPython), and which of them
//! `torch.save` has a use for.

/// Opcodes that are read here, up to protocol 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Mark,
    Stop,
    None,
    NewTrue,
    NewFalse,
    BinInt,
    BinInt1,
    BinInt2,
    Long1,
    BinFloat,
    ShortBinBytes,
    BinBytes,
    BinBytes8,
    ShortBinUnicode,
    BinUnicode,
    BinUnicode8,
    EmptyTuple,
    Tuple,
    Tuple1,
    Tuple2,
    Tuple3,
    EmptyList,
    Append,
    Appends,
    EmptyDict,
    SetItem,
    SetItems,
    Global,
    StackGlobal,
    Reduce,
    Build,
    BinPersId,
    BinGet,
    LongBinGet,
    BinPut,
    LongBinPut,
    Memoize,
    Proto,
    Frame,
}

/// What a byte means as an opcode.
pub(crate) enum Meaning {
    /// One that is read here.
    Known(Opcode),
    /// One of Python's that a checkpoint has no use for.
    Forbidden(&'static str),
    /// None of Python's.
    Unknown,
}

/// The meaning of `code`.
pub(crate) fn meaning(code: u8) -> Meaning {
    use Opcode as O;
    let known = match code {
        b'(' => O::Mark,
        b'.' => O::Stop,
        b'N' => O::None,
        0x88 => O::NewTrue,
        0x89 => O::NewFalse,
        b'J' => O::BinInt,
        b'K' => O::BinInt1,
        b'M' => O::BinInt2,
        0x8a => O::Long1,
        b'G' => O::BinFloat,
        b'C' => O::ShortBinBytes,
        b'B' => O::BinBytes,
        0x8e => O::BinBytes8,
        0x8c => O::ShortBinUnicode,
        b'X' => O::BinUnicode,
        0x8d => O::BinUnicode8,
        b')' => O::EmptyTuple,
        b't' => O::Tuple,
        0x85 => O::Tuple1,
        0x86 => O::Tuple2,
        0x87 => O::Tuple3,
        b']' => O::EmptyList,
        b'a' => O::Append,
        b'e' => O::Appends,
        b'}' => O::EmptyDict,
        b's' => O::SetItem,
        b'u' => O::SetItems,
        b'c' => O::Global,
        0x93 => O::StackGlobal,
        b'R' => O::Reduce,
        b'b' => O::Build,
        b'Q' => O::BinPersId,
        b'h' => O::BinGet,
        b'j' => O::LongBinGet,
        b'q' => O::BinPut,
        b'r' => O::LongBinPut,
        0x94 => O::Memoize,
        0x80 => O::Proto,
        0x95 => O::Frame,
        _ => return forbidden(code).map_or(Meaning::Unknown, Meaning::Forbidden),
    };
    Meaning::Known(known)
}

/// The opcodes that make objects, and those of older or newer pickles.
fn forbidden(code: u8) -> Option<&'static str> {
    Some(match code {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        b'P' => "PERSID",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        0x8b => "LONG4",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'l' => "LIST",
        b'g' => "GET",
        b'p' => "PUT",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return None,
    })
}
