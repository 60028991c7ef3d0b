//! What engines round the inputs of a packed checkpoint's matrices to.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use qz_models::RowSlice;
use qz_packed::{Activations, InputRounding, Inputs};

use crate::error::Error;
use crate::model::{Model, ModelTensor};

/// Matrices of a model whose inputs were rounded, as its configuration says that engines do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RoundedInputs {
    /// The model.
    pub path: PathBuf,
    /// How many of its matrices.
    pub matrices: usize,
    /// What their inputs become.
    pub activations: String,
}

/// Of tensors, by name: what becomes of the inputs of each of the matrices stacked in them.
pub(crate) type TensorInputs = HashMap<String, Vec<Option<InputRounding>>>;

impl Model {
    /// What its configuration says of inputs.
    ///
    /// # Errors
    /// If that is something that is not computed here.
    pub(crate) fn stored_inputs(&self) -> Result<TensorInputs, Error> {
        let mut all = HashMap::new();
        if self.inputs.is_empty() {
            return Ok(all);
        }
        for tensor in &self.tensors {
            let matrices = tensor.shape.rows().div_ceil(tensor.rows_per_matrix());
            let own = (0..matrices).map(|matrix| self.inputs_of(tensor, matrix));
            let own: Vec<_> = own.collect::<Result<_, _>>()?;
            if own.iter().any(Option::is_some) {
                all.insert(tensor.name.to_string(), own);
            }
        }
        Ok(all)
    }

    /// The same of one matrix of a tensor.
    fn inputs_of(&self, tensor: &ModelTensor, matrix: u64) -> Result<Option<InputRounding>, Error> {
        let rows = tensor.shape.rows().min(tensor.rows_per_matrix());
        // What is transposed multiplies something else than the stored matrix does.
        let Some(stored) = tensor.stored_rows().filter(|_| tensor.change().transposed.is_none())
        else {
            return Ok(None);
        };
        let unknown = |what: &str| Error::UnknownInputs {
            path: self.path.clone(),
            tensor: tensor.name.as_str().into(),
            what: what.into(),
        };
        let (mut found, mut row) = (None, matrix * rows);
        while row < (matrix + 1) * rows {
            let (RowSlice { tensor, .. }, left) = stored.locate(row);
            let own = match self.inputs.get(&tensor) {
                None => Activations::Full.with(1.0),
                Some(Inputs::Known(rounding)) => *rounding,
                Some(Inputs::Unknown(what)) => return Err(unknown(what)),
            };
            if *found.get_or_insert(own) != own {
                return Err(unknown("its rows are of several matrices whose inputs differ"));
            }
            row += left.max(1);
        }
        Ok(found.filter(|rounding| rounding.activations.rounds()))
    }

    /// Its matrices whose inputs engines round, by what they become; those of another kind than
    /// is computed here are left out.
    pub(crate) fn rounded_inputs(&self) -> Vec<RoundedInputs> {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for inputs in self.inputs.values() {
            if let Inputs::Known(rounding) = inputs
                && rounding.activations.rounds()
            {
                *kinds.entry(rounding.activations.to_string()).or_default() += 1;
            }
        }
        let kinds = kinds.into_iter();
        kinds
            .map(|(activations, matrices)| RoundedInputs {
                path: self.path.clone(),
                matrices,
                activations,
            })
            .collect()
    }
}
