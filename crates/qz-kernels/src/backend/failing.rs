//! A backend whose device is lost at some operation: for tests of what jobs make of it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use qz_tensor::DataType;

use super::{
    Activation, Attention, Backend, Error, ExpertLoad, InputRounding, JoinedColumns, Queries,
    Recurrence, Rotation, Rounding, Router, Rowwise, Scan, ScanWeights,
};

/// Another backend, up to some operation. All operations from there on fail.
#[derive(Debug)]
pub struct Failing<B> {
    inner: B,
    /// The operation that fails first, counted from 0.
    fails_at: usize,
    done: AtomicUsize,
}

impl<B> Failing<B> {
    /// A backend that does `operations` operations.
    pub fn after(operations: usize, inner: B) -> Self {
        Self { inner, fails_at: operations, done: AtomicUsize::new(0) }
    }

    /// Operations that it was asked for so far.
    pub fn asked(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    fn operation(&self, operation: &'static str) -> Result<(), Error> {
        if self.done.fetch_add(1, Ordering::Relaxed) < self.fails_at {
            return Ok(());
        }
        Err(Error::Device { operation, problem: "the device is lost".to_owned() })
    }
}

/// Each operation as the inner backend has it, where it is not too late.
macro_rules! operations {
    ($(fn $name:ident $(<$life:lifetime>)? ($($argument:ident: $of:ty),*) -> $result:ty;)*) => {$(
        fn $name $(<$life>)? (&self, $($argument: $of),*) -> Result<$result, Error> {
            self.operation(stringify!($name))?;
            self.inner.$name($($argument),*)
        }
    )*};
}

impl<B: Backend> Backend for Failing<B> {
    type Buffer = B::Buffer;
    type Matrix = B::Matrix;
    type Cache = B::Cache;

    operations! {
        fn matrix(
            data_type: DataType, rows: usize, columns: usize, bytes: Vec<u8>
        ) -> B::Matrix;
        fn decode(matrix: &B::Matrix) -> B::Buffer;
        fn buffer(columns: usize, values: &[f32]) -> B::Buffer;
        fn zeros(rows: usize, columns: usize) -> B::Buffer;
        fn copy(buffer: &B::Buffer) -> B::Buffer;
        fn numbers<'b>(buffer: &'b B::Buffer) -> Cow<'b, [f32]>;
        fn take_numbers(buffer: B::Buffer) -> Vec<f32>;
        fn check_finite(buffer: &B::Buffer, found: &mut B::Buffer, at: usize) -> ();
        fn matmul(rounding: Rounding, activations: &B::Buffer, matrix: &B::Matrix) -> B::Buffer;
        fn round_inputs(inputs: &B::Buffer, rounding: &InputRounding) -> B::Buffer;
        fn rms_norm(
            input: &B::Buffer, weights: &B::Buffer, groups: usize, epsilon: f32
        ) -> B::Buffer;
        fn layer_norm(
            input: &B::Buffer, weights: &B::Buffer, bias: Option<&B::Buffer>, groups: usize,
            epsilon: f32
        ) -> B::Buffer;
        fn rotate(rows: &mut B::Buffer, rotation: &Rotation, table: &B::Buffer) -> ();
        fn cache(shape: &Attention, capacity: usize, data_type: DataType) -> B::Cache;
        fn store(
            cache: &mut B::Cache, position: usize, keys: &B::Buffer, values: &B::Buffer,
            rows: Range<usize>
        ) -> ();
        fn attend(
            shape: &Attention, sinks: Option<&B::Buffer>, learned: Option<&B::Buffer>,
            cache: &B::Cache, queries: Queries<'_, B::Buffer>, out: &mut B::Buffer
        ) -> ();
        fn scan(
            shape: &Scan, weights: &ScanWeights<'_, B::Buffer>, state: &mut B::Buffer,
            input: &B::Buffer, rows: Range<usize>, out: &mut B::Buffer
        ) -> ();
        fn recur(
            shape: &Recurrence, weights: &[&B::Buffer], state: &mut B::Buffer,
            inputs: &[&B::Buffer], rows: Range<usize>, out: &mut B::Buffer
        ) -> ();
        fn rowwise(operation: &Rowwise, inputs: &[&B::Buffer]) -> B::Buffer;
        fn activate_times(
            activation: Activation, gate: &mut B::Buffer, up: Option<&B::Buffer>
        ) -> ();
        fn columns(from: &B::Buffer, columns: Range<usize>) -> B::Buffer;
        fn join(parts: &[JoinedColumns<'_, B::Buffer>]) -> B::Buffer;
        fn times_sigmoid(rows: &mut B::Buffer, scores: &B::Buffer) -> ();
        fn add(to: &mut B::Buffer, from: &B::Buffer) -> ();
        fn add_bias(to: &mut B::Buffer, bias: &B::Buffer) -> ();
        fn route(
            router: &Router, scores: &B::Buffer, bias: Option<&B::Buffer>
        ) -> Vec<ExpertLoad>;
        fn gather(from: &B::Buffer, rows: &[usize]) -> B::Buffer;
        fn stack(parts: &[&B::Buffer]) -> B::Buffer;
        fn scatter_add(to: &mut B::Buffer, load: &ExpertLoad, from: &B::Buffer) -> ();
        fn add_products(
            sums: &mut B::Buffer, left: &B::Buffer, right: &B::Buffer, rows: Range<usize>
        ) -> ();
        fn add_gram(
            sums: &mut B::Buffer, inputs: &B::Buffer, first: usize, rows: Range<usize>
        ) -> ();
        fn factor(size: usize, matrix: Vec<f32>) -> Result<Vec<f32>, usize>;
    }
}
