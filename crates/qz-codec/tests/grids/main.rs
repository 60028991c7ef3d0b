//! What every grid promises, checked of each: see `qz_codec::grid`.

mod conformance;
mod data;
mod driver;
mod factor;
mod properties;
mod rounding;
mod subjects;
mod table;
