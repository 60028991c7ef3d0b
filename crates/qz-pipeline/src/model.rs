//! A model as it will be written: GGUF names, shapes and metadata, whatever
//! container it came in.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qz_models::projector::{Precision, ProjectorDescription};
use qz_models::{
    Architecture, Change, LayerIndex, ModelDescription, Part, PlainForm, RestoredNumber, Role,
    StackedRows, TensorMap, TensorOrigin, restored_numbers,
};
use qz_packed::{Inputs, PackedSize};
use qz_tensor::{
    DataType, Metadata, Name, Shape, SourceFile, TensorIndex, TensorInfo, TensorSource,
};
use qz_tokenize::UnknownPreTokenizer;

use crate::adapters::MergedAdapter;
use crate::container::Container;
use crate::error::Error;
use crate::folder::Folder;
use crate::mapped_rows::changed_type;
use crate::planning::shortened;
use crate::unread_rows::unread_rows;

/// How a model is to be read.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The pre-tokenizer's GGUF name, instead of the one tokenizer.json implies.
    pub pre_tokenizer: Option<String>,
    /// The model's name, instead of the one its files imply.
    pub model_name: Option<String>,
    /// Read packed matrices as blocks with the same codes, where offsets have to be
    /// rounded for that.
    pub repack: bool,
    /// Open checkpoints of classes that nobody here knows, too: their tensors keep their
    /// names.
    pub generic: bool,
    /// What stands before the names of a checkpoint's tensors, to be taken away; tensors
    /// without it are left out where the model has no place for them.
    pub strip_prefix: Option<String>,
    /// Leave out a checkpoint's layers that only predict further tokens.
    pub drops_further_layers: bool,
    /// The part of a checkpoint that sees is read, not the one that reads and writes text.
    pub projector: bool,
    /// Adapters that are merged into the model's weights, one after the other.
    pub adapters: Vec<MergedAdapter>,
    /// Layers that are left out then, by their numbers.
    pub pruned_layers: Vec<u32>,
}

impl OpenOptions {
    /// The same, with no adapter.
    #[must_use]
    pub(crate) fn without_adapters(&self) -> Self {
        Self { adapters: Vec::new(), ..self.clone() }
    }
}

/// An opened model. Its tensors are in the order they will be written.
#[derive(Clone)]
pub struct Model {
    pub(crate) path: PathBuf,
    pub(crate) container: &'static str,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<ModelTensor>,
    pub(crate) ignored: Vec<String>,
    /// Of each of a checkpoint's tensors, what it is called without what was put around the
    /// model.
    pub(crate) names: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// What a GGUF file of it cannot say.
    pub(crate) unsaid: Vec<String>,
    /// Why no GGUF file of it can be written: llama.cpp has no name for its pre-tokenizer.
    pub(crate) unnamed_pre_tokenizer: Option<UnknownPreTokenizer>,
    pub(crate) source: Arc<dyn TensorSource>,
    /// What tells the edits of its stored tensors from others, if there are any.
    pub(crate) edits: Option<String>,
    /// The folders of the adapters that are merged into it.
    pub(crate) adapters: Vec<Arc<Folder>>,
    /// The folder it is in, if it comes from a checkpoint.
    pub(crate) folder: Option<Arc<Folder>>,
    /// Its architecture, as its configuration names it.
    pub(crate) architecture: Option<&'static dyn Architecture>,
    /// The pre-tokenizer's name, decided by a person.
    pub(crate) pre_tokenizer: Option<String>,
    /// What its configuration says of how its weights are packed, with the method's name.
    pub(crate) quantization: Option<serde_json::Map<String, serde_json::Value>>,
    /// Of the source's packed matrices: what engines round their inputs to.
    pub(crate) inputs: Arc<HashMap<TensorIndex, Inputs>>,
    /// The sliding window that a checkpoint's configuration states.
    pub(crate) sliding_window: Option<u64>,
    /// The kind of a rotary scaling past the trained context that is not computed.
    pub(crate) lost_scaling: Option<&'static str>,
    /// The checkpoint of plain numbers that a folder made of it is.
    pub(crate) plain: Option<Arc<PlainForm>>,
    /// True if its layers that only predict further tokens, if there were any, are left out.
    pub(crate) drops_further_layers: bool,
    /// True if some of its layers are left out.
    pub(crate) is_pruned: bool,
    /// True if its tensors have the names of a class that nobody here knows.
    pub(crate) is_of_unknown_class: bool,
}

