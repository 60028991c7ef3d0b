//! What a template may take: units for steps, bytes and slots, and levels of nesting.

use std::cell::Cell;

use crate::error::{Result, fail};

/// The longest template. Long ones of models are 60 kB.
pub const MAX_SOURCE: usize = 256 << 10;

/// The longest text that a template may make, as a whole or on the way.
pub const MAX_TEXT: usize = 32 << 20;

/// Levels of lists and dictionaries in each other.
pub(crate) const MAX_VALUE_DEPTH: u16 = 200;

/// Levels of expressions in each other.
pub(crate) const MAX_EXPRESSION_DEPTH: u16 = 200;

/// Levels of brackets, signs and blocks in the source.
pub(crate) const MAX_SOURCE_DEPTH: u16 = 100;

/// Levels of expressions, blocks and calls that are being computed.
const MAX_CALL_DEPTH: u32 = 2000;

/// A unit is a byte. Five million steps are what a few hundred thousand messages take.
const UNITS: usize = 5_000_000 * STEP;

/// A step of the interpreter.
pub(crate) const STEP: usize = 32;

/// A place for a value in a list or a dictionary.
pub(crate) const SLOT: usize = 48;

/// What is left.
pub(crate) struct Budget {
    units: Cell<usize>,
    depth: Cell<u32>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self { units: Cell::new(UNITS), depth: Cell::new(0) }
    }

    /// Pays for something before it is done.
    pub(crate) fn spend(&self, units: usize) -> Result<()> {
        match self.units.get().checked_sub(units) {
            Some(left) => {
                self.units.set(left);
                Ok(())
            }
            None => {
                self.units.set(0);
                fail!("the template does not come to an end, or makes too much of a conversation")
            }
        }
    }

    pub(crate) fn step(&self) -> Result<()> {
        self.spend(STEP)
    }

    /// Pays for a text of so many bytes.
    pub(crate) fn text(&self, bytes: usize) -> Result<()> {
        if bytes > MAX_TEXT {
            return fail!("the template makes a text of {bytes} bytes, more than {MAX_TEXT}");
        }
        self.spend(bytes.saturating_add(STEP))
    }

    /// Pays for reading so many bytes.
    pub(crate) fn scan(&self, bytes: usize) -> Result<()> {
        self.spend(bytes / 8)
    }

    /// Pays for so many places.
    pub(crate) fn slots(&self, count: usize) -> Result<()> {
        self.spend(count.saturating_mul(SLOT).saturating_add(STEP))
    }

    /// Goes one level down for the time of `job`.
    pub(crate) fn enter(&self) -> Result<()> {
        let depth = self.depth.get() + 1;
        if depth > MAX_CALL_DEPTH {
            return fail!("calls are nested deeper than {MAX_CALL_DEPTH} levels");
        }
        self.depth.set(depth);
        self.step()
    }

    pub(crate) fn leave(&self) {
        self.depth.set(self.depth.get().saturating_sub(1));
    }
}
