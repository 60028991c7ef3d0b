//! What an adapter makes of its base.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qz_models::Role;
use qz_tensor::{Location, Shape, SideFiles, TensorIndex, TensorInfo};

use super::config::Scaling;
use super::tensors::{AdapterTensors, Factors};
use super::{Adapter, CONFIG, MergedAdapter};
use crate::edits::{
    Edit, EditedColumns, EditedType, Edits, Factor, FactorStrides, LowRank, Operand, Operation,
};
use crate::error::Error;
use crate::model::{Model, ModelTensor};

/// What an adapter does to its base, and in which order it says so.
pub(super) struct Change {
    pub(super) tensors: AdapterTensors,
    pub(super) edits: Edits,
    /// Stored tensors with a product, as the adapter's tensors follow each other.
    pub(super) order: Vec<TensorIndex>,
}

impl Adapter {
    /// What it does to `model`, multiplied by `weight`.
    pub(super) fn change_of(&self, model: &Model, weight: f64) -> Result<Change, Error> {
        if !model.is_checkpoint() {
            let problem = format!(
                "does not fit {}: a GGUF file has other names than the adapter; give the \
                 checkpoint it was made from",
                model.path.display()
            );
            let location = Location::file(self.folder.path(CONFIG));
            return Err(Error::Adapter { location, problem });
        }
        let tensors = AdapterTensors::of(self)?;
        let mut edits = Edits::new(EditedType::AsStoredOrDecoded);
        edits.add_operand(self.source.clone());
        let names = BaseNames::of(model);
        let mut merge = Merge { model, adapter: self, weight, names, edits, order: Vec::new() };
        for index in (0..self.source.tensors().len()).map(TensorIndex) {
            self.check_finite(&merge.operand(index)?)?;
        }
        for (name, index) in &tensors.whole {
            merge.set(name, *index)?;
        }
        for (module, factors) in &tensors.factors {
            merge.add(module, *factors)?;
        }
        let Merge { edits, order, .. } = merge;
        if edits.is_empty() {
            let location = Location::file(self.folder.path(""));
            let problem = "has no tensors, so it changes nothing".to_owned();
            return Err(Error::Adapter { location, problem });
        }
        Ok(Change { tensors, edits, order })
    }
}

impl Model {
    /// The model with an adapter merged into its stored tensors, each rounded to its own type.
    pub(crate) fn with_adapter(self, merged: &MergedAdapter) -> Result<Self, Error> {
        let adapter = Adapter::open(&merged.path)?;
        let Change { tensors, edits, .. } = adapter.change_of(&self, merged.weight)?;
        let warnings = self.warnings_of(&adapter, &tensors, &edits);
        let mut model = self.edited(edits)?;
        model.warnings.extend(warnings);
        model.adapters.push(Arc::new(adapter.folder));
        Ok(model)
    }

    fn warnings_of(
        &self,
        adapter: &Adapter,
        tensors: &AdapterTensors,
        edits: &Edits,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        let path = adapter.folder.path(CONFIG);
        let own = crate::container::name_of(&self.path);
        if let (Some(base), Some(own)) = (&adapter.config.base, own) {
            let name = base.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            if !name.is_empty() && name != own {
                let base = qz_shards::shown(base);
                warnings.push(format!(
                    "{}: base_model_name_or_path is {base}, and the adapter is merged into {own}",
                    path.display()
                ));
            }
        }
        let has_embedding = self.tensors.iter().any(|it| it.role == Some(Role::TokenEmbedding));
        let is_embedded = tensors.factors.values().any(|factors| factors.is_embedding);
        if is_embedded && has_embedding && !self.has_output() {
            warnings.push(format!(
                "{}: the adapter changes the embedding, which is the output matrix, too: both \
                 change, as in PEFT's merge",
                path.display()
            ));
        }
        let is_decoded =
            |tensor: &&TensorIndex| self.source.tensors()[tensor.0].data_type.is_block();
        if let count @ 1.. = edits.tensors().filter(is_decoded).count() {
            warnings.push(format!(
                "{}: {count} of the base's tensors are stored quantized; they are merged as f32, \
                 and whatever is written of them is quantized a second time",
                path.display()
            ));
        }
        warnings
    }

    fn has_output(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.role == Some(Role::Output))
    }

    /// True for a stored embedding that is the output matrix, too.
    fn is_tied_embedding(&self, stored: TensorIndex) -> bool {
        let is_embedding = |tensor: &ModelTensor| {
            tensor.role == Some(Role::TokenEmbedding)
                && tensor
                    .stored_rows()
                    .is_some_and(|rows| rows.slices().iter().any(|slice| slice.tensor == stored))
        };
        self.tensors.iter().any(is_embedding) && !self.has_output()
    }
}

/// The base's tensors by their names.
struct BaseNames<'a> {
    indices: HashMap<&'a str, TensorIndex>,
    /// Tensors that are stored with their rows as columns, all of them.
    turned: HashSet<TensorIndex>,
}

