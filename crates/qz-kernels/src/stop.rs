//! Work that can be stopped: [`crate::Workers`] know a flag, as [`qz_tensor::stop`] has it, and
//! whoever gave them work asks afterwards whether it is set.

pub use qz_tensor::stop::{Flag, is_requested};
