//! What kernels cannot do.

use qz_tensor::{DataType, Diagnose, Diagnosis, FaultClass, Location};

use crate::isa::Isa;

/// Why an instruction set cannot be used, or a backend cannot do what it is asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is not known.
    #[error("no instruction set is called {0}")]
    Unknown(String),
    /// This machine lacks it.
    #[error("this machine does not have {0}")]
    Unsupported(Isa),
    /// No codec reads these weights.
    #[error("weights of type {0} cannot be multiplied: there is no codec for them")]
    NoCodec(DataType),
    /// The bytes are not those of a matrix of this shape.
    #[error("{bytes} bytes are no matrix of {rows} x {columns} {data_type} weights")]
    MatrixSize {
        /// The type of the weights.
        data_type: DataType,
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// Bytes that were given.
        bytes: usize,
    },
    /// Buffers or matrices that do not fit an operation.
    #[error("`{operation}` got {found} {what}, where it takes {expected}")]
    Shape {
        /// The operation of [`crate::backend::Backend`].
        operation: &'static str,
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be: so many, at most so many, or a multiple of it.
        expected: usize,
    },
    /// A row of a head does not fill the blocks of the type keys and values are kept in.
    #[error("heads of {head_size} do not fill the blocks of {data_type} keys and values")]
    CacheType {
        /// Elements of one head.
        head_size: usize,
        /// The type.
        data_type: DataType,
    },
    /// The operating system gave no threads.
    #[error("cannot start threads: {0}")]
    Threads(String),
    /// The device is lost, has no memory left, or refuses an operation.
    #[error("the device failed in the operation `{operation}`: {problem}")]
    Device {
        /// The operation of [`crate::backend::Backend`].
        operation: &'static str,
        /// What the device says.
        problem: String,
    },
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (class, rule) = match self {
            Self::Unknown(_) | Self::Unsupported(_) => (FaultClass::Usage, "isa"),
            Self::NoCodec(_)
            | Self::MatrixSize { .. }
            | Self::Shape { .. }
            | Self::CacheType { .. } => (FaultClass::BadInput, "backend"),
            Self::Threads(_) => (FaultClass::Environment, "threads"),
            Self::Device { .. } => (FaultClass::Environment, "device"),
        };
        Diagnosis { class, location: Location::default(), rule }
    }
}
