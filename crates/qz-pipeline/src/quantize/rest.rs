//! Tensors that no method chooses values for: norms, biases, routers, embeddings. Those of a
//! layer are written with it, when what became of its matrices is known.

use std::collections::BTreeMap;

use qz_models::LayerIndex;

use crate::convert::Rows;
use crate::error::Error;
use crate::event::Observer;
use crate::plan::peak_memory;
use crate::sinks::Sinks;
use crate::stream::{Cancel, Work};

/// Work on tensors, and their positions in the model.
type Part<'a> = (Vec<Work<'a>>, Vec<usize>);

/// What is left of it.
pub(super) struct Rest<'a> {
    rows: Rows<'a>,
    /// By layer; none comes first.
    parts: BTreeMap<Option<LayerIndex>, Part<'a>>,
    cancel: &'a Cancel,
}

impl<'a> Rest<'a> {
    /// All of it; where there is nothing to wait for, in one part.
    pub(super) fn new(
        rows: Rows<'a>,
        work: impl Iterator<Item = (Work<'a>, usize)>,
        by_layer: bool,
        cancel: &'a Cancel,
    ) -> Self {
        let mut parts: BTreeMap<_, Part<'a>> = BTreeMap::new();
        for (work, position) in work {
            let layer = rows.model.tensors[position].layer.filter(|_| by_layer);
            let part = parts.entry(layer).or_default();
            part.0.push(work);
            part.1.push(position);
        }
        Self { rows, parts, cancel }
    }

    /// The most bytes that encoding takes outside of the layers, and in one of them.
    pub(super) fn peak_memory(&self) -> [u64; 2] {
        let peak = |in_layer: bool| {
            let parts = self.parts.iter().filter(|(layer, _)| layer.is_some() == in_layer);
            parts.map(|(_, (work, _))| peak_memory(work, 1, self.rows.threads)).max().unwrap_or(0)
        };
        [peak(false), peak(true)]
    }

    /// Encodes what belongs to a layer, or to none.
    pub(super) fn encode(
        &mut self,
        layer: Option<LayerIndex>,
        sinks: &mut Sinks,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let Some((work, positions)) = self.parts.remove(&layer) else { return Ok(()) };
        self.rows.encode(sinks, &work, &positions, self.cancel, observer)
    }

    /// Encodes whatever is left.
    pub(super) fn encode_all(
        &mut self,
        sinks: &mut Sinks,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let layers: Vec<_> = self.parts.keys().copied().collect();
        layers.into_iter().try_for_each(|layer| self.encode(layer, sinks, observer))
    }
}
