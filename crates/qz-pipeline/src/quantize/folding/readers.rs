//! The matrices that read a fold's channels.

use qz_kernels::backend::Backend;
use qz_models::graph::{Fold, FoldSource, MatrixIndex};

use super::super::layers::{Layers, Matrix};
use crate::error::Error;
use crate::statistics::Stream;

/// Those that are rounded.
pub(super) struct Readers(Vec<(MatrixIndex, Matrix)>);

impl Readers {
    /// Those of a fold of the loaded layer; none if there are none, or if what makes the
    /// channels is a matrix that is not rounded, whose stored type could not hold the factors.
    pub(super) fn of<B: Backend>(
        layers: &Layers<'_, B>,
        stream: &Stream<'_, B>,
        fold: &Fold,
    ) -> Result<Option<Self>, Error> {
        if let FoldSource::Rows { matrix, .. } = fold.source
            && layers.matrices(stream, matrix)?.is_empty()
        {
            return Ok(None);
        }
        let mut all = Vec::new();
        for reader in &fold.readers {
            let own = layers.matrices(stream, *reader)?;
            all.extend(own.into_iter().map(|matrix| (*reader, matrix)));
        }
        Ok((!all.is_empty()).then_some(Self(all)))
    }

    /// Those of an expert, or all.
    pub(super) fn of_expert(
        &self,
        expert: Option<usize>,
    ) -> impl Iterator<Item = (MatrixIndex, &Matrix)> {
        let own = self.0.iter().filter(move |(_, own)| expert.is_none() || own.expert == expert);
        own.map(|(index, matrix)| (*index, matrix))
    }

    /// How many experts there are, at least one.
    pub(super) fn experts(&self) -> usize {
        self.0.iter().filter_map(|(_, matrix)| matrix.expert).max().unwrap_or(0) + 1
    }
}
