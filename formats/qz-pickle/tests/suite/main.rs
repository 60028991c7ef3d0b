//! The crate's tests, as one program.

mod bad_archives;
mod bad_pickles;
mod bad_tensors;
mod folders;
mod good_files;
mod properties;
mod support;
