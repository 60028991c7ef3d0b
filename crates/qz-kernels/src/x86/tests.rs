//! The lanes against the searches of one sub-block.

#[path = "../../../qz-codec/golden/conformance.rs"]
mod conformance;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../../../qz-codec/golden/inputs.rs"]
mod inputs;

use super::{avx2, avx512, has_avx2, has_avx512};

#[test]
fn avx2_lanes_conform() {
    if has_avx2() {
        conformance::check::<avx2::Vectors>();
    }
}

#[test]
fn avx512_lanes_conform() {
    if has_avx512() {
        conformance::check::<avx512::Vectors>();
    }
}
