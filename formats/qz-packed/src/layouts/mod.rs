//! A file per layout, and what several of them share.

pub mod awq;
pub mod compressed;
pub mod gptq;
mod integers;
pub mod numbers;
mod words;