/// One tensor of the model to be written.
#[derive(Clone, Debug)]
pub struct ModelTensor {
    /// Its GGUF name.
    pub name: Name,
    /// What it was called before layers were left out, where statistics were collected. In a box:
    /// few models have it, and some files a million tensors.
    pub(crate) unpruned: Option<Box<Name>>,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// What it does, if its family is known.
    pub role: Option<Role>,
    /// Whether it is the role's weight or its bias.
    pub part: Part,
    /// Its layer.
    pub layer: Option<LayerIndex>,
    /// The element type it comes in.
    pub source_type: DataType,
    /// The element type of the stored rows, before the map changes them.
    pub(crate) stored_type: DataType,
    /// The type it gets where the target says nothing about it: f32 from a
    /// checkpoint (as the reference's converter does), its own from a GGUF file.
    pub unquantized: DataType,
    /// The packed layout that it is decoded from. Such a tensor is quantized, whatever element
    /// type it is decoded to.
    pub(crate) packed: Option<Box<PackedSize>>,
    /// True if it has the checkpoint's own name, and no place in GGUF.
    pub(crate) is_beside: bool,
    /// What decides its type, of a tensor of a projector.
    pub(crate) precision: Option<Precision>,
    pub(crate) origin: TensorOrigin,
}

impl ModelTensor {
    /// A tensor as the source has it, under its name there.
    pub(crate) fn as_stored(position: usize, info: &TensorInfo) -> Self {
        Self {
            name: info.name.clone(),
            unpruned: None,
            shape: info.shape.clone(),
            role: None,
            part: Part::Weight,
            layer: None,
            source_type: info.data_type,
            stored_type: info.data_type,
            unquantized: info.data_type,
            packed: None,
            is_beside: false,
            precision: None,
            origin: TensorOrigin::Mapped(TensorMap::of(StackedRows::whole(TensorIndex(position)))),
        }
    }
}

impl ModelTensor {
    /// A tensor of the checkpoint that a GGUF file has the number of.
    fn of_number(number: RestoredNumber) -> Self {
        Self {
            unpruned: None,
            name: number.name.into(),
            shape: number.shape,
            role: None,
            part: Part::Weight,
            layer: Some(number.layer),
            source_type: DataType::F32,
            stored_type: DataType::F32,
            unquantized: DataType::F32,
            packed: None,
            is_beside: true,
            precision: None,
            origin: TensorOrigin::Computed(vec![number.value]),
        }
    }

    /// What statistics of the model's inputs call it.
    pub(crate) fn measured_name(&self) -> &str {
        self.unpruned.as_deref().unwrap_or(&self.name)
    }

    /// Rows and columns as they are moved and encoded: of a vector of plain
    /// elements each element is a row, since row orders move elements there.
    pub(crate) fn grid(&self) -> (u64, u64) {
        if self.shape.rank() <= 1 && !self.source_type.is_block() {
            (self.shape.elements(), 1)
        } else {
            (self.shape.rows(), self.shape.columns())
        }
    }

    /// The tensor of the source that it is, or begins with.
    pub(crate) fn first_source(&self) -> Option<TensorIndex> {
        Some(self.stored_rows()?.locate(0).0.tensor)
    }

    /// The rows of the source that it is made of; none if it is computed.
    pub(crate) fn stored_rows(&self) -> Option<&StackedRows> {
        match &self.origin {
            TensorOrigin::Mapped(map) => Some(&map.rows),
            TensorOrigin::Computed(_) => None,
        }
    }

    /// What becomes of these rows.
    pub(crate) fn change(&self) -> Change {
        match &self.origin {
            TensorOrigin::Mapped(map) => map.change(),
            TensorOrigin::Computed(_) => Change::NONE,
        }
    }

    /// Columns of its rows as they are stored.
    pub(crate) fn stored_columns(&self) -> u64 {
        self.change().transposed.map_or(self.grid().1, |matrix| matrix.rows)
    }

    /// True if it is quantized already.
    pub(crate) fn is_quantized(&self) -> bool {
        self.source_type.is_block() || self.packed.is_some()
    }

