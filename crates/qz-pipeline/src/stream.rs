//! The engine: tiles of rows flow from one reading thread through encoding
//! threads to one writing thread, over bounded queues.
//!
//! Invariants:
//! - A tile is whole rows of one tensor, about [`TILE_WEIGHTS`] weights, so the
//!   memory in flight does not depend on the model.
//! - Every row is encoded alone, with the importance of its own matrix, so the
//!   bytes do not depend on tiles or threads.
//! - Of several faults the one in the first tile is reported, so the message does
//!   not depend on threads either: a fault skips only the tiles after it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use qz_calib::{Entry, ImportanceMatrix};
use qz_codec::Codec;
use qz_models::RowOrder;
use qz_tensor::{DataType, Location};

use crate::error::Error;
use crate::model::{Model, ModelTensor, to_usize};

/// Weights in a tile: large enough that queues and system calls cost nothing,
/// small enough that dozens of threads stay far below the memory promise.
const TILE_WEIGHTS: u64 = 512 * 1024;

/// Weights decoded at a time: their f32 form stays in a core's second cache.
const CHUNK_WEIGHTS: usize = 32 * 1024;

/// Set from outside to stop a job between tiles.
pub type Cancel = AtomicBool;

/// Fails if the job has been stopped.
pub(crate) fn check_cancelled(cancel: &Cancel) -> Result<(), Error> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// A tensor and what is to become of it.
pub(crate) struct Work<'a> {
    pub(crate) tensor: &'a ModelTensor,
    /// What each output wants; `None` where it has the tensor already, or does not
    /// hold it.
    pub(crate) wanted: Vec<Option<Wanted>>,
    /// What weighs the errors of its columns; the entry fits the tensor.
    pub(crate) importance: Option<Importance<'a>>,
}

/// What an output wants of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) data_type: DataType,
    /// In which order it has the rows.
    pub(crate) row_order: RowOrder,
}

impl Work<'_> {
    /// Rows that move among themselves in some output. The orders of one tensor are
    /// about the same heads, so the largest unit holds whole ones of the others.
    fn unit(&self) -> u64 {
        let units = self.wanted.iter().flatten().map(|wanted| wanted.row_order.unit());
        units.max().unwrap_or(1)
    }

    /// The types of the outputs that want it.
    pub(crate) fn data_types(&self) -> impl Iterator<Item = DataType> {
        self.wanted.iter().flatten().map(|wanted| wanted.data_type)
    }
}

/// One tensor's entry in an importance matrix.
#[derive(Clone, Copy)]
pub(crate) struct Importance<'a> {
    pub(crate) matrix: &'a ImportanceMatrix,
    pub(crate) entry: &'a Entry,
}

/// Encoded rows of one tensor for one output.
pub(crate) struct Piece {
    /// Position in the list of work.
    pub(crate) work: usize,
    /// Position in the list of outputs.
    pub(crate) output: usize,
    /// The first row, in the output's order.
    pub(crate) first_row: u64,
    pub(crate) row_bytes: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What the writing side hears of.
pub(crate) enum Step {
    /// Bytes for an output.
    Piece(Piece),
    /// A tile is through for every output; `is_last` closes its tensor.
    TileDone { work: usize, weights: u64, is_last: bool },
}

/// The first tile that failed; those after it need no work.
struct TileLimit(AtomicUsize);

impl Default for TileLimit {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl TileLimit {
    fn lower_to(&self, number: usize) {
        self.0.fetch_min(number, Ordering::Relaxed);
    }