impl<'a> BaseNames<'a> {
    fn of(model: &'a Model) -> Self {
        let own = model.names.iter().map(String::as_str);
        let stored = model.source.tensors().iter().map(|info| &*info.name);
        // The stored name counts, where both are there.
        let indices = (0..).map(TensorIndex);
        let named = own.zip(indices.clone()).chain(stored.zip(indices)).collect();
        let read_by = |is_turned: bool| {
            let own =
                move |tensor: &&ModelTensor| tensor.change().transposed.is_some() == is_turned;
            let stacks = model.tensors.iter().filter(own).filter_map(ModelTensor::stored_rows);
            stacks.flat_map(|rows| rows.slices().iter().map(|slice| slice.tensor))
        };
        // Of a matrix with keys and values only the keys' heads are turned.
        let upright: HashSet<TensorIndex> = read_by(false).collect();
        let turned = read_by(true).filter(|tensor| !upright.contains(tensor)).collect();
        Self { indices: named, turned }
    }

    /// The tensor that the trained model called `name`. Checkpoints leave out a decoder's
    /// prefix, and have had other names for the same modules.
    fn find(&self, name: &str) -> Option<TensorIndex> {
        const SPELLINGS: &[(&str, &str)] = &[
            ("", ""),
            ("model.language_model.", "language_model.model."),
            ("model.language_model.", "model."),
            ("language_model.model.", "model."),
            ("model.", ""),
            (".mlp.", ".block_sparse_moe."),
        ];
        let spelled = SPELLINGS.iter().map(|(from, to)| name.replacen(from, to, 1));
        let mut spelled = spelled.chain([format!("model.{name}")]);
        spelled.find_map(|name| self.indices.get(&*name)).copied()
    }
}

/// An adapter on its way into a base.
pub(super) struct Merge<'a> {
    model: &'a Model,
    pub(super) adapter: &'a Adapter,
    weight: f64,
    names: BaseNames<'a>,
    edits: Edits,
    order: Vec<TensorIndex>,
}

/// One low-rank product, and where it goes.
pub(super) struct Product {
    pub(super) tensor: TensorIndex,
    pub(super) rows: (TensorIndex, FactorStrides),
    pub(super) columns: (TensorIndex, FactorStrides),
    pub(super) scaling: Scaling,
    pub(super) is_rounded: bool,
}

