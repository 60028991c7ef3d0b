//! What every grid promises, checked of each: see `qz_codec::grid`.

mod conformance;
mod data;
mod driver;
mod factor;
mod properties;
mod table;

use qz_codec::codec_for;
use qz_codec::grid::{GRIDS, Grid};

/// Every grid of an element type.
fn all_grids() -> Vec<&'static dyn Grid> {
    GRIDS.iter().map(|grid| grid()).collect()
}

/// Decodes by the codec.
fn decode(grid: &dyn Grid, bytes: &[u8], out: &mut [f32]) {
    let codec = grid.spec().data_type.and_then(codec_for);
    codec.expect("a codec").decode(bytes, out);
}