    fn excludes(&self, number: usize) -> bool {
        number > self.0.load(Ordering::Relaxed)
    }
}

struct Tile {
    number: usize,
    work: usize,
    rows: Range<u64>,
}

struct LoadedTile {
    tile: Tile,
    bytes: Vec<u8>,
}

/// Runs all work on `threads` encoding threads; `write` is called on this thread
/// for every step. Steps of one tile are together, tiles come in any order.
pub(crate) fn run(
    model: &Model,
    work: &[Work<'_>],
    threads: usize,
    cancel: &Cancel,
    mut write: impl FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let threads = threads.max(1);
    let limit = TileLimit::default();
    let tiles = tiles(work);
    let mut open_tiles: Vec<usize> = vec![0; work.len()];
    tiles.iter().for_each(|tile| open_tiles[tile.work] += 1);

    let (to_encode, loaded) = bounded::<LoadedTile>(threads);
    let (to_write, encoded) = bounded::<Encoded>(threads);
    let (give_back, spare) = bounded::<Vec<u8>>(4 * threads + 4);
    let mut fault: Option<(usize, Error)> = None;

    thread::scope(|scope| {
        let reader = Reader { model, work, limit: &limit, cancel, spare: &spare };
        let failed = to_write.clone();
        scope.spawn(move || reader.read_all(tiles, &to_encode, &failed));
        for _ in 0..threads {
            let encoder = Encoder { model, work, limit: &limit, give_back: give_back.clone() };
            let (loaded, to_write) = (loaded.clone(), to_write.clone());
            scope.spawn(move || encoder.encode_all(&loaded, &to_write));
        }
        drop((loaded, to_write));
        for Encoded { number, outcome } in encoded {
            let written = outcome.and_then(|tile| {
                if limit.excludes(number) {
                    return Ok(());
                }
                open_tiles[tile.work] -= 1;
                let is_last = open_tiles[tile.work] == 0;
                for piece in tile.pieces {
                    write(Step::Piece(piece))?;
                }
                write(Step::TileDone { work: tile.work, weights: tile.weights, is_last })
            });
            if let Err(error) = written {
                limit.lower_to(number);
                if fault.as_ref().is_none_or(|(first, _)| number < *first) {
                    fault = Some((number, error));
                }
            }
        }
    });
    fault.map_or(Ok(()), |(_, error)| Err(error))
}

/// All tiles of all work, in order.
fn tiles(work: &[Work<'_>]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for (position, item) in work.iter().enumerate() {
        let ((rows, _), step) = (item.tensor.grid(), tile_rows(item));
        let mut start = 0;
        while start < rows {
            let end = rows.min(start.saturating_add(step));
            tiles.push(Tile { number: tiles.len(), work: position, rows: start..end });
            start = end;
        }
    }
    tiles
}

/// Rows in a tile: whole units of the row orders, at least one.
fn tile_rows(work: &Work<'_>) -> u64 {
    let unit = work.unit();
    let rows = TILE_WEIGHTS / work.tensor.grid().1.max(1);
    (rows / unit).max(1) * unit
}

/// The most bytes of buffers that [`run`] holds at once. On `threads` threads there are that many loaded tiles waiting,
/// one being loaded, and one with each thread, which also keeps a buffer to put
/// rows in order; and as many encoded tiles waiting, one with each thread and one
/// being written.
pub(crate) fn peak_memory(work: &[Work<'_>], threads: usize) -> u64 {
    let threads = threads.max(1) as u64;
    let tile = |work: &Work<'_>| {
        let rows = tile_rows(work).min(work.tensor.grid().0);
        let bytes = |data_type| rows * work.tensor.row_bytes(data_type) as u64;
        (bytes(work.tensor.source_type), work.data_types().map(bytes).sum())
    };
    let (mut loaded, mut encoded): (u64, u64) = (0, 0);
    for (input, output) in work.iter().map(tile) {
        (loaded, encoded) = (loaded.max(input), encoded.max(output));
    }
    let widest = work.iter().map(|work| work.tensor.grid().1).max().unwrap_or(0);
    let chunk = widest.max(CHUNK_WEIGHTS as u64) * size_of::<f32>() as u64;
    (3 * threads + 1) * loaded + (2 * threads + 1) * encoded + 2 * threads * chunk
}

struct Encoded {
    number: usize,
    outcome: Result<EncodedTile, Error>,
}

struct EncodedTile {
    work: usize,
    weights: u64,
    pieces: Vec<Piece>,
}

struct Reader<'a> {
    model: &'a Model,
    work: &'a [Work<'a>],
    limit: &'a TileLimit,
    cancel: &'a Cancel,
    spare: &'a Receiver<Vec<u8>>,
}

impl Reader<'_> {
    /// Hands every tile's bytes on, until the end, a fault, or a stop.
    fn read_all(&self, tiles: Vec<Tile>, to: &Sender<LoadedTile>, failed: &Sender<Encoded>) {
        for tile in tiles {
            let number = tile.number;
            if self.limit.excludes(number) {
                return;
            }
            let bytes = if self.cancel.load(Ordering::Relaxed) {
                Err(Error::Interrupted)
            } else {
                self.read(&tile)
            };
            match bytes {
                Ok(bytes) => {
                    if to.send(LoadedTile { tile, bytes }).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.limit.lower_to(number);
                    // The writing side may be gone already; then so is the need.
                    let _ = failed.send(Encoded { number, outcome: Err(error) });
                    return;
                }
            }
        }
    }

    fn read(&self, tile: &Tile) -> Result<Vec<u8>, Error> {
        let tensor = self.work[tile.work].tensor;
        let row_bytes = tensor.row_bytes(tensor.source_type);
        let mut bytes = self.spare.try_recv().unwrap_or_default();
        bytes.resize(row_bytes * to_usize(tile.rows.end - tile.rows.start), 0);
        self.model.read_rows(tensor, tile.rows.clone(), &mut bytes)?;
        Ok(bytes)
    }
}

