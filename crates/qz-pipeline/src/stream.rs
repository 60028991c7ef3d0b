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

mod tile_rows;

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use qz_calib::{Entry, ImportanceMatrix};
use qz_models::Change;
use qz_packed::{Measure, PartBytes, PartIndex, Rounding};
use qz_tensor::{DataType, FileError, TensorIndex, stop};

use crate::error::Error;
use crate::format::{PackedPlace, PartPlace};
use crate::model::{Model, ModelTensor, to_usize};
use tile_rows::{Packing, Scratch, TileRows};

/// Weights in a tile: large enough that queues and system calls cost nothing,
/// small enough that dozens of threads stay far below the memory promise.
const TILE_WEIGHTS: u64 = 512 * 1024;

/// Weights in the tiles of all threads together where the bytes of a row lie apart:
/// more rows make longer runs of bytes, and fewer writes.
const STRIDED_WEIGHTS: u64 = 4 << 20;

/// Weights decoded at a time: their f32 form stays in a core's second cache.
const CHUNK_WEIGHTS: usize = 32 * 1024;

/// Set from outside to stop a job between pieces of its work.
pub type Cancel = stop::Flag;

/// Fails if the job has been stopped.
pub(crate) fn check_cancelled(cancel: &Cancel) -> Result<(), Error> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// What came of work that ends early once the job is to stop: then it means nothing.
pub(crate) fn unless_cancelled<T>(outcome: Result<T, Error>, cancel: &Cancel) -> Result<T, Error> {
    check_cancelled(cancel)?;
    outcome
}

/// A stage on this thread, which knows the job's flag as long. Loops of libraries ask for it.
pub(crate) fn stoppable<T>(
    cancel: &Cancel,
    stage: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let _own = stop::own(cancel);
    unless_cancelled(stage(), cancel)
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
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) encoding: Encoding,
    /// What becomes of the stored rows first.
    pub(crate) change: Change,
}

/// What becomes of rows.
#[derive(Clone, Debug)]
pub(crate) enum Encoding {
    /// Rows of one element type.
    Rows(DataType),
    /// Nothing but what is to be known before they are packed.
    Measured(Arc<PackedPlace>),
    /// Parts of a packed layout.
    Packed {
        place: Arc<PackedPlace>,
        /// Of each of the stacked matrices.
        measures: Arc<[Measure]>,
        rounding: Rounding,
    },
}

impl Encoding {
    /// The layout that rows are packed in.
    fn place(&self) -> Option<&PackedPlace> {
        match self {
            Self::Rows(_) => None,
            Self::Measured(place) | Self::Packed { place, .. } => Some(place),
        }
    }
}

impl Work<'_> {
    /// Rows that move among themselves, or are packed together, in some output.
    fn unit(&self) -> u64 {
        // A tile is read in whole units of the tensor's own.
        let own = self.tensor.change();
        let own = own.transposed.map_or(1, |_| self.unit_of(own));
        self.wanted.iter().flatten().fold(own, |unit, wanted| {
            let packed = wanted.encoding.place().map_or(1, |place| place.row_unit());
            common_multiple(common_multiple(unit, self.unit_of(wanted.change)), packed)
        })
    }

    /// The unit of a change, in rows of the tensor.
    fn unit_of(&self, change: Change) -> u64 {
        change.unit(self.tensor.grid().1)
    }

    /// The types of the outputs that want its rows as they are.
    pub(crate) fn data_types(&self) -> impl Iterator<Item = DataType> {
        self.wanted.iter().flatten().filter_map(|wanted| match wanted.encoding {
            Encoding::Rows(data_type) => Some(data_type),
            Encoding::Measured(_) | Encoding::Packed { .. } => None,
        })
    }

    /// The layouts that it is packed in.
    fn places(&self) -> impl Iterator<Item = &PackedPlace> {
        self.wanted.iter().flatten().filter_map(|wanted| wanted.encoding.place())
    }

    /// The layouts that it is packed in, and how it is rounded.
    pub(crate) fn packed(&self) -> impl Iterator<Item = (&PackedPlace, Rounding)> {
        self.wanted.iter().flatten().filter_map(|wanted| match &wanted.encoding {
            Encoding::Packed { place, rounding, .. } => Some((&**place, *rounding)),
            Encoding::Rows(_) | Encoding::Measured(_) => None,
        })
    }

    /// Rows that a tile may not reach beyond: those of one of the stacked matrices,
    /// where some output packs each alone.
    fn cut(&self) -> u64 {
        self.places().map(|place| place.matrix.rows.max(1)).min().unwrap_or(u64::MAX)
    }
}

/// The least common multiple of two numbers of rows.
fn common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a.max(1), b.max(1));
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a.max(1) / divisor).saturating_mul(b.max(1))
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
    pub(crate) content: Content,
    /// Weights that the output cannot hold.
    pub(crate) lost: u64,
}

