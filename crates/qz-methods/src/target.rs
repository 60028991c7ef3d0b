//! What weights may become.

use qz_codec::Codec;
use qz_codec::grid::{Grid, grid_for};
use qz_tensor::DataType;

/// The values that weights may take, and the encoder that chooses among them itself, if
/// there is one.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    grid: &'a dyn Grid,
    codec: Option<&'static dyn Codec>,
}

impl<'a> Target<'a> {
    /// An element type's values; none if it has no grid.
    pub fn of_type(data_type: DataType) -> Option<Target<'static>> {
        let codec = qz_kernels::codec_for(data_type);
        grid_for(data_type).map(|grid| Target { grid, codec })
    }

    /// A grid that is no element type.
    pub fn of_grid(grid: &'a dyn Grid) -> Self {
        Self { grid, codec: None }
    }

    /// The values.
    pub fn grid(&self) -> &'a dyn Grid {
        self.grid
    }

    /// The reference's encoder.
    pub fn codec(&self) -> Option<&'static dyn Codec> {
        self.codec
    }

    /// As people call it.
    pub fn name(&self) -> &str {
        &self.grid.spec().name
    }
}