struct Encoder<'a> {
    model: &'a Model,
    work: &'a [Work<'a>],
    limit: &'a TileLimit,
    give_back: Sender<Vec<u8>>,
}

impl Encoder<'_> {
    fn encode_all(&self, from: &Receiver<LoadedTile>, to: &Sender<Encoded>) {
        let mut scratch = Scratch::default();
        for LoadedTile { tile, bytes } in from {
            if self.limit.excludes(tile.number) {
                continue;
            }
            let outcome = self.encode(&tile, bytes, &mut scratch);
            if outcome.is_err() {
                self.limit.lower_to(tile.number);
            }
            if to.send(Encoded { number: tile.number, outcome }).is_err() {
                return;
            }
        }
    }

    fn encode(
        &self,
        tile: &Tile,
        bytes: Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<EncodedTile, Error> {
        let work = &self.work[tile.work];
        let rows = TileRows {
            model: self.model,
            tensor: work.tensor,
            rows: tile.rows.clone(),
            importance: work.importance,
        };
        rows.check_finite(&bytes)?;
        let mut pieces = Vec::with_capacity(work.wanted.len());
        let mut reordered = std::mem::take(&mut scratch.reordered);
        let mut order = None;
        let mut input = Some(bytes);
        for (output, wanted) in work.wanted.iter().enumerate() {
            let Some(Wanted { data_type, row_order }) = *wanted else { continue };
            let (first_row, row_bytes) = (tile.rows.start, work.tensor.row_bytes(data_type));
            let as_stored = row_order.is_identity();
            let is_copy = data_type == work.tensor.source_type;
            let stored = input.as_deref().unwrap_or_default();
            if !as_stored && order.replace(row_order) != Some(row_order) {
                rows.put_in_order(stored, row_order, &mut reordered);
            }
            let bytes = if is_copy && as_stored && output + 1 == work.wanted.len() {
                input.take().unwrap_or_default()
            } else {
                let ordered = if as_stored { stored } else { &reordered };
                match is_copy {
                    true => ordered.to_vec(),
                    false => rows.convert(ordered, Wanted { data_type, row_order }, scratch)?,
                }
            };
            pieces.push(Piece { work: tile.work, output, first_row, row_bytes, bytes });
        }
        scratch.reordered = reordered;
        if let Some(bytes) = input {
            // A full pool means the reader has enough; then this one is freed.
            let _ = self.give_back.try_send(bytes);
        }
        let weights = (tile.rows.end - tile.rows.start) * work.tensor.grid().1;
        Ok(EncodedTile { work: tile.work, weights, pieces })
    }
}

/// Buffers that an encoding thread keeps.
#[derive(Default)]
struct Scratch {
    weights: Vec<f32>,
    importance: Vec<f32>,
    reordered: Vec<u8>,
}

/// Rows that are encoded in one call, counted from the tile's first.
struct Chunk {
    rows: Range<usize>,
    /// Which of the stacked matrices they belong to.
    matrix: u64,
}

/// One tile's rows at work.
struct TileRows<'a> {
    model: &'a Model,
    tensor: &'a ModelTensor,
    rows: Range<u64>,
    importance: Option<Importance<'a>>,
}