impl Merge<'_> {
    pub(super) fn find(&self, name: &str) -> Option<TensorIndex> {
        self.names.find(name)
    }

    pub(super) fn is_turned(&self, tensor: TensorIndex) -> bool {
        self.names.turned.contains(&tensor)
    }

    /// A tensor of the base.
    pub(super) fn base(&self, tensor: TensorIndex) -> &TensorInfo {
        &self.model.source.tensors()[tensor.0]
    }

    /// The dimensions of one of the adapter's matrices, whose numbers can be read.
    pub(super) fn matrix(&self, tensor: TensorIndex) -> Result<[u64; 2], Error> {
        self.operand(tensor)?;
        let shape = &self.adapter.source.tensors()[tensor.0].shape;
        shape.dimensions().try_into().map_err(|_| {
            self.adapter.fault(tensor, format!("has the shape {shape}, and is no matrix"))
        })
    }

    fn operand(&self, tensor: TensorIndex) -> Result<Operand, Error> {
        let data_type = self.adapter.source.tensors()[tensor.0].data_type;
        if qz_kernels::codec_for(data_type).is_none() {
            let problem = format!("is stored as {data_type}, which cannot be read as numbers");
            return Err(self.adapter.fault(tensor, problem));
        }
        Ok(Operand { source: self.adapter.source.clone(), tensor })
    }

    /// The error that one of the adapter's tensors has no place in the base.
    pub(super) fn homeless(&self, tensor: TensorIndex, name: &str) -> Error {
        let base = self.model.path.display();
        let why = match name.starts_with("lm_head.") {
            true => {
                ": its output is its embedding (tie_word_embeddings), and the adapter was \
                     trained on one of its own"
            }
            false => "",
        };
        self.adapter.fault(tensor, format!("belongs to {name}, which {base} does not have{why}"))
    }

    /// A tensor takes the place of the base's.
    fn set(&mut self, name: &str, index: TensorIndex) -> Result<(), Error> {
        let tensor = self.find(name).ok_or_else(|| self.homeless(index, name))?;
        let shape = &self.adapter.source.tensors()[index.0].shape;
        let own = &self.base(tensor).shape;
        if shape != own {
            return Err(self.adapter.fault(index, misfit(shape, name, own)));
        }
        if self.weight != 1.0 {
            let problem = format!(
                "takes the place of {name}, so the adapter cannot be merged with a weight of {}",
                self.weight
            );
            return Err(self.adapter.fault(index, problem));
        }
        // What lies under factors is the base's own.
        let is_base = self.adapter.source.tensors()[index.0].name.contains(".base_layer.");
        if !is_base && self.model.is_tied_embedding(tensor) {
            let problem = format!(
                "takes the place of {name} alone, and the base's output, which is the same matrix \
                 (tie_word_embeddings), stays as it was; merge it with PEFT, which unties them"
            );
            return Err(self.adapter.fault(index, problem));
        }
        let operation = Operation::Set(self.operand(index)?);
        self.push(tensor, u64::MAX, operation);
        Ok(())
    }

    /// The factors of a module are added to its weight.
    fn add(&mut self, module: &str, factors: Factors) -> Result<(), Error> {
        let [a, b] = factors.both(self.adapter)?;
        let name = format!("{module}.weight");
        let Some(tensor) = self.find(&name) else { return self.add_to_experts(module, [a, b]) };
        let parameters = &self.adapter.config.target_parameters;
        if parameters.iter().any(|parameter| name.ends_with(&**parameter)) {
            let problem =
                format!("adapts the parameter {name}, not a module; that is not understood");
            return Err(self.adapter.fault(a, problem));
        }
        // Of known families the tensors' maps say which are turned.
        if self.adapter.config.has_turned && self.model.is_of_unknown_class {
            let problem = "has fan_in_fan_out, and nobody here knows which of the base's \
                           matrices that means";
            return Err(self.adapter.fault(a, problem));
        }
        let scaling = self.adapter.config.scaling(module);
        let ([rank, width], [height, rank_of_b]) = (self.matrix(a)?, self.matrix(b)?);
        if rank != scaling.rank || rank_of_b != rank {
            let stated = scaling.rank;
            let problem = format!(
                "has the rank {rank}, and lora_B {rank_of_b}; adapter_config.json says {stated}"
            );
            return Err(self.adapter.fault(a, problem));
        }
        // An embedding is looked up by the columns of A.
        let is_turned = factors.is_embedding || self.is_turned(tensor);
        let expected = if is_turned { [width, height] } else { [height, width] };
        let shape = &self.base(tensor).shape;
        if shape.dimensions() != expected {
            let [rows, columns] = expected;
            let problem = format!("is of a matrix of {rows} × {columns}; {name} is {shape}");
            return Err(self.adapter.fault(a, problem));
        }
        let of_a = (a, FactorStrides { item: 1, rank: width, ..FactorStrides::default() });
        let of_b = (b, FactorStrides { item: rank, rank: 1, ..FactorStrides::default() });
        let (rows, columns) = if is_turned { (of_a, of_b) } else { (of_b, of_a) };
        let is_rounded = factors.is_embedding;
        self.push_product(&Product { tensor, rows, columns, scaling, is_rounded })?;
        self.set_lengths(tensor, factors, height, is_turned)
    }

    /// DoRA: rows get the lengths of the magnitude vector.
    fn set_lengths(
        &mut self,
        tensor: TensorIndex,
        factors: Factors,
        height: u64,
        is_turned: bool,
    ) -> Result<(), Error> {
        let Some(index) = factors.magnitude else {
            return match (self.adapter.config.is_dora, factors.a) {
                (true, Some(a)) => {
                    Err(self.adapter.fault(a, "has no lora_magnitude_vector, and use_dora is true"))
                }
                _ => Ok(()),
            };
        };
        let refused = |problem: &str| Err(self.adapter.fault(index, problem));
        if !self.adapter.config.is_dora {
            return refused("is a magnitude of DoRA, and use_dora is not set");
        }
        if is_turned {
            return refused(
                "is a magnitude of columns (an embedding, or fan_in_fan_out), which \
                            is not merged",
            );
        }
        if self.weight != 1.0 {
            return refused("is of DoRA, which cannot be merged with a weight");
        }
        let lengths = self.operand(index)?.numbers()?;
        if lengths.len() as u64 != height {
            let problem = format!("has {} numbers for {height} rows", lengths.len());
            return refused(&problem);
        }
        self.push(tensor, height, Operation::SetLengths { lengths: lengths.into() });
        Ok(())
    }

    pub(super) fn push_product(&mut self, product: &Product) -> Result<(), Error> {
        let factor = |(tensor, strides)| -> Result<Factor, Error> {
            Ok(Factor { operand: self.operand(tensor)?, strides })
        };
        let scale = (product.scaling.factor * self.weight) as f32;
        if !scale.is_finite() {
            let problem =
                format!("is multiplied by {:e}, which is too large", product.scaling.factor);
            return Err(self.adapter.fault(product.columns.0, problem));
        }
        let operation = Operation::AddLowRank(LowRank {
            rows: factor(product.rows)?,
            columns: factor(product.columns)?,
            rank: product.scaling.rank,
            scale,
            is_rounded: product.is_rounded,
        });
        self.push(product.tensor, u64::MAX, operation);
        self.order.push(product.tensor);
        Ok(())
    }

    fn push(&mut self, tensor: TensorIndex, rows: u64, operation: Operation) {
        let columns = EditedColumns::ALL;
        self.edits.push(tensor, Edit { rows: 0..rows, columns, operation });
    }
}

fn misfit(shape: &Shape, name: &str, own: &Shape) -> String {
    let is_vocabulary = name.ends_with("embed_tokens.weight") || name.starts_with("lm_head.");
    let why = match is_vocabulary {
        true => ": the training enlarged the vocabulary; enlarge the base's first",
        false => "",
    };
    format!("has the shape {shape}, {name} of the base {own}{why}")
}
