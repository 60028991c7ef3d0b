//! Factors as edits of the model's tensors.
//!
//! A norm's weights keep the type that they are stored in. What rounding makes of them is
//! measured, and the matrices take exactly that; so nothing is lost by folding. Matrices become
//! f32, for a method to round.

use qz_models::graph::{Fold, FoldSource, LayerGraph, MatrixIndex};
use qz_models::{LayerIndex, Part, Role};
use qz_tensor::DataType;

use super::{FoldPlace, Folded};
use crate::edits::{Axis, EditedType, Edits};
use crate::error::Error;
use crate::model::{Model, ModelTensor, to_usize};

/// The model with all factors folded in.
pub(super) fn folded(
    model: &Model,
    graphs: &[LayerGraph],
    folds: &[Folded],
) -> Result<Model, Error> {
    let mut norms = Edits::new(EditedType::AsStoredOrDecoded);
    for fold in folds {
        if let Some(role) = fold.norm() {
            fold.edit_norm(model, role, &mut norms)?;
        }
    }
    let as_stored = model.clone().edited(norms.clone())?;
    let mut edits = norms;
    for fold in folds {
        let factors = match fold.norm() {
            Some(role) => vec![fold.exact(model, &as_stored, role)?],
            None => fold.factors.clone(),
        };
        match &fold.place {
            FoldPlace::Output => {
                scale(
                    model,
                    Role::Output,
                    Part::Weight,
                    None,
                    Axis::Columns,
                    &factors[0],
                    &mut edits,
                )?;
            }
            FoldPlace::OfLayer(own) => {
                let layer = fold.layer.unwrap_or(LayerIndex(0));
                let graph = &graphs[layer.0 as usize];
                let place = Place { model, graph, layer, fold: own };
                place.edit_source(&factors, &mut edits)?;
                place.edit_readers(&factors, &mut edits)?;
            }
        }
    }
    model.clone().edited(edits)
}

impl Folded {
    /// The norm that takes the factors, if one does.
    fn norm(&self) -> Option<Role> {
        match &self.place {
            FoldPlace::Output => Some(Role::OutputNorm),
            FoldPlace::OfLayer(Fold { source: FoldSource::Norm(role), .. }) => Some(*role),
            FoldPlace::OfLayer(_) => None,
        }
    }

    fn edit_norm(&self, model: &Model, role: Role, edits: &mut Edits) -> Result<(), Error> {
        let inverse: Vec<f32> = self.factors[0].iter().map(|factor| 1.0 / factor).collect();
        let own = |part| find(model, role, part, self.layer);
        let (weight, bias) = (own(Part::Weight), own(Part::Bias));
        for tensor in weight.into_iter().chain(bias) {
            // A norm of groups is a matrix with a row for each, here of one.
            let is_row = tensor.grid().0 == 1 && inverse.len() > 1;
            let axis = if is_row { Axis::Columns } else { Axis::Rows };
            edits.scale(model, tensor, axis, &inverse)?;
            // A bias cannot be divided by what the weights' type makes of a factor.
            if bias.is_some() {
                decode(tensor, edits);
            }
        }
        Ok(())
    }

    /// What the norm's weights were really divided by.
    fn exact(&self, model: &Model, edited: &Model, role: Role) -> Result<Vec<f32>, Error> {
        let values = |model: &Model| {
            find(model, role, Part::Weight, self.layer)
                .map(|tensor| numbers(model, tensor))
                .transpose()
        };
        let (Some(before), Some(after)) = (values(model)?, values(edited)?) else {
            return Ok(self.factors[0].clone());
        };
        let pairs = before.iter().zip(&after).zip(&self.factors[0]);
        let exact = pairs.map(|((before, after), factor)| {
            let ratio = before / after;
            if *before != 0.0 && ratio.is_normal() { ratio } else { *factor }
        });
        Ok(exact.collect())
    }
}

/// A fold of a layer.
struct Place<'a> {
    model: &'a Model,
    graph: &'a LayerGraph,
    layer: LayerIndex,
    fold: &'a Fold,
}

impl Place<'_> {
    /// Divides the rows that make the channels, if these are rows.
    fn edit_source(&self, factors: &[Vec<f32>], edits: &mut Edits) -> Result<(), Error> {
        let FoldSource::Rows { matrix, first } = self.fold.source else { return Ok(()) };
        let rows = self.graph.member(matrix).rows;
        let of_one = |factors: &Vec<f32>| {
            let mut all = vec![1.0; rows];
            for (row, factor) in all[first..].iter_mut().zip(factors) {
                *row = 1.0 / factor;
            }
            all
        };
        let all: Vec<f32> = factors.iter().flat_map(of_one).collect();
        let role = self.graph.member(matrix).role;
        let layer = Some(self.layer);
        for part in [Part::Weight, Part::Bias] {
            scale(self.model, role, part, layer, Axis::Rows, &all, edits)?;
        }
        Ok(())
    }

    /// Multiplies the columns that read them.
    fn edit_readers(&self, factors: &[Vec<f32>], edits: &mut Edits) -> Result<(), Error> {
        let columns = self.graph.group(self.fold.group).columns;
        let of_one = |factors: &Vec<f32>| -> Vec<f32> {
            (0..columns).map(|column| factors[self.fold.columns.channel(column)]).collect()
        };
        let all: Vec<f32> = factors.iter().flat_map(of_one).collect();
        let role = |reader: &MatrixIndex| self.graph.member(*reader).role;
        for role in self.fold.readers.iter().map(role) {
            let layer = Some(self.layer);
            scale(self.model, role, Part::Weight, layer, Axis::Columns, &all, edits)?;
        }
        Ok(())
    }
}

/// Scales a tensor, if the model has it, and keeps its numbers as they become.
fn scale(
    model: &Model,
    role: Role,
    part: Part,
    layer: Option<LayerIndex>,
    axis: Axis,
    factors: &[f32],
    edits: &mut Edits,
) -> Result<(), Error> {
    let Some(tensor) = find(model, role, part, layer) else { return Ok(()) };
    edits.scale(model, tensor, axis, factors)?;
    decode(tensor, edits);
    Ok(())
}

/// Has a tensor's numbers stay as they become.
fn decode(tensor: &ModelTensor, edits: &mut Edits) {
    let slices = tensor.stored_rows().into_iter().flat_map(|rows| rows.slices());
    slices.for_each(|slice| edits.decode(slice.tensor));
}

fn find(model: &Model, role: Role, part: Part, layer: Option<LayerIndex>) -> Option<&ModelTensor> {
    let is_it = |tensor: &&ModelTensor| {
        tensor.role == Some(role) && tensor.part == part && tensor.layer == layer
    };
    model.tensors.iter().find(is_it)
}

/// All numbers of a vector.
fn numbers(model: &Model, tensor: &ModelTensor) -> Result<Vec<f32>, Error> {
    let data_type = tensor.source_type;
    let count = to_usize(tensor.shape.elements());
    let bytes = data_type.byte_size(tensor.shape.elements()).map_or(0, to_usize);
    let mut stored = vec![0; bytes];
    model.read_ordered_rows(tensor, 0..tensor.grid().0, &mut stored)?;
    let codec = qz_kernels::codec_for(data_type).ok_or_else(|| Error::NoCodec {
        location: model.location(tensor, 0),
        data_type,
        target: DataType::F32,
        missing: data_type,
    })?;
    let mut values = vec![0.0; count];
    codec.decode(&stored, &mut values);
    Ok(values)
}
