//! One layer's weights on the backend.

use qz_kernels::backend::{Backend, InputRounding};

use super::weights::{Linear, Loader, WeightSource};
use crate::graph::{GroupIndex, LayerGraph, LinearGroup, MatrixIndex, VectorIndex};
use crate::rules::LayerIndex;

/// A layer's weights, as its graph numbers them.
pub(super) struct Layer<'a, B: Backend> {
    pub(super) graph: &'a LayerGraph,
    /// Of each group the matrices, of one expert after the other.
    groups: Vec<Vec<Linear<B>>>,
    vectors: Vec<Option<B::Buffer>>,
}

impl<'a, B: Backend> Layer<'a, B> {
    pub(super) fn load<W: WeightSource>(
        loader: &Loader<'a, B, W>,
        layer: LayerIndex,
    ) -> Result<Self, W::Error> {
        let graph = loader.graph.layer(layer);
        graph.without().iter().try_for_each(|role| loader.refuse(*role, layer))?;
        let vectors = graph.vectors().iter().map(|vector| loader.layer_vector(vector, layer));
        let vectors = vectors.collect::<Result<_, W::Error>>()?;
        let groups = graph.groups().iter().map(|group| matrices(loader, layer, group));
        let groups = groups.collect::<Result<_, W::Error>>()?;
        Ok(Self { graph, groups, vectors })
    }

    /// The matrices of a group, or of one of its experts.
    pub(super) fn matrices(&self, group: GroupIndex, expert: Option<usize>) -> &[Linear<B>] {
        let count = self.graph.group(group).members.len();
        &self.groups[group.0][expert.unwrap_or(0) * count..][..count]
    }

    /// What becomes of the inputs of a group, or of one of its experts: of the first of its
    /// matrices that rounds them.
    pub(super) fn rounding(
        &self,
        group: GroupIndex,
        expert: Option<usize>,
    ) -> Option<InputRounding> {
        self.matrices(group, expert).iter().find_map(|matrix| matrix.inputs)
    }

    pub(super) fn matrix(&self, matrix: MatrixIndex) -> &Linear<B> {
        &self.groups[matrix.group.0][matrix.member]
    }

    pub(super) fn matrix_mut(
        &mut self,
        matrix: MatrixIndex,
        expert: Option<usize>,
    ) -> &mut Linear<B> {
        let count = self.graph.group(matrix.group).members.len();
        &mut self.groups[matrix.group.0][expert.unwrap_or(0) * count + matrix.member]
    }

    pub(super) fn vector(&self, index: VectorIndex) -> Option<&B::Buffer> {
        self.vectors[index.0].as_ref()
    }
}

fn matrices<B: Backend, W: WeightSource>(
    loader: &Loader<'_, B, W>,
    layer: LayerIndex,
    group: &LinearGroup,
) -> Result<Vec<Linear<B>>, W::Error> {
    let size = |rows: usize| (rows, group.columns);
    let Some(experts) = group.experts else {
        let members = group.members.iter();
        return members.map(|own| loader.linear(own.role, layer, size(own.rows))).collect();
    };
    let own = (0..experts).flat_map(|expert| group.members.iter().map(move |own| (expert, own)));
    own.map(|(expert, own)| loader.expert(own.role, layer, (expert, experts), size(own.rows)))
        .collect()
}
