//! The crate's tests, as one program.

mod bad_files;
mod folders;
mod good_files;
mod properties;
mod support;
mod writing;
