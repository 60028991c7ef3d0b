//! Tensors that are views: elements that do not lie in a row, such as those of a
//! transposed matrix.
//!
//! Rows of a transposed matrix lie across its storage. Reading each row alone would
//! touch all of the storage for every row, so whole bands of rows are read, and the
//! last few kept: what asks for tile after tile gets most of them from memory.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use qz_tensor::{FileError, SourceFile};

/// Bytes of a band of rows.
const BAND_BYTES: u64 = 16 << 20;

/// Bands that are kept.
const BANDS: usize = 3;

/// Columns that are read before they are turned into rows: their elements fill a
/// cache line of the row.
const GROUP: u64 = 32;

/// Elements that are further apart in bytes are read one by one, others with what
/// lies between them.
const NEAR: u64 = 4096;

/// Bytes read at once where elements are near.
const SPAN_BYTES: u64 = 256 * 1024;

/// Where the elements of a view lie, as far as it is no plain row of elements.
#[derive(Debug)]
pub(crate) struct Strided {
    /// At least one, none of them 1.
    dimensions: Vec<u64>,
    /// Elements from one to the next in each dimension.
    strides: Vec<u64>,
    /// Bytes of an element.
    element_bytes: u64,
}

impl Strided {
    /// The view's layout; none if its elements lie in a row, in order. The caller
    /// has checked that all elements are inside the storage.
    pub(crate) fn new(shape: &[u64], strides: &[u64], element_bytes: usize) -> Option<Self> {
        let mut dimensions: Vec<u64> = Vec::new();
        let mut kept: Vec<u64> = Vec::new();
        for (dimension, stride) in shape.iter().zip(strides) {
            match (dimension, dimensions.last_mut().zip(kept.last_mut())) {
                (1, _) => {}
                // What continues the dimension outside it is one with it.
                (_, Some((outer, outer_stride))) if *outer_stride == stride * dimension => {
                    *outer *= dimension;
                    *outer_stride = *stride;
                }
                _ => {
                    dimensions.push(*dimension);
                    kept.push(*stride);
                }
            }
        }
        let in_a_row = matches!(kept[..], [] | [1]) || shape.contains(&0);
        let element_bytes = element_bytes as u64;
        (!in_a_row).then_some(Self { dimensions, strides: kept, element_bytes })
    }

    /// How far element `index` lies behind the first one, in elements.
    fn element(&self, index: u64) -> u64 {
        place(&self.dimensions, &self.strides, index)
    }

    /// How far byte `offset` lies behind the first one, in bytes.
    pub(crate) fn byte(&self, offset: u64) -> u64 {
        self.element(offset / self.element_bytes) * self.element_bytes + offset % self.element_bytes
    }

    /// The dimension whose neighbours lie nearest, if that is not the last: reading
    /// along it gives longer runs. Its rows, each all the dimensions inside it, must
    /// be short enough for a band to have several.
    fn band_axis(&self) -> Option<usize> {
        let last = self.dimensions.len() - 1;
        let axis = (0..=last).min_by_key(|axis| self.strides[*axis])?;
        let row_bytes = self.row(axis) * self.element_bytes;
        (self.strides[axis] < self.strides[last] && row_bytes <= BAND_BYTES / 2).then_some(axis)
    }

    /// Elements of one row of `axis`: all dimensions inside it.
    fn row(&self, axis: usize) -> u64 {
        self.dimensions[axis + 1..].iter().product()
    }
}

/// Where element `index` of these dimensions lies.
fn place(dimensions: &[u64], strides: &[u64], mut index: u64) -> u64 {
    let mut place = 0;
    for (dimension, stride) in dimensions.iter().zip(strides).rev() {
        place += index % dimension * stride;
        index /= dimension;
    }
    place
}

/// Rows of one view, turned.
#[derive(Debug)]
struct Band {
    /// Which of the file's tensors.
    tensor: usize,
    rows: Range<u64>,
    bytes: Vec<u8>,
}

/// The bands read last, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct Bands(Mutex<Vec<Band>>);

/// A view in a file.
pub(crate) struct View<'a> {
    pub(crate) file: &'a SourceFile,
    /// Its place among the file's tensors.
    pub(crate) tensor: usize,
    /// Its first element's first byte.
    pub(crate) origin: u64,
    pub(crate) layout: &'a Strided,
}