impl TileRows<'_> {
    /// The rows in another order. Row orders stay within units, and a tile holds
    /// whole units.
    fn put_in_order(&self, stored: &[u8], row_order: RowOrder, out: &mut Vec<u8>) {
        let row_bytes = self.tensor.row_bytes(self.tensor.source_type);
        out.resize(stored.len(), 0);
        for (row, out) in self.rows.clone().zip(out.chunks_exact_mut(row_bytes)) {
            let start = to_usize(row_order.source_row(row) - self.rows.start) * row_bytes;
            out.copy_from_slice(&stored[start..start + row_bytes]);
        }
    }

    /// Looks at the bytes as they are stored.
    fn check_finite(&self, bytes: &[u8]) -> Result<(), Error> {
        let data_type = self.tensor.source_type;
        let Some(codec) = qz_kernels::codec_for(data_type) else { return Ok(()) };
        let Some(block) = codec.first_non_finite_block(bytes) else { return Ok(()) };
        let blocks_per_row = to_usize(self.tensor.grid().1) / data_type.block_elements();
        let row = self.rows.start + (block / blocks_per_row) as u64;
        let block_in_row = (block % blocks_per_row) as u64;
        let size = data_type.block_bytes();
        let offset = (row * blocks_per_row as u64 + block_in_row) * size as u64;
        let location = self.model.location(self.tensor, offset);
        let place = self.model.source_of(self.tensor, offset);
        let stored = place.map_or(offset, |(_, offset)| offset) / size as u64;
        if data_type.is_block() {
            return Err(Error::NonFiniteBlock { location, block: stored, data_type });
        }
        let mut value = [0.0];
        codec.decode(&bytes[block * size..(block + 1) * size], &mut value);
        Err(Error::NonFiniteWeight { location, index: stored, value: value[0] })
    }

    /// Decodes and encodes the rows, a chunk at a time.
    fn convert(
        &self,
        stored: &[u8],
        Wanted { data_type: wanted, row_order }: Wanted,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, Error> {
        let decoder = self.codec(self.tensor.source_type, wanted)?;
        let encoder = self.codec(wanted, wanted)?;
        let columns = to_usize(self.tensor.grid().1);
        let (row_in, row_out) =
            (self.tensor.row_bytes(self.tensor.source_type), self.tensor.row_bytes(wanted));
        let mut bytes = vec![0; stored.len() / row_in * row_out];
        let mut matrix = None;
        for Chunk { rows, matrix: of } in self.chunks() {
            if self.importance.is_some() && matrix.replace(of) != Some(of) {
                self.read_importance(of, &mut scratch.importance)?;
            }
            scratch.weights.resize(rows.len() * columns, 0.0);
            decoder.decode(&stored[rows.start * row_in..rows.end * row_in], &mut scratch.weights);
            let first = self.rows.start + rows.start as u64;
            if let Some(row) = row_past_searches(&scratch.weights, columns, wanted) {
                let weights = &scratch.weights[row * columns..][..columns];
                return Err(self.overflow(
                    row_order.source_row(first + row as u64),
                    wanted,
                    weights,
                ));
            }
            let out = &mut bytes[rows.start * row_out..rows.end * row_out];
            let importance = self.importance.map(|_| &*scratch.importance);
            encoder.encode(&scratch.weights, columns, importance, out);
            if let Some(block) = encoder.first_non_finite_block(out) {
                let row = block / (columns / wanted.block_elements());
                let weights = &scratch.weights[row * columns..][..columns];
                return Err(self.overflow(
                    row_order.source_row(first + row as u64),
                    wanted,
                    weights,
                ));
            }
        }
        Ok(bytes)
    }

    /// The tile's rows in chunks; those of a chunk belong to one of the matrices
    /// stacked in the tensor, since each has importance of its own.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let most = (CHUNK_WEIGHTS as u64 / self.tensor.grid().1.max(1)).max(1);
        let matrix_rows = self.tensor.rows_per_matrix();
        let (first, end) = (self.rows.start, self.rows.end);
        let mut start = first;
        std::iter::from_fn(move || {
            let matrix = start / matrix_rows;
            let stop = end.min(start + most).min((matrix + 1) * matrix_rows);
            let rows = to_usize(start - first)..to_usize(stop - first);
            start = stop;
            (!rows.is_empty()).then_some(Chunk { rows, matrix })
        })
    }

    /// Reads what weighs the columns of one of the stacked matrices.
    fn read_importance(&self, matrix: u64, out: &mut Vec<f32>) -> Result<(), Error> {
        let Some(importance) = self.importance else { return Ok(()) };
        let columns = self.tensor.grid().1;
        out.resize(to_usize(columns), 0.0);
        Ok(importance.matrix.read(importance.entry, matrix * columns, out)?)
    }

    fn codec(&self, data_type: DataType, target: DataType) -> Result<&'static dyn Codec, Error> {
        qz_kernels::codec_for(data_type).ok_or_else(|| Error::NoCodec {
            location: self.model.location(self.tensor, 0),
            data_type: self.tensor.source_type,
            target,
            missing: data_type,
        })
    }

    /// `stored` is the row as it is stored.
    fn overflow(&self, stored: u64, data_type: DataType, weights: &[f32]) -> Error {
        let row_bytes = self.tensor.row_bytes(self.tensor.source_type) as u64;
        let location: Location = self.model.location(self.tensor, stored * row_bytes);
        let place = self.model.source_of(self.tensor, stored * row_bytes);
        let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
        Error::Overflow {
            location: Location { offset: None, ..location },
            row: place.map_or(stored, |(_, offset)| offset / row_bytes.max(1)),
            largest,
            data_type,
        }
    }
}

/// The first row with a weight whose square overflows f32. The reference's
/// searches then find nothing, and some (Q6_K) store zeros without a complaint.
fn row_past_searches(weights: &[f32], columns: usize, wanted: DataType) -> Option<usize> {
    const LARGEST: f32 = 1e18;
    let past =
        |row: &[f32]| row.iter().fold(0.0f32, |most, weight| most.max(weight.abs())) > LARGEST;
    let searched = wanted.is_block() && past(weights);
    searched.then(|| weights.chunks(columns).position(past)).flatten()
}
