//! Hugging Face folders whose decoder matrices are in a packed layout: safetensors
//! files in which each of those matrices is several tensors, and a configuration that
//! says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use qz_models::{
    Change, ExpertIndex, NameNumbers, Part, Role, Rows, StackedRows, TensorRule, is_linear_layer,
};
use qz_packed::{Layout, Matrix, Quantized, Scheme, SchemeFamily, Stacked, Unfit};
use qz_plan::{Assignment, Reason};
use qz_tensor::{DataType, Location, Metadata, Shape, SinkTensor, TensorIndex};

use super::cache_scales::{self, CacheScale};
use super::checkpoint::Checkpoint;
use super::demand::{self, Demand};
use super::schemes::{FusedSchemes, Fusion, Schemes, Wanted};
use super::unpacked::{idle_types, leaving, left_as_is, not_stacked};
use super::{
    Destination, Format, Measured, PackedPlace, PartPlace, Placement, StoredNumber, TargetPlan,
    safetensors,
};
use crate::error::Error;
use crate::model::{Model, ModelTensor, to_usize};
use crate::planning::{PlanOptions, check_codecs};

/// The format of a family of schemes.
pub(super) fn format(family: &'static SchemeFamily) -> Format {
    Format {
        name: family.name,
        form: family.form,
        family: Some(family),
        schemes: |format| format.family.map_or_else(Vec::new, |family| family.examples.to_vec()),
        scheme: |format, name| Some(find(format, name)?.name().into()),
        artifact_name: |format, stem, scheme| {
            format!("{stem}-{}-{}", format.name, scheme.replace('+', "-"))
        },
        fitting,
        demand,
        plan,
        layout: safetensors::lay_out,
    }
}

pub(super) fn find(format: &Format, name: &str) -> Option<Box<dyn Scheme>> {
    (format.family?.parse)(name)
}

/// The usual scheme of the family, with the groups that fit a model.
fn fitting(format: &Format, model: &Model, options: &PlanOptions) -> Vec<String> {
    let usual = format.schemes().first().and_then(|name| find(format, name));
    let Some(usual) = usual else { return Vec::new() };
    let names = with_other_groups(&*usual).map(|scheme| scheme.name());
    let fits = |name: &String| plan(format, model, name, options).is_ok();
    names.filter(fits).map(|name| format!("{}:{name}", format.name)).collect()
}

fn demand(format: &Format, scheme: &str) -> Demand {
    let Some(scheme) = find(format, scheme) else { return Demand::default() };
    let layout = scheme.layout(DataType::BF16);
    let fits = |rows, columns| layout.parts(Matrix { rows, columns }).is_ok();
    // Odd multiples of powers of two: what divides none of them is asked for.
    let least = |fits: &dyn Fn(u64) -> bool| {
        let powers = (0..13).map(|power| 1u64 << power);
        powers.clone().find(|unit| fits(3 * unit)).unwrap_or(1)
    };
    let bits_of = |tensor: &qz_plan::PlannedTensor| {
        let shape = &tensor.shape;
        let matrix = Matrix { rows: shape.rows(), columns: shape.columns() };
        let is_in_layer = tensor.name.starts_with("blk.");
        let is_packed = shape.rank() == 2
            && !scheme.packs_stacks()
            && (is_in_layer || scheme.packs_embeddings());
        let parts = is_packed.then(|| layout.parts(matrix).ok()).flatten();
        let bytes = match parts {
            Some(parts) => {
                parts.iter().filter_map(|part| part.shape.byte_size(part.data_type).ok()).sum()
            }
            None => shape.byte_size(DataType::BF16).unwrap_or(0),
        };
        (bytes, shape.elements())
    };
    let (bytes, weights) = demand::example()
        .iter()
        .map(bits_of)
        .fold((0u64, 0u64), |sum, next| (sum.0 + next.0, sum.1 + next.1));
    Demand {
        // The model that stands for all has no experts.
        bits_per_weight: (!scheme.packs_stacks())
            .then(|| bytes as f64 * 8.0 / weights.max(1) as f64),
        columns: least(&|columns| fits(4096, columns)),
        rows: least(&|rows| fits(rows, 4096)),
        needs_text: scheme.activations().is_stored(),
        ..Demand::default()
    }
}