    /// Its size as it is stored.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let plain = || self.shape.byte_size(self.source_type).unwrap_or_default();
        self.packed.as_ref().map_or_else(plain, |packed| packed.bytes)
    }

    /// Rows of one of the matrices stacked in the tensor; all rows if it is one.
    pub(crate) fn rows_per_matrix(&self) -> u64 {
        match self.shape.dimensions() {
            [.., rows, _] => *rows,
            _ => u64::MAX,
        }
        .max(1)
    }

    /// Bytes of one row of the grid; the planner has checked that rows fit blocks.
    pub(crate) fn row_bytes(&self, data_type: DataType) -> usize {
        let (_, columns) = self.grid();
        data_type.byte_size(columns).map_or(0, to_usize)
    }
}

/// The size of the packed tensors that a tensor's runs are taken from, in the share that it takes.
fn packed_size(
    map: &TensorMap,
    shape: &Shape,
    stored: &[TensorInfo],
    packed: &HashMap<TensorIndex, PackedSize>,
) -> Option<PackedSize> {
    let mut runs: BTreeMap<TensorIndex, u64> = BTreeMap::new();
    let slices = map.rows.slices();
    slices.iter().for_each(|slice| *runs.entry(slice.tensor).or_default() += 1);
    let of_run = shape.elements() / slices.len() as u64;
    let share = |(tensor, runs): (TensorIndex, u64)| {
        let size = *packed.get(&tensor)?;
        let all = stored[tensor.0].shape.elements().max(1);
        let part =
            |bytes: u64| (u128::from(bytes) * u128::from(runs * of_run) / u128::from(all)) as u64;
        Some(PackedSize { bytes: part(size.bytes), codes: part(size.codes), ..size })
    };
    let sum = |sum: PackedSize, size: PackedSize| PackedSize {
        bytes: sum.bytes + size.bytes,
        codes: sum.codes + size.codes,
        ..sum
    };
    runs.into_iter().filter_map(share).reduce(sum)
}

/// Sizes of buffers and tiles: they have been checked against a file or a limit.
pub(crate) fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

