//! The codecs' bodies compiled for the instructions a machine has, chosen at run time,
//! with the same results bit for bit.
//!
//! What does not belong here: what a codec's bytes mean (`qz-codec`), files, threads.
//!
//! Layer 2: depends on `qz-tensor` and `qz-codec`. The only crate that may hold unsafe
//! code, for vector instructions; every use says why it is sound.

pub mod backend;