/// What some packages store like the matrices of layers.
const EMBEDDINGS: &[Role] = &[Role::TokenEmbedding, Role::Output];

/// What engines call the output matrix, whether there is one or not: where it is the
/// token embedding, it is still a layer that could be quantized.
const OUTPUT: &str = "lm_head";

fn plan(
    format: &Format,
    model: &Model,
    scheme: &str,
    options: &PlanOptions,
) -> Result<TargetPlan, Error> {
    // Targets are made of schemes that were found.
    let Some(scheme) = find(format, scheme) else {
        unreachable!("{}:{scheme} is no target", format.name);
    };
    let checkpoint = Checkpoint::of(model)?;
    let model_type = checkpoint
        .files
        .stated_type()
        .and_then(safetensors::of_torch_name)
        .unwrap_or(DataType::BF16);
    let place_all = |scheme: &dyn Scheme, options: &PlanOptions| {
        let schemes = Schemes::new(format, scheme, &options.overrides)?;
        Writer::new(model, options, schemes, model_type).place_all(&checkpoint)
    };
    let Output {
        mut tensors,
        mut sources,
        places,
        mut numbers,
        assignments,
        modules,
        others,
        mut left,
        no_modules,
    } = match place_all(&*scheme, options) {
        Err(Error::Unfit { location, target, why, name, .. }) => {
            let fits = |scheme: &dyn Scheme| place_all(scheme, options).is_ok();
            let fitting = with_other_groups(&*scheme).filter(|scheme| fits(&**scheme));
            let fitting = fitting.map(|scheme| format!("{}:{}", format.name, scheme.name()));
            let fitting = fitting.collect();
            let again = |options: &PlanOptions| place_all(&*scheme, options).map(drop);
            let leaving = leaving(model, options, &name, model_type, &again).map(Into::into);
            return Err(Error::Unfit { location, target, why, name, fitting, leaving });
        }
        placed => placed?,
    };
    if scheme.packs_stacks() && modules.is_empty() {
        return Err(not_stacked(format, &*scheme, model));
    }
    if let Some(kind) = options.cache_scales {
        let target = format!("{}:{}", format.name, scheme.name());
        let part = format.family.and_then(|family| family.cache_part);
        let of = (kind, model_type);
        for scale in cache_scales::of_model(model, &checkpoint, &target, part, of)? {
            numbers.push(scale.number(TensorIndex(tensors.len())));
            sources.push(scale.position);
            let CacheScale { name, data_type, shape, .. } = scale;
            tensors.push(SinkTensor { name, data_type, shape });
        }
    }
    let left_as_is = left_as_is(format, scheme.name(), model, &modules, &no_modules)?;
    if !left.iter().any(|module| module == OUTPUT) {
        left.push(OUTPUT.to_owned());
    }
    let provenance = &options.provenance();
    let others = Schemes::new(format, &*scheme, &options.overrides)?.others(others);
    let quantized = Quantized {
        modules: &modules,
        others: &others,
        left: &left,
        model_type,
        provenance,
        cache: options.cache_scales,
    };
    let configuration = scheme.configuration(&quantized);
    let torch_name = safetensors::torch_name(model_type).unwrap_or_default();
    let files = checkpoint.files.with_entries(configuration.entries, configuration.files);
    let mut warnings: Vec<String> = checkpoint.warnings.iter().map(ToString::to_string).collect();
    if !options.metadata.is_empty() {
        warnings.push(format!("--override-kv has no effect on {}", format.name));
    }
    warnings.extend(idle_types(format, options));
    warnings.extend(left_as_is);
    Ok(TargetPlan {
        assignments,
        tensors,
        sources,
        places,
        numbers,
        metadata: Metadata::new(),
        files: files.with_type(torch_name),
        warnings,
    })
}