impl Model {
    /// Opens the model at `path`, whatever its container.
    ///
    /// # Errors
    /// If nothing is there, nothing recognises it, or it is malformed.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, Error> {
        let model = Container::open_any(path, options)?;
        let model = options.adapters.iter().try_fold(model, Self::with_adapter)?;
        model.without_layers(&options.pruned_layers)
    }

    pub(crate) fn from_gguf(
        path: &Path,
        metadata: Metadata,
        source: Box<dyn TensorSource>,
        options: &OpenOptions,
    ) -> Self {
        let family = qz_models::architecture_of(&metadata);
        let numbers = family.map_or_else(Vec::new, |known| restored_numbers(known, &metadata));
        let tensor = |(position, info): (usize, &TensorInfo)| {
            let mut tensor = ModelTensor::as_stored(position, info);
            if let Some((role, part, layer)) = family.and_then(|known| known.identity(&info.name)) {
                (tensor.role, tensor.part, tensor.layer) = (Some(role), part, layer);
            }
            tensor
        };
        let stored = source.tensors().iter().enumerate().map(tensor);
        let tensors = stored.chain(numbers.into_iter().map(ModelTensor::of_number)).collect();
        let mut model = Self::ordered(path, "gguf", metadata, tensors, source);
        model.pre_tokenizer = options.pre_tokenizer.clone();
        model.warnings.extend(family.and_then(|known| model.unknown_tensors(known)));
        model
    }

    /// What is said of tensors that no rule of the model's architecture names.
    fn unknown_tensors(&self, known: &dyn Architecture) -> Option<String> {
        let is_unknown = |tensor: &&ModelTensor| {
            tensor.role.is_none() && !known.computed_names().contains(&tensor.name.as_str())
        };
        let stored = self.tensors.iter().filter(|tensor| tensor.stored_rows().is_some());
        let names: Vec<&str> =
            stored.filter(is_unknown).map(|tensor| tensor.name.as_str()).collect();
        let list = shortened(&names)?;
        let path = self.path.display();
        let name = known.gguf_name();
        Some(match names.len() {
            1 => format!("{path}: {list} is no tensor of {name}, and nothing is computed with it"),
            count => format!(
                "{path}: {count} tensors are none of {name}, and nothing is computed with them: {list}"
            ),
        })
    }

    pub(crate) fn from_description(
        path: &Path,
        source: Box<dyn TensorSource>,
        folder: Folder,
        description: ModelDescription,
        packed: &HashMap<TensorIndex, PackedSize>,
    ) -> Self {
        let stored_type = |origin: &TensorOrigin| match origin {
            // All runs have the same type: `describe` has checked that.
            TensorOrigin::Mapped(map) => source.tensors()[map.rows.locate(0).0.tensor.0].data_type,
            TensorOrigin::Computed(_) => DataType::F32,
        };
        let size = |recipe: &qz_models::TensorRecipe| match &recipe.origin {
            TensorOrigin::Mapped(map) => packed_size(map, &recipe.shape, source.tensors(), packed),
            TensorOrigin::Computed(_) => None,
        };
        let tensor = |recipe: qz_models::TensorRecipe| {
            let stored_type = stored_type(&recipe.origin);
            let change = match &recipe.origin {
                TensorOrigin::Mapped(map) => map.change(),
                TensorOrigin::Computed(_) => Change::NONE,
            };
            ModelTensor {
                role: Some(recipe.role),
                part: recipe.part,
                layer: recipe.layer,
                source_type: changed_type(stored_type, change),
                stored_type,
                packed: size(&recipe).map(Box::new),
                is_beside: false,
                precision: None,
                name: recipe.name.into(),
                unpruned: None,
                shape: recipe.shape,
                unquantized: DataType::F32,
                origin: recipe.origin,
            }
        };
        let beside = description.beside.iter().map(|tensor| ModelTensor {
            packed: packed.get(tensor).copied().map(Box::new),
            is_beside: true,
            ..ModelTensor::as_stored(tensor.0, &source.tensors()[tensor.0])
        });
        let mut tensors: Vec<ModelTensor> =
            description.tensors.into_iter().map(tensor).chain(beside).collect();
        tensors.extend(unread_rows(&tensors, source.tensors()));
        let mut model = Self::ordered(path, "huggingface", description.metadata, tensors, source);
        model.folder = Some(Arc::new(folder));
        model.architecture = Some(description.architecture);
        model.plain = description.plain.map(Arc::new);
        model.sliding_window = description.config.sliding_window;
        model.lost_scaling = description.config.rope.lost_in_gguf();
        model.ignored = description.ignored;
        model.names = description.names;
        model.warnings = description.warnings.iter().map(ToString::to_string).collect();
        model.unsaid = description.unsaid.iter().map(ToString::to_string).collect();
        model.unnamed_pre_tokenizer = description.unnamed_pre_tokenizer;
        model
    }

    /// True if layers behind its last predict further tokens.
    pub(crate) fn has_further_layers(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.role == Some(Role::NextTokenProjection))
    }

    /// What is said of layers behind so many, which predict further tokens in a way that is not
    /// known of their family.
    pub(crate) fn uncomputed_layers(&self, layers: u32) -> Option<String> {
        let further = self.tensors.iter().filter(|tensor| {
            tensor.role == Some(Role::NextTokenProjection)
                && tensor.layer.is_some_and(|layer| layer.0 >= layers)
        });
        let mut names = further.map(|tensor| tensor.name.trim_end_matches(".nextn.eh_proj.weight"));
        let first = names.next()?;
        let names = names.fold(first.to_owned(), |all, name| format!("{all}, {name}"));
        let family = self.metadata.string("general.architecture").unwrap_or_default();
        Some(format!(
            "{}: {names} only predict further tokens, and how is not known of {family}: they are \
             given no text, and their matrices are rounded",
            self.path.display()
        ))
    }

    /// True for the part of a larger model that sees.
    pub(crate) fn is_projector(&self) -> bool {
        self.metadata.string("general.type") == Some("mmproj")
    }

    /// The part of a checkpoint that sees.
    pub(crate) fn of_projector(
        path: &Path,
        source: Box<dyn TensorSource>,
        folder: Folder,
        description: ProjectorDescription,
    ) -> Self {
        let tensor = |(recipe, precision): (qz_models::TensorRecipe, Precision)| {
            let TensorOrigin::Mapped(map) = &recipe.origin else {
                unreachable!("a projector's tensors are stored")
            };
            let stored_type = source.tensors()[map.rows.locate(0).0.tensor.0].data_type;
            ModelTensor {
                name: recipe.name.into(),
                unpruned: None,
                shape: recipe.shape,
                role: Some(recipe.role),
                part: recipe.part,
                layer: recipe.layer,
                source_type: changed_type(stored_type, map.change()),
                stored_type,
                unquantized: DataType::F32,
                packed: None,
                is_beside: false,
                precision: Some(precision),
                origin: recipe.origin,
            }
        };
        let tensors = description.tensors.into_iter().map(tensor).collect();
        let mut model = Self::ordered(path, "huggingface", description.metadata, tensors, source);
        model.folder = Some(Arc::new(folder));
        model.ignored = description.ignored;
        model.warnings = description.warnings.iter().map(ToString::to_string).collect();
        model
    }

    /// A checkpoint of a class that nobody here knows: its tensors as they are.
    pub(crate) fn of_unknown_class(
        path: &Path,
        source: Box<dyn TensorSource>,
        folder: Folder,
        packed: &HashMap<TensorIndex, PackedSize>,
    ) -> Self {
        let tensor = |(position, info): (usize, &TensorInfo)| ModelTensor {
            packed: packed.get(&TensorIndex(position)).copied().map(Box::new),
            ..ModelTensor::as_stored(position, info)
        };
        let tensors = source.tensors().iter().enumerate().map(tensor).collect();
        let names = source.tensors().iter().map(|info| info.name.to_string()).collect();
        let mut model = Self::ordered(path, "huggingface", Metadata::new(), tensors, source);
        model.names = names;
        model.warnings.push(format!(
            "{}: its class is none of those known: tensors go by names and shapes alone",
            path.join("config.json").display()
        ));
        model.folder = Some(Arc::new(folder));
        model.is_of_unknown_class = true;
        model
    }

    fn ordered(
        path: &Path,
        container: &'static str,
        metadata: Metadata,
        mut tensors: Vec<ModelTensor>,
        source: Box<dyn TensorSource>,
    ) -> Self {
        // In place: no two have the same name.
        tensors.sort_unstable_by(|a, b| qz_plan::layer_then_name(&a.name, &b.name));
        Self {
            path: path.to_owned(),
            container,
            metadata,
            tensors,
            ignored: Vec::new(),
            names: Vec::new(),
            warnings: Vec::new(),
            unsaid: Vec::new(),
            unnamed_pre_tokenizer: None,
            source: source.into(),
            edits: None,
            adapters: Vec::new(),
            folder: None,
            architecture: None,
            pre_tokenizer: None,
            sliding_window: None,
            lost_scaling: None,
            quantization: None,
            inputs: Arc::default(),
            plain: None,
            drops_further_layers: false,
            is_pruned: false,
            is_of_unknown_class: false,
        }
    }

    /// How many positions back a token sees, if a checkpoint's configuration limits it.
    pub fn sliding_window(&self) -> Option<u64> {
        self.sliding_window
    }

    /// True if it comes from a checkpoint, not from a file that llama-quantize
    /// could read, too.
    pub(crate) fn is_checkpoint(&self) -> bool {
        self.container != "gguf"
    }

    /// Its GGUF metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its tensors, in the order they are written.
    pub fn tensors(&self) -> &[ModelTensor] {
        &self.tensors
    }

    /// What a person should know about it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Weights over all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.elements()).sum()
    }

    /// Bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: u64 = self.tensors.iter().map(ModelTensor::stored_bytes).sum();
        bytes as f64 * 8.0 / self.weights().max(1) as f64
    }

    /// What tells its stored weights from others: files, and edits. A line each.
    pub(crate) fn identity(&self) -> String {
        let line = |file: &SourceFile| format!("{} {:?}\n", file.path().display(), file.identity());
        let files: String = self.source.files().into_iter().map(line).collect();
        match &self.edits {
            Some(edits) => format!("{files}edits {edits}\n"),
            None => files,
        }
    }

    /// Fails if an input file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        for file in self.source.files() {
            if file.has_changed()? {
                return Err(Error::InputChanged(file.path().to_path_buf()));
            }
        }
        self.folder.iter().chain(&self.adapters).try_for_each(|folder| folder.check_unchanged())
    }
}
