//! `general.*`: what the model is called, who made it, what it came from.
//!
//! The order of the sources and of the keys is that of `Metadata.load` and
//! `Metadata.set_gguf_meta_model` (`gguf-py/gguf/metadata.py`).

mod authorship;
mod card;
mod generic;
mod name;
mod sampling;
mod size_label;

pub(crate) use authorship::Authorship;
pub(crate) use card::read_card;
pub use generic::is_generic_name;
pub(crate) use sampling::{sampling_of, write_sampling};
pub(crate) use size_label::ParameterCount;