/// What is decided, tensor by tensor.
#[derive(Default)]
struct Output {
    tensors: Vec<SinkTensor>,
    sources: Vec<usize>,
    places: Vec<Option<Placement>>,
    numbers: Vec<StoredNumber>,
    assignments: Vec<Assignment>,
    /// Modules that are packed.
    modules: Vec<String>,
    /// Those of them that a wish is for, by its position.
    others: BTreeMap<usize, Vec<String>>,
    /// Modules that are multiplied by, and left.
    left: Vec<String>,
    /// The model's matrices that are left because no module of the checkpoint has their rows,
    /// and no others, in their order.
    no_modules: Vec<usize>,
}

struct Writer<'a> {
    model: &'a Model,
    options: &'a PlanOptions,
    schemes: Schemes<'a>,
    model_type: DataType,
    output: Output,
    /// The output's number of a checkpoint's tensor that is left as it is.
    numbers: HashMap<TensorIndex, TensorIndex>,
    /// Numbers of what engines multiply by together.
    fused: HashMap<Fusion, usize>,
    fused_schemes: FusedSchemes,
}

/// The same scheme with the usual groups, from the largest on.
fn with_other_groups(scheme: &dyn Scheme) -> impl Iterator<Item = Box<dyn Scheme>> {
    let groups = [Some(128), Some(64), Some(32), None].into_iter();
    groups.filter_map(|group| scheme.with_group(group))
}

impl<'a> Writer<'a> {
    fn new(
        model: &'a Model,
        options: &'a PlanOptions,
        schemes: Schemes<'a>,
        model_type: DataType,
    ) -> Self {
        Self {
            model,
            options,
            schemes,
            model_type,
            output: Output::default(),
            numbers: HashMap::new(),
            fused: HashMap::new(),
            fused_schemes: FusedSchemes::default(),
        }
    }

    fn place_all(mut self, checkpoint: &Checkpoint) -> Result<Output, Error> {
        for (position, tensor) in self.model.tensors.iter().enumerate() {
            self.place(checkpoint, position, tensor)?;
        }
        Ok(self.output)
    }

    fn place(
        &mut self,
        checkpoint: &Checkpoint,
        position: usize,
        tensor: &ModelTensor,
    ) -> Result<(), Error> {
        let place = checkpoint.places[position].as_ref();
        let rules = checkpoint.architecture.map_or(&[][..], |known| known.tensor_rules());
        let rule = rules.iter().find_map(|rule| Some((rule, rule.gguf.matches(&tensor.name)?)));
        let (wish, own) = match self.schemes.wanted(tensor, &self.options.overrides) {
            Some(Wanted::Plain(data_type, reason)) => (Some((data_type, reason)), None),
            Some(Wanted::Packed(own)) => (None, Some(own)),
            None => (None, None),
        };
        if self.schemes.scheme(None).packs_stacks() {
            let shown = wish.is_none().then(|| shown_name(checkpoint, tensor)).flatten();
            let scheme = self.schemes.scheme(None);
            return match shown.and_then(|name| scheme.stacked(&name, self.model_type)) {
                Some(stacked) => self.pack_stack(position, tensor, stacked),
                None => self.leave(checkpoint, position, tensor, wish),
            };
        }
        if let Some(place) = place
            && wish.is_none()
            && self.packs(tensor, self.schemes.scheme(own))
        {
            // What the class has inputs by outputs is no linear layer, either.
            let is_plain = place.is_plain() && tensor.change().transposed.is_none();
            let names = is_plain.then(|| names(checkpoint, place, tensor, rule)).flatten();
            match names {
                Some(names) => return self.pack(position, tensor, place.change, names, own),
                None => self.output.no_modules.push(position),
            }
        }
        self.leave(checkpoint, position, tensor, wish)
    }