impl View<'_> {
    /// Fills `out` with the view's bytes from `offset` on; both are whole elements.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8], bands: &Bands) -> Result<(), FileError> {
        let size = self.layout.element_bytes;
        assert!(
            offset.is_multiple_of(size) && (out.len() as u64).is_multiple_of(size),
            "views are read by whole elements"
        );
        let first = offset / size;
        match self.layout.band_axis() {
            Some(axis) => self.read_bands(axis, first, out, bands),
            None => self.read_lines(first, out),
        }
    }

    /// Reads along the last dimension.
    fn read_lines(&self, first: u64, out: &mut [u8]) -> Result<(), FileError> {
        let Strided { dimensions, strides, element_bytes } = self.layout;
        let (Some(columns), Some(stride)) = (dimensions.last(), strides.last()) else {
            return Ok(());
        };
        let (mut element, mut rest) = (first, out);
        while !rest.is_empty() {
            let left = (columns - element % columns) * element_bytes;
            let count = (rest.len() as u64).min(left) as usize;
            let (line, after) = rest.split_at_mut(count);
            self.read_line(self.layout.element(element), *stride, line)?;
            element += count as u64 / element_bytes;
            rest = after;
        }
        Ok(())
    }

    /// Fills `out` with elements `stride` apart, from the one at `place` on.
    fn read_line(&self, place: u64, stride: u64, out: &mut [u8]) -> Result<(), FileError> {
        let size = self.layout.element_bytes;
        let at = |place: u64| self.origin + place * size;
        if stride == 1 {
            return self.file.read_exact_at(at(place), out);
        }
        let element_bytes = size as usize;
        let step = stride.saturating_mul(size);
        if step > NEAR {
            for (index, element) in (0u64..).zip(out.chunks_exact_mut(element_bytes)) {
                self.file.read_exact_at(at(place + index * stride), element)?;
            }
            return Ok(());
        }
        let together = (SPAN_BYTES / step) as usize;
        let mut span = Vec::new();
        let mut place = place;
        for part in out.chunks_mut(together * element_bytes) {
            let count = part.len() / element_bytes;
            // Up to the last element and no further: the file may end there.
            span.resize((count - 1) * step as usize + element_bytes, 0);
            self.file.read_exact_at(at(place), &mut span)?;
            let elements = span.chunks(step as usize);
            for (to, from) in part.chunks_exact_mut(element_bytes).zip(elements) {
                to.copy_from_slice(&from[..element_bytes]);
            }
            place += count as u64 * stride;
        }
        Ok(())
    }

    /// Reads bands of rows of `axis`, and keeps them.
    fn read_bands(
        &self,
        axis: usize,
        first: u64,
        out: &mut [u8],
        bands: &Bands,
    ) -> Result<(), FileError> {
        let size = self.layout.element_bytes;
        let row = self.layout.row(axis);
        let end = first + out.len() as u64 / size;
        let rows = self.layout.dimensions[..=axis].iter().product::<u64>();
        let band_rows = (BAND_BYTES / (row * size)).max(1);
        // A panic leaves a band that is not in the list, never half of one.
        let mut bands = bands.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut element, mut rest) = (first, out);
        while element < end {
            let wanted = element / row;
            let has = |band: &Band| band.tensor == self.tensor && band.rows.contains(&wanted);
            let band = match bands.iter().position(has) {
                Some(position) => bands.remove(position),
                None => {
                    // Read ahead where rows are read one after the other.
                    let continues = wanted == 0
                        || bands
                            .iter()
                            .any(|band| band.tensor == self.tensor && band.rows.end == wanted);
                    let needed = end.div_ceil(row) - wanted;
                    let count = if continues { band_rows } else { needed.min(band_rows) };
                    let spare = (bands.len() == BANDS).then(|| bands.remove(0).bytes);
                    let rows = wanted..rows.min(wanted + count);
                    self.load(axis, rows, spare.unwrap_or_default())?
                }
            };
            let until = end.min(band.rows.end * row);
            let skip = ((element - band.rows.start * row) * size) as usize;
            let (part, after) = rest.split_at_mut(((until - element) * size) as usize);
            part.copy_from_slice(&band.bytes[skip..skip + part.len()]);
            (element, rest) = (until, after);
            bands.push(band);
        }
        Ok(())
    }

    /// Reads whole rows of `axis`.
    fn load(&self, axis: usize, rows: Range<u64>, mut bytes: Vec<u8>) -> Result<Band, FileError> {
        let size = self.layout.element_bytes;
        let row_bytes = self.layout.row(axis) * size;
        bytes.resize(((rows.end - rows.start) * row_bytes) as usize, 0);
        let length = self.layout.dimensions[axis];
        let (mut row, mut rest) = (rows.start, &mut bytes[..]);
        while row < rows.end {
            // Rows of one index of the dimensions outside.
            let until = rows.end.min((row / length + 1) * length);
            let (part, after) = rest.split_at_mut(((until - row) * row_bytes) as usize);
            self.turn(axis, row..until, part)?;
            (row, rest) = (until, after);
        }
        Ok(Band { tensor: self.tensor, rows, bytes })
    }

    /// Reads the columns of these rows of `axis`, a group at a time, and puts their
    /// elements into rows.
    fn turn(&self, axis: usize, rows: Range<u64>, out: &mut [u8]) -> Result<(), FileError> {
        let Strided { dimensions, strides, element_bytes } = self.layout;
        let size = *element_bytes as usize;
        let count = (rows.end - rows.start) as usize;
        let columns = self.layout.row(axis);
        let first = place(&dimensions[..=axis], &strides[..=axis], rows.start);
        let mut group = vec![0; GROUP.min(columns) as usize * count * size];
        for start in (0..columns).step_by(GROUP as usize) {
            let end = columns.min(start + GROUP);
            for (column, line) in (start..end).zip(group.chunks_exact_mut(count * size)) {
                let column = place(&dimensions[axis + 1..], &strides[axis + 1..], column);
                self.read_line(first + column, strides[axis], line)?;
            }
            let width = (end - start) as usize;
            for (index, row) in out.chunks_exact_mut(columns as usize * size).enumerate() {
                let row = &mut row[start as usize * size..][..width * size];
                let elements = group[index * size..].chunks(count * size);
                match size {
                    2 => scatter::<2>(row, elements),
                    4 => scatter::<4>(row, elements),
                    _ => row.chunks_exact_mut(size).zip(elements).for_each(|(to, from)| {
                        to.copy_from_slice(&from[..size]);
                    }),
                }
            }
        }
        Ok(())
    }
}

/// Fills `row` with the first element of each of `elements`.
fn scatter<'a, const SIZE: usize>(row: &mut [u8], elements: impl Iterator<Item = &'a [u8]>) {
    for (to, from) in row.as_chunks_mut::<SIZE>().0.iter_mut().zip(elements) {
        if let Some(from) = from.first_chunk::<SIZE>() {
            *to = *from;
        }
    }
}
