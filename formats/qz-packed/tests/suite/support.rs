//! A matrix and its parts in memory.

use std::cell::RefCell;

use qz_packed::{
    Layout, Matrix, Measure, PartBytes, PartIndex, Rounding, RowBlock, SCHEMES, Scheme,
};
use qz_tensor::FileError;

/// The scheme of a target's name.
pub(crate) fn scheme(target: &str) -> Box<dyn Scheme> {
    let (family, name) = target.split_once(':').expect("a target");
    let family = SCHEMES.iter().find(|known| known.name == family).expect("a family");
    (family.parse)(name).unwrap_or_else(|| panic!("{target} is no scheme"))
}

/// Parts in memory, every byte written once.
pub(crate) struct Parts(RefCell<Vec<Vec<Option<u8>>>>);

impl Parts {
    pub(crate) fn of(layout: &dyn Layout, matrix: Matrix) -> Self {
        let parts = layout.parts(matrix).expect("fits");
        let room = |part: &qz_packed::Part| {
            vec![None; part.shape.byte_size(part.data_type).expect("fits") as usize]
        };
        Self(RefCell::new(parts.iter().map(room).collect()))
    }

    pub(crate) fn from_bytes(parts: Vec<Vec<u8>>) -> Self {
        let all = |part: Vec<u8>| part.into_iter().map(Some).collect();
        Self(RefCell::new(parts.into_iter().map(all).collect()))
    }

    pub(crate) fn put(&self, part: PartIndex, offset: u64, bytes: &[u8]) {
        let mut parts = self.0.borrow_mut();
        let place = &mut parts[part.0][offset as usize..][..bytes.len()];
        for (place, byte) in place.iter_mut().zip(bytes) {
            assert_eq!(place.replace(*byte), None, "written twice: {part:?} {offset}");
        }
    }

    pub(crate) fn bytes(&self, part: usize) -> Vec<u8> {
        self.0.borrow()[part].iter().map(|byte| byte.expect("written")).collect()
    }
}

impl PartBytes for Parts {
    fn read(&self, part: PartIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        let parts = self.0.borrow();
        let from = &parts[part.0][offset as usize..][..out.len()];
        for (out, byte) in out.iter_mut().zip(from) {
            *out = byte.expect("written before it is read");
        }
        Ok(())
    }
}

/// Packs a matrix in tiles of a row unit each.
pub(crate) fn packed(
    layout: &dyn Layout,
    matrix: Matrix,
    weights: &[f32],
    rounding: Rounding,
) -> Parts {
    let parts = Parts::of(layout, matrix);
    let mut put = |part, offset, bytes: &[u8]| parts.put(part, offset, bytes);
    let tile = layout.row_unit(matrix) as usize * matrix.columns as usize;
    let measures = weights.chunks(tile).map(|weights| layout.measure(matrix, weights));
    let measure = measures.fold(Measure::default(), Measure::merged);
    layout.write_constants(matrix, measure, &mut put);
    for (number, weights) in weights.chunks(tile).enumerate() {
        let first_row = number as u64 * layout.row_unit(matrix);
        let importance = None;
        let block = RowBlock { matrix, first_row, weights, importance, rounding, measure };
        layout.encode(&block, &mut put).expect("no overflow");
    }
    parts
}

/// All rows.
pub(crate) fn decoded(layout: &dyn Layout, matrix: Matrix, parts: &Parts) -> Vec<f32> {
    let mut out = vec![f32::NAN; (matrix.rows * matrix.columns) as usize];
    layout.decode(matrix, parts, 0..matrix.rows, &mut out).expect("in memory");
    out
}