    /// Whether a tensor is stored in parts. An embedding that the layout cannot hold stays.
    fn packs(&self, tensor: &ModelTensor, scheme: &dyn Scheme) -> bool {
        let Some(role) = tensor.role else {
            return self.model.is_of_unknown_class && is_linear_layer(&tensor.name, &tensor.shape);
        };
        let size = Matrix { rows: tensor.shape.rows(), columns: tensor.shape.columns() };
        let holds = || scheme.layout(self.model_type).parts(size).is_ok();
        let is_embedding = EMBEDDINGS.contains(&role) && scheme.packs_embeddings();
        tensor.part == Part::Weight && (role.is_rounded() || (is_embedding && holds()))
    }

    /// The tensor in its parts, which stand in the output one after the other; with the scheme of
    /// a wish, if there is one.
    fn pack(
        &mut self,
        position: usize,
        tensor: &ModelTensor,
        change: Change,
        names: Vec<String>,
        own: Option<usize>,
    ) -> Result<(), Error> {
        let columns = tensor.shape.columns();
        let rows = tensor.shape.rows() / (names.len() as u64).max(1);
        let matrix = Matrix { rows, columns };
        let is_of_experts = names.len() > 1;
        self.fused_schemes.note(&self.schemes, self.model, tensor, own, is_of_experts)?;
        let scheme = self.schemes.scheme(own);
        let layout = scheme.layout(self.model_type);
        if layout.rotation().is_some() && (is_of_experts || tensor.name.contains(".experts.")) {
            let why = "engines rotate no inputs of experts; --tensor-type REGEX=bf16 leaves them";
            return Err(self.unfit(tensor, Unfit(why.to_owned()), own));
        }
        let (activations, input) = (scheme.activations(), scheme.input_part(self.model_type));
        let described = self.described(tensor, &*layout, matrix, own)?;
        let data_type = described.first().map_or(DataType::U8, |part| part.data_type);
        let mut parts = Vec::with_capacity(names.len());
        for (number, name) in names.into_iter().enumerate() {
            let module = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            let mut own_parts = Vec::with_capacity(described.len());
            for part in &described {
                let name = format!("{module}.{}", part.suffix);
                let shape = part.shape.clone();
                let tensor = self.output.add(name, part.data_type, shape, position);
                own_parts.push(PartPlace { tensor, first_byte: 0 });
            }
            parts.push(own_parts);
            if let Some(part) = input {
                let described = part.part().map_err(|unfit| self.unfit(tensor, unfit, own))?;
                let tensor = self.output.add(
                    format!("{module}.{}", described.suffix),
                    described.data_type,
                    described.shape,
                    position,
                );
                let of = Measured::Inputs { matrix: number, part };
                self.output.numbers.push(StoredNumber { tensor, position, of });
            }
            self.output.modules.push(module);
        }
        if let Some(wish) = own {
            let modules = self.output.modules.iter().rev().take(parts.len()).rev().cloned();
            self.output.others.entry(wish).or_default().extend(modules);
        }
        let next = self.fused.len();
        let fused = *self.fused.entry(Fusion::of(tensor)).or_insert(next);
        let place = Arc::new(PackedPlace { layout, matrix, parts, fused, activations });
        let destination = Destination::Packed(place);
        let reason = own.map_or(Reason::Base, Reason::Override);
        self.output.push(data_type, reason, Some(Placement { change, destination }));
        Ok(())
    }