/// What a piece holds.
pub(crate) enum Content {
    Rows { row_bytes: usize, bytes: Vec<u8> },
    Packed(Packed),
    Measure(Measure),
}

/// Packed rows: runs of bytes for several tensors.
#[derive(Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    strips: Vec<Strip>,
}

/// A run of bytes; it begins where the one before ends.
struct Strip {
    tensor: TensorIndex,
    offset: u64,
    bytes: usize,
}

impl Packed {
    pub(crate) fn put(&mut self, part: PartPlace, offset: u64, bytes: &[u8]) {
        let (tensor, offset) = (part.tensor, part.first_byte + offset);
        self.bytes.extend_from_slice(bytes);
        if let Some(last) = self.strips.last_mut()
            && last.tensor == tensor
            && last.offset + last.bytes as u64 == offset
        {
            last.bytes += bytes.len();
            return;
        }
        self.strips.push(Strip { tensor, offset, bytes: bytes.len() });
    }

    /// The runs: of which tensor, where in it, and the bytes.
    pub(crate) fn strips(&self) -> impl Iterator<Item = (TensorIndex, u64, &[u8])> {
        let mut begin = 0;
        self.strips.iter().map(move |strip| {
            let bytes = &self.bytes[begin..begin + strip.bytes];
            begin += strip.bytes;
            (strip.tensor, strip.offset, bytes)
        })
    }
}

/// A layout's parts, which are in these places, as far as they were put.
struct PutParts<'a> {
    parts: &'a [PartPlace],
    strips: BTreeMap<(TensorIndex, u64), &'a [u8]>,
}

impl<'a> PutParts<'a> {
    fn of(parts: &'a [PartPlace], all: &[&'a Packed]) -> Self {
        let strips = all.iter().flat_map(|packed| packed.strips());
        let strips = strips.map(|(tensor, offset, bytes)| ((tensor, offset), bytes)).collect();
        Self { parts, strips }
    }
}

impl PartBytes for PutParts<'_> {
    /// What was not put reads as zeros.
    fn read(&self, part: PartIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        out.fill(0);
        let PartPlace { tensor, first_byte } = self.parts[part.0];
        let offset = first_byte + offset;
        let end = offset + out.len() as u64;
        let first = self.strips.range(..=(tensor, offset)).next_back();
        let next =
            self.strips.range((Bound::Excluded((tensor, offset)), Bound::Excluded((tensor, end))));
        for ((of, start), bytes) in first.into_iter().chain(next) {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if *of == tensor && from < to {
                let own = &bytes[to_usize(from - start)..to_usize(to - start)];
                out[to_usize(from - offset)..to_usize(to - offset)].copy_from_slice(own);
            }
        }
        Ok(())
    }
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
    let tiles = tiles(work, threads);
    let mut open_tiles: Vec<usize> = vec![0; work.len()];
    tiles.iter().for_each(|tile| open_tiles[tile.work] += 1);

    let (to_encode, loaded) = bounded::<LoadedTile>(threads);
    let (to_write, encoded) = bounded::<Encoded>(threads);
    let (give_back, spare) = bounded::<Vec<u8>>(4 * threads + 4);
    let mut fault: Option<(usize, Error)> = None;

    let started: Result<(), Error> = thread::scope(|scope| {
        let reader = Reader { model, work, limit: &limit, cancel, spare: &spare };
        let failed = to_write.clone();
        // Threads that have started end when the queues do, which is where this returns.
        let (loaded, to_write, encoded) = (loaded, to_write, encoded);
        let refused =
            |error: std::io::Error| Error::from(qz_kernels::Error::Threads(error.to_string()));
        let read = move || reader.read_all(tiles, &to_encode, &failed);
        thread::Builder::new().spawn_scoped(scope, read).map_err(refused)?;
        for _ in 0..threads {
            let give_back = give_back.clone();
            let encoder = Encoder { model, work, limit: &limit, cancel, give_back };
            let (loaded, to_write) = (loaded.clone(), to_write.clone());
            let encode = move || encoder.encode_all(&loaded, &to_write);
            thread::Builder::new().spawn_scoped(scope, encode).map_err(refused)?;
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
        Ok::<(), Error>(())
    });
    started?;
    fault.map_or(Ok(()), |(_, error)| Err(error))
}

/// All tiles of all work, in order.
fn tiles(work: &[Work<'_>], threads: usize) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for (position, item) in work.iter().enumerate() {
        let ((rows, _), step) = (item.tensor.grid(), tile_rows(item, threads));
        let cut = item.cut();
        let mut start = 0;
        while start < rows {
            let of_matrix = (start / cut + 1).saturating_mul(cut);
            let end = rows.min(start.saturating_add(step)).min(of_matrix);
            tiles.push(Tile { number: tiles.len(), work: position, rows: start..end });
            start = end;
        }
    }
    tiles
}

