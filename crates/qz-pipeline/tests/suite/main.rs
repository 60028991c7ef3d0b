//! Jobs and the forward pass on the committed checkpoints. One binary: each would link
//! everything again.

mod calibrate;
mod capture;
mod families;
mod further;
mod interrupted;
mod logits;
mod quantize;
mod stopping;