    /// The experts of a tensor, in parts that they share with each other, and perhaps with those
    /// of another tensor.
    fn pack_stack(
        &mut self,
        position: usize,
        tensor: &ModelTensor,
        stacked: Stacked,
    ) -> Result<(), Error> {
        let Stacked { stem, layout } = stacked;
        let &[experts, rows, columns] = tensor.shape.dimensions() else {
            let why = format!("{} is no stack of matrices", tensor.shape);
            return Err(self.unfit(tensor, Unfit(why), None));
        };
        let matrix = Matrix { rows, columns };
        let described = self.described(tensor, &*layout, matrix, None)?;
        let data_type = described.first().map_or(DataType::U8, |part| part.data_type);
        let mut parts = vec![Vec::with_capacity(described.len()); to_usize(experts)];
        for part in &described {
            let name = format!("{stem}{}", part.suffix);
            let dimensions = [&[experts], part.shape.dimensions()].concat();
            let size = part.shape.byte_size(part.data_type);
            let shape = Shape::new(dimensions);
            let (Ok(size), Ok(shape)) = (size, shape) else {
                let why = Unfit(format!("{name} would be too large to count"));
                return Err(self.unfit(tensor, why, None));
            };
            let known = self.output.tensors.iter().position(|other| other.name == name);
            let tensor = match known {
                Some(known) => TensorIndex(known),
                None => self.output.add(name, part.data_type, shape, position),
            };
            for (expert, own) in (0..).zip(&mut parts) {
                own.push(PartPlace { tensor, first_byte: expert * size });
            }
        }
        self.output.modules.push(stem);
        let next = self.fused.len();
        let fused = *self.fused.entry(Fusion::of(tensor)).or_insert(next);
        let activations = self.schemes.scheme(None).activations();
        let place = Arc::new(PackedPlace { layout, matrix, parts, fused, activations });
        let destination = Destination::Packed(place);
        let placement = Placement { change: tensor.change(), destination };
        self.output.push(data_type, Reason::Base, Some(placement));
        Ok(())
    }

    /// The parts of one of a tensor's matrices.
    ///
    /// # Errors
    /// If it cannot be stored so.
    fn described(
        &self,
        tensor: &ModelTensor,
        layout: &dyn Layout,
        matrix: Matrix,
        own: Option<usize>,
    ) -> Result<Vec<qz_packed::Part>, Error> {
        let takes = layout.takes(tensor.source_type);
        if tensor.is_quantized() && !takes && !self.options.allow_requantize {
            let location = self.model.location(tensor, 0);
            return Err(Error::Requantize { location, data_type: tensor.source_type });
        }
        // Any type that is no block, to find that this one can be read.
        check_codecs(self.model, tensor, DataType::F32)?;
        layout.parts(matrix).map_err(|unfit| self.unfit(tensor, unfit, own))
    }

    fn unfit(&self, tensor: &ModelTensor, unfit: Unfit, own: Option<usize>) -> Error {
        Error::Unfit {
            location: Box::new(Location { offset: None, ..self.model.location(tensor, 0) }),
            target: self.schemes.target(own).into(),
            why: unfit.to_string().into(),
            name: tensor.name.as_str().into(),
            fitting: Vec::new(),
            leaving: None,
        }
    }

    /// The tensor as it is, or in the model's type where it is quantized, or in one that is
    /// wanted.
    fn leave(
        &mut self,
        checkpoint: &Checkpoint,
        position: usize,
        tensor: &ModelTensor,
        wish: Option<(DataType, Reason)>,
    ) -> Result<(), Error> {
        let Some(place) = &checkpoint.places[position] else {
            self.output.push(tensor.source_type, Reason::Base, None);
            return Ok(());
        };
        let is_plain = safetensors::torch_name(tensor.stored_type).is_some();
        let keeps = is_plain && self.model.is_checkpoint() && !tensor.is_quantized();
        let own = if keeps { tensor.stored_type } else { self.model_type };
        let (data_type, reason) = wish.unwrap_or((own, Reason::Base));
        // Engines look for packed tensors of every matrix that is not named, but for embeddings.
        let is_named = |shape: &Shape| {
            let of_layers = |role: Role| role.is_rounded() || role.is_router();
            tensor.part == Part::Weight
                && tensor.role != Some(Role::TokenEmbedding)
                && (shape.rank() == 2 || tensor.role.is_some_and(of_layers))
        };
        check_codecs(self.model, tensor, data_type)?;
        let Destination::Runs(runs) = &place.destination else { return Ok(()) };
        let (numbers, output) = (&mut self.numbers, &mut self.output);
        let runs = runs.renumbered(|number| {
            *numbers.entry(number).or_insert_with(|| {
                let (name, shape) = &checkpoint.tensors[number.0];
                if let Some(module) = name.strip_suffix(".weight")
                    && is_named(shape)
                {
                    output.left.push(module.to_owned());
                }
                output.add(name.clone(), data_type, shape.clone(), position)
            })
        });
        let destination = Destination::Runs(runs);
        let placement = Placement { change: place.change, destination };
        self.output.push(data_type, reason, Some(placement));
        Ok(())
    }
}

