//! What kernels need to know of a type to multiply its weights in integers.

/// How a type's weights become integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Integers {
    /// Not at all: each weight is a float of its own.
    Floats,
    /// Weights are small unsigned levels, with a scale and a minimum for each sub-block that
    /// are integers, too. A kernel has to know how such blocks are read.
    Levels,
    /// A block whose unit is replaced by one decodes to integers of at most 16 bits. Nothing
    /// else has to be known of it.
    Units {
        /// Where a block's unit is.
        unit: Unit,
        /// Weights with one unit, at most as many as activations have with one scale.
        length: usize,
    },
}

/// How a type's blocks say what their integers are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// A binary16.
    Half {
        /// Its first byte.
        at: usize,
        /// The unit with which all weights are integers, a power of two.
        one: f32,
    },
    /// A binary32 at the block's start.
    Single,
    /// A binary16 in the upper nibbles of the last four 16-bit numbers. With 8 all weights are
    /// integers.
    Nibbles,
    /// Bytes at the block's start, one for each run of weights; two weights in each byte that
    /// follows, 1 if their bits are 1.
    Bytes {
        /// How many.
        count: usize,
        /// The byte with which weights are integers.
        one: u8,
    },
}
