//! Buffers in the machine's memory.

use std::ops::{Deref, DerefMut};

use super::{ScanWeights, Shaped};

/// Rows of numbers, one behind the other.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBuffer {
    columns: usize,
    values: Vec<f32>,
}

impl HostBuffer {
    /// These numbers, a whole number of rows.
    pub(super) fn new(columns: usize, values: Vec<f32>) -> Self {
        Self { columns, values }
    }

    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Self { columns, values: vec![0.0; rows * columns] }
    }
}

impl From<HostBuffer> for Vec<f32> {
    fn from(buffer: HostBuffer) -> Self {
        buffer.values
    }
}

impl Shaped for HostBuffer {
    fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

impl Deref for HostBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl<'a> ScanWeights<'a, HostBuffer> {
    /// The same as numbers alone.
    pub(super) fn numbers(&self) -> ScanWeights<'a, [f32]> {
        ScanWeights {
            convolution: self.convolution,
            convolution_bias: self.convolution_bias,
            time_step: self.time_step,
            decay: self.decay,
            skip: self.skip,
        }
    }
}