impl Output {
    fn add(
        &mut self,
        name: String,
        data_type: DataType,
        shape: Shape,
        source: usize,
    ) -> TensorIndex {
        self.tensors.push(SinkTensor { name, data_type, shape });
        self.sources.push(source);
        TensorIndex(self.tensors.len() - 1)
    }

    fn push(&mut self, data_type: DataType, reason: Reason, place: Option<Placement>) {
        self.places.push(place);
        self.assignments.push(Assignment {
            data_type,
            reason,
            fallback_from: None,
            requires_importance: false,
        });
    }
}

/// What a tensor of experts is called where those of a packed form are shown as plain matrices;
/// none if the family has no such form.
fn shown_name(checkpoint: &Checkpoint, tensor: &ModelTensor) -> Option<String> {
    let rules = checkpoint.architecture?.shown_layout()?;
    let rule = rules.iter().find_map(|rule| Some((rule, rule.gguf.matches(&tensor.name)?)));
    let (rule, numbers) = rule?;
    let is_stack = tensor.part == Part::Weight && tensor.shape.rank() == 3;
    is_stack.then(|| rule.hugging_face.name(numbers.layer))
}

/// The names of the matrices in a tensor: the checkpoint's own where it has one tensor
/// for each, the architecture's where experts lie in one tensor.
fn names(
    checkpoint: &Checkpoint,
    place: &Placement,
    tensor: &ModelTensor,
    rule: Option<(&TensorRule, NameNumbers)>,
) -> Option<Vec<String>> {
    let rows = tensor.shape.rows();
    let own = match &place.destination {
        Destination::Runs(runs) => own_names(checkpoint, runs, rows),
        Destination::Packed(_) => None,
    };
    let of_rule = |(rule, numbers): (&TensorRule, NameNumbers)| match rule.transform.rows {
        Rows::StackExperts => {
            let experts = tensor.shape.dimensions().first().copied().unwrap_or(1);
            let name = |expert: u64| {
                rule.hugging_face.name_of_expert(numbers.layer, ExpertIndex(expert as u32))
            };
            Some((0..experts).map(name).collect())
        }
        // Nobody has names for matrices that lie in one tensor.
        _ => None,
    };
    let found = own.or_else(|| rule.and_then(of_rule))?;
    // What is no module's weight has no module to be packed in.
    found.iter().all(|name| name.ends_with(".weight")).then_some(found)
}

/// The names of the tensors that the runs are, if each is all of one. Rows of several tensors
/// in one, and those of one in another order, are none.
fn own_names(checkpoint: &Checkpoint, runs: &StackedRows, rows: u64) -> Option<Vec<String>> {
    let mut slices = runs.slices();
    let mut of_run = rows / slices.len() as u64;
    let follows = |[before, after]: &[qz_models::RowSlice; 2]| {
        after.tensor == before.tensor && after.first_row == before.first_row + of_run
    };
    if slices.array_windows().all(follows) {
        (slices, of_run) = (&slices[..1], rows);
    }
    let name = |slice: &qz_models::RowSlice| {
        let (name, shape) = &checkpoint.tensors[slice.tensor.0];
        (slice.first_row == 0 && shape.rows() == of_run && shape.rank() == 2).then(|| name.clone())
    };
    slices.iter().map(name).collect()
}
