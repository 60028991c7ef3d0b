//! The portable lanes against the searches of one sub-block.

#[path = "../golden/conformance.rs"]
mod conformance;
#[allow(dead_code, reason = "shared with other programs")]
#[path = "../golden/inputs.rs"]
mod inputs;

#[test]
fn portable_lanes_conform() {
    conformance::check::<qz_codec::lanes::Portable>();
}
