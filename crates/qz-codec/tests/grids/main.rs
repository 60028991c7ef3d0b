//! What every grid promises, checked of each: see `qz_codec::grid`.

mod data;
mod driver;
mod factor;
mod table;