/// Rows in a tile: whole units, at least one.
fn tile_rows(work: &Work<'_>, threads: usize) -> u64 {
    let unit = work.unit();
    let is_strided = work.places().any(|place| place.layout.is_strided());
    let weights = match is_strided {
        // Fewer threads have more room each.
        true => (STRIDED_WEIGHTS / threads.max(1) as u64).max(TILE_WEIGHTS),
        false => TILE_WEIGHTS,
    };
    let rows = weights / work.tensor.grid().1.max(1);
    (rows / unit).max(1) * unit
}

/// The most bytes of buffers that [`run`] holds at once. On `threads` threads there are that many loaded tiles waiting,
/// one being loaded, and one with each thread, which also keeps a buffer to put
/// rows in order, and one to look at what became of weights; and as many encoded
/// tiles waiting, one with each thread and one
/// being written.
pub(crate) fn peak_memory(work: &[Work<'_>], threads: usize) -> u64 {
    let threads = threads.max(1) as u64;
    let tile = |work: &Work<'_>| {
        let rows = tile_rows(work, threads as usize).min(work.tensor.grid().0);
        let bytes = |data_type| rows * work.tensor.row_bytes(data_type) as u64;
        let packed: u64 = work.places().map(|place| place.bytes_of(rows)).sum();
        let encoded = work.data_types().map(bytes).sum::<u64>() + packed;
        (bytes(work.tensor.source_type), encoded)
    };
    // Weights of a tile, their codes, and words of these in two orders.
    let packing = |work: &Work<'_>| match work.places().next() {
        Some(_) => {
            tile_rows(work, threads as usize).min(work.tensor.grid().0) * work.tensor.grid().1 * 6
        }
        None => 0,
    };
    let packing = work.iter().map(packing).max().unwrap_or(0);
    let (mut loaded, mut encoded): (u64, u64) = (0, 0);
    for (input, output) in work.iter().map(tile) {
        (loaded, encoded) = (loaded.max(input), encoded.max(output));
    }
    let widest = work.iter().map(|work| work.tensor.grid().1).max().unwrap_or(0);
    let chunk = widest.max(CHUNK_WEIGHTS as u64) * size_of::<f32>() as u64;
    (3 * threads + 1) * loaded
        + (2 * threads + 1) * encoded
        + threads * (2 * chunk).max(packing)
        + threads * chunk
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
        let mut bytes = self.spare.try_recv().unwrap_or_default();
        bytes.resize(tensor.stored_bytes_of(tile.rows.end - tile.rows.start), 0);
        self.model.read_rows(tensor, tile.rows.clone(), &mut bytes)?;
        Ok(bytes)
    }
}

struct Encoder<'a> {
    model: &'a Model,
    work: &'a [Work<'a>],
    limit: &'a TileLimit,
    cancel: &'a Cancel,
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
        let stored = TileRows::stored(self.cancel, self.model, work, tile.rows.clone());
        stored.check_finite(&bytes)?;
        let mut pieces = Vec::with_capacity(work.wanted.len());
        let mut changed = std::mem::take(&mut scratch.changed);
        let mut held = None;
        let mut input = Some(bytes);
        for (output, wanted) in work.wanted.iter().enumerate() {
            let Some(Wanted { encoding, change }) = wanted else { continue };
            let rows = stored.changed(*change);
            let (first_row, is_as_stored) = (rows.rows.start, change.is_none());
            let bytes = input.as_deref().unwrap_or_default();
            if !is_as_stored && held.replace(*change) != Some(*change) {
                rows.carry_out(bytes, &mut changed)?;
            }
            let bytes = if is_as_stored { bytes } else { &changed };
            let mut lost = 0;
            let content = match encoding {
                Encoding::Rows(data_type) => {
                    let row_bytes = rows.row_bytes(*data_type);
                    let is_copy = *data_type == rows.data_type;
                    let bytes = if is_copy && is_as_stored && output + 1 == work.wanted.len() {
                        input.take().unwrap_or_default()
                    } else if is_copy {
                        bytes.to_vec()
                    } else {
                        rows.convert(bytes, *data_type, scratch, &mut lost)?
                    };
                    Content::Rows { row_bytes, bytes }
                }
                Encoding::Measured(place) => Content::Measure(rows.measure(bytes, place, scratch)?),
                Encoding::Packed { place, measures, rounding } => {
                    let packing = Packing { place, measures, rounding: *rounding };
                    Content::Packed(rows.pack(bytes, &packing, scratch, &mut lost)?)
                }
            };
            pieces.push(Piece { work: tile.work, output, first_row, content, lost });
        }
        scratch.changed = changed;
        if let Some(bytes) = input {
            // A full pool means the reader has enough; then this one is freed.
            let _ = self.give_back.try_send(bytes);
        }
        let weights = (tile.rows.end - tile.rows.start) * work.tensor.grid().1;
        Ok(EncodedTile { work: tile.work, weights, pieces })
    }
}
