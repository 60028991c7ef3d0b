//! `verify`: is an artifact whole, and does it hold the weights it claims to?

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use qz_codec::Codec;
use qz_kernels::{Workers, codec_for, stop};
use qz_models::{Role, TensorRule};
use qz_plan::FileType;
use qz_tensor::{DataType, Diagnose};
use rayon::prelude::*;

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::loaders::{self, Engine};
use crate::loss::{Lost, Suspicion};
use crate::model::{Model, ModelTensor, OpenOptions, to_usize};
use crate::quantization::Quantization;
use crate::stream::{Cancel, check_cancelled, stoppable};

/// What to compare with.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The model the artifact claims to come from.
    pub source: Option<PathBuf>,
    /// How the source is read; without one, the artifact.
    pub open: OpenOptions,
    /// The engine that is to load it, for its own rules.
    pub engine: Option<Engine>,
    /// The largest relative error a tensor may have, instead of its type's own.
    pub max_relative_error: Option<f64>,
    /// Threads.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verification {
    /// The artifact.
    pub path: PathBuf,
    /// What it was compared with.
    pub source: Option<PathBuf>,
    /// The engine whose rules it was held to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<JudgedFor>,
    /// True without findings.
    pub passed: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Every tensor of the artifact.
    pub tensors: Vec<TensorCheck>,
}

/// An engine that was asked for.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct JudgedFor {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name and the version that the rules speak of.
    pub version: &'static str,
    /// False if there are no rules for such an artifact: nothing was judged.
    pub has_rules: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// The rule's stable name.
    pub rule: &'static str,
    /// The tensor or key, if it is about one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// Findings that say the same of several tensors.
#[derive(Clone, Debug)]
pub struct FindingKind<'a> {
    /// The rule's stable name.
    pub rule: &'static str,
    /// What is wrong.
    pub message: &'a str,
    /// The tensors, modules or keys.
    pub tensors: Vec<&'a str>,
}

impl<'a> FindingKind<'a> {
    /// The kinds of findings, in the order of their first ones.
    pub fn of(findings: &'a [Finding]) -> Vec<Self> {
        let mut kinds: Vec<Self> = Vec::new();
        let mut numbers = HashMap::new();
        for Finding { rule, tensor, message } in findings {
            let kind = (*rule, message.as_str());
            let number = *numbers.entry(kind).or_insert_with(|| {
                kinds.push(Self { rule: kind.0, message: kind.1, tensors: Vec::new() });
                kinds.len() - 1
            });
            kinds[number].tensors.extend(tensor.as_deref());
        }
        kinds
    }
}

/// The first names, how many there are, and what is wrong.
impl fmt::Display for FindingKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let (names, count) = (&self.tensors, self.tensors.len());
        let first = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        match count {
            0 => {}
            1..=SHOWN => write!(f, "{first}: ")?,
            _ => write!(f, "{first} and {} more ({count} in all): ", count - SHOWN)?,
        }
        f.write_str(self.message)
    }
}

/// What was measured of one tensor.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TensorCheck {
    /// Its name.
    pub name: String,
    /// How it is stored.
    #[serde(rename = "type")]
    pub data_type: &'static str,
    /// ‖W − Ŵ‖ / ‖W‖ over the whole tensor; `None` without a source.
    pub relative_error: Option<f64>,
    /// Weights that are not zero in the source and zero in the artifact.
    pub vanished: Option<u64>,
    /// Weights in blocks of which more than half is lost.
    pub lost: Option<u64>,
}

/// Rows compared at a time; results of the parts are summed in order.
const PART_WEIGHTS: u64 = 256 * 1024;

/// Checks the artifact at `path`.
///
/// # Errors
/// If the artifact or the source cannot be read at all, or the job is stopped. What is merely wrong is
/// a finding.
pub fn verify(
    path: &Path,
    options: &VerifyOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Verification, Error> {
    let loaders::Judgement { mut findings, has_rules } = loaders::check(path, options.engine)?;
    let judged = |engine: Engine| {
        let (name, version) = (engine.name(), engine.version());
        JudgedFor { name, version, has_rules }
    };
    let engine = options.engine.map(judged);
    // Whatever can be read is checked, of a known class or not.
    let asked = OpenOptions { generic: true, ..options.open.clone() };
    // Without a source they are how the artifact itself is read.
    let read = match options.source {
        Some(_) => OpenOptions { generic: true, ..OpenOptions::default() },
        None => asked.clone(),
    };
    let artifact = match stoppable(cancel, || Model::open(path, &read)) {
        // What a loader would not do with it is what it is asked for.
        Err(error @ Error::Packed(_))
            if !matches!(error, Error::Packed(qz_packed::Error::File(_))) =>
        {
            let diagnosis = error.diagnosis();
            let (rule, tensor) = (diagnosis.rule, diagnosis.location.tensor);
            findings.push(Finding { rule, tensor, message: error.to_string() });
            return Ok(Verification {
                path: path.to_owned(),
                source: options.source.clone(),
                engine,
                passed: false,
                findings,
                tensors: Vec::new(),
            });
        }
        artifact => artifact?,
    };
    let asked = OpenOptions { projector: artifact.is_projector(), ..asked };
    let open = |path| stoppable(cancel, || Model::open(path, &asked));
    let source = options.source.as_deref().map(open).transpose()?;
    let models = [Some(&artifact), source.as_ref()];
    for warning in models.into_iter().flatten().flat_map(Model::warnings) {
        observer.observe(Event::Warning(warning));
    }
    findings.extend(structure(&artifact));
    let pairs = match &source {
        Some(source) => pair(&artifact, source, &mut findings),
        None => HashMap::new(),
    };
    let workers = Workers::stopped_by(options.threads, cancel)?;
    let (count, weights) = (artifact.tensors.len(), artifact.weights());
    observer.observe(Event::Started { job: "verify", tensors: count, weights });
    let quantization = artifact.quantization.clone().map(Quantization::of);
    let mut tensors = Vec::with_capacity(count);
    for tensor in &artifact.tensors {
        let original = pairs
            .get(tensor.name.as_str())
            .and_then(|original| Some((source.as_ref()?, *original)));
        let check = workers.install(|| check_tensor(&artifact, tensor, original));
        check_cancelled(cancel)?;
        let held_as = held_as(&artifact, quantization.as_ref(), tensor);
        tensors.push(judge(tensor, check, &held_as, options, &mut findings)?);
        observer.observe(Event::Advanced { weights: tensor.shape.elements() });
    }
    Ok(Verification {
        path: path.to_owned(),
        source: options.source.clone(),
        engine,
        passed: findings.is_empty(),
        findings,
        tensors,
    })
}

/// What can be said without reading weights.
fn structure(artifact: &Model) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |rule, key: &str, message: String| {
        findings.push(Finding { rule, tensor: Some(key.to_owned()), message });
    };
    let metadata = &artifact.metadata;
    if artifact.is_of_unknown_class {
        // It is asked for nothing but what it has.
        return findings;
    }
    let Some(architecture) = metadata.string("general.architecture") else {
        find("metadata-missing", "general.architecture", "the file names no architecture".into());
        return findings;
    };
    let is_projector = artifact.is_projector();
    let keys: &[&str] = match is_projector {
        // One that sees and hears has a type for each.
        true if metadata.get("clip.vision.projector_type").is_some() => &[],
        true => &["projector_type"],
        false => &["context_length", "embedding_length", "block_count", "attention.head_count"],
    };
    for key in keys {
        let key = format!("{architecture}.{key}");
        if metadata.unsigned(&key).is_none() && metadata.get(&key).is_none() {
            find("metadata-missing", &key, format!("{key} is missing; engines refuse the file"));
        }
    }
    // A checkpoint does not call itself anything.
    if let Some(file_type) = metadata.unsigned("general.file_type")
        && !artifact.is_checkpoint()
    {
        let known = u32::try_from(file_type).ok().and_then(FileType::from_id);
        let quantized =
            |base: DataType| artifact.tensors.iter().any(|tensor| tensor.source_type == base);
        // Rows that do not fill the base's blocks have a stand-in, and the mixtures give the
        // others more bits: where there are stand-ins, no tensor needs to have the base.
        let fits = |base: DataType| {
            let elements = base.block_elements().max(1) as u64;
            let mut matrices = artifact.tensors.iter().filter(|tensor| tensor.shape.rank() > 1);
            matrices.all(|tensor| tensor.shape.columns().is_multiple_of(elements))
        };
        // Nothing but experts gets MXFP4, and a dense model has none.
        let has_experts = artifact.tensors.iter().any(|tensor| tensor.shape.rank() > 2);
        let is_of_experts = |base: DataType| base == DataType::MXFP4;
        let is_wrong = |known: &&FileType| {
            let may_lack = is_of_experts(known.base) && !has_experts;
            !quantized(known.base) && fits(known.base) && !may_lack
        };
        if let Some(known) = known.filter(is_wrong) {
            let message =
                format!("the file calls itself {}, but no tensor is {}", known.name, known.base);
            find("file-type", "general.file_type", message);
        }
    }
    let layers = metadata.unsigned(&format!("{architecture}.block_count")).unwrap_or(0);
    for layer in 0..layers.min(artifact.tensors.len() as u64 + 1) {
        // An encoder beside a decoder has names of its own.
        let prefix = format!("blk.{layer}.");
        if !artifact.tensors.iter().any(|tensor| tensor.name.contains(&prefix)) {
            find("layer-missing", &prefix, format!("layer {layer} of {layers} has no tensors"));
        }
    }
    // Encoders end without a norm of their own, and families may call it otherwise.
    let is_norm = |rule: &&TensorRule| rule.role == Role::OutputNorm;
    let ends = match qz_models::architecture_of(metadata) {
        None => Some("output_norm.weight"),
        Some(known) => known.tensor_rules().iter().find(is_norm).map(|rule| rule.gguf.0),
    };
    for name in ["token_embd.weight"].into_iter().chain(ends).filter(|_| !is_projector) {
        if !artifact.tensors.iter().any(|tensor| tensor.name == name) {
            find("tensor-missing", name, format!("{name} is missing"));
        }
    }
    findings
}

/// The source's tensor for each of the artifact's; differences become findings.
fn pair<'a>(
    artifact: &'a Model,
    source: &'a Model,
    findings: &mut Vec<Finding>,
) -> HashMap<&'a str, &'a ModelTensor> {
    let originals: HashMap<&str, &ModelTensor> =
        source.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut pairs = HashMap::new();
    let mut find = |rule, name: &str, message| {
        findings.push(Finding { rule, tensor: Some(name.to_owned()), message });
    };
    for tensor in &artifact.tensors {
        match originals.get(tensor.name.as_str()) {
            None => find("tensor-extra", &tensor.name, "the source has no such tensor".to_owned()),
            // A vector is compared element by element, a vector of blocks cannot be.
            Some(original)
                if original.shape != tensor.shape || original.grid() != tensor.grid() =>
            {
                let message = format!("shape {}, the source has {}", tensor.shape, original.shape);
                find("shape", &tensor.name, message);
            }
            Some(original) => {
                pairs.insert(tensor.name.as_str(), *original);
            }
        }
    }
    for tensor in &source.tensors {
        if !artifact.tensors.iter().any(|written| written.name == tensor.name) {
            find(
                "tensor-missing",
                &tensor.name,
                "the source has it, the artifact lacks it".to_owned(),
            );
        }
    }
    pairs
}

/// Sums over a tensor.
#[derive(Clone, Copy, Default)]
struct Sums {
    error: f64,
    energy: f64,
    vanished: u64,
    /// In blocks of which more than half is lost.
    lost: Lost,
    /// The same as a writer would count them.
    told: Lost,
}

enum Check {
    /// Nothing to compare with, or no codec: the blocks were checked as far as
    /// they can be.
    Blocks,
    Compared(Sums),
}

fn check_tensor(
    artifact: &Model,
    tensor: &ModelTensor,
    original: Option<(&Model, &ModelTensor)>,
) -> Result<Check, Error> {
    let Some(codec) = codec_for(tensor.source_type) else { return Ok(Check::Blocks) };
    let original = original
        .and_then(|(model, original)| Some((model, original, codec_for(original.source_type)?)));
    let parts: Vec<Result<Sums, Error>> = parts(tensor)
        .into_par_iter()
        .map(|rows| {
            if stop::is_requested() {
                return Ok(Sums::default());
            }
            let written = decode_rows(artifact, tensor, codec, rows.clone())?;
            match original {
                None => Ok(Sums::default()),
                Some((model, original, codec)) => {
                    let wanted = decode_rows(model, original, codec, rows)?;
                    Ok(sums(&wanted, &written, tensor))
                }
            }
        })
        .collect();
    // In order of the parts, so that the figures do not depend on threads.
    let total = parts.into_iter().try_fold(Sums::default(), |total, part| {
        let part = part?;
        Ok::<_, Error>(Sums {
            error: total.error + part.error,
            energy: total.energy + part.energy,
            vanished: total.vanished + part.vanished,
            lost: total.lost.and(part.lost),
            told: total.told.and(part.told),
        })
    })?;
    Ok(if original.is_some() { Check::Compared(total) } else { Check::Blocks })
}

/// Ranges of rows, counted in the order that the artifact and its source share.
fn parts(tensor: &ModelTensor) -> Vec<Range<u64>> {
    let (rows, columns) = tensor.grid();
    let step = (PART_WEIGHTS / columns.max(1)).max(1);
    (0..rows.div_ceil(step)).map(|part| part * step..rows.min((part + 1) * step)).collect()
}

/// The rows' weights.
fn decode_rows(
    model: &Model,
    tensor: &ModelTensor,
    codec: &dyn Codec,
    rows: Range<u64>,
) -> Result<Vec<f32>, Error> {
    let columns = to_usize(tensor.grid().1);
    let count = to_usize(rows.end - rows.start);
    let row_bytes = tensor.row_bytes(tensor.source_type);
    let mut bytes = vec![0; count * row_bytes];
    model.read_ordered_rows(tensor, rows.clone(), &mut bytes)?;
    if let Some(block) = codec.first_non_finite_block(&bytes) {
        let size = tensor.source_type.block_bytes();
        let (row, byte) = (block * size / row_bytes, block * size % row_bytes);
        let row = tensor.row_order().source_row(rows.start + row as u64);
        let offset = row * row_bytes as u64 + byte as u64;
        let stored = model.source_of(tensor, offset).map_or(offset, |(_, offset)| offset);
        return Err(Error::NonFiniteBlock {
            location: model.location(tensor, offset),
            block: stored / size as u64,
            data_type: tensor.source_type,
        });
    }
    let mut weights = vec![0.0; count * columns];
    codec.decode(&bytes, &mut weights);
    Ok(weights)
}

/// Which blocks may be lost.
fn suspicion(tensor: &ModelTensor) -> Suspicion {
    match &tensor.packed {
        Some(packed) => {
            let bits = packed.bytes as f64 * 8.0 / tensor.shape.elements().max(1) as f64;
            Suspicion::of_unknown_groups(to_usize(packed.group), bits)
        }
        None => Suspicion::of_type(tensor.source_type, to_usize(tensor.grid().1)),
    }
}

fn sums(wanted: &[f32], written: &[f32], tensor: &ModelTensor) -> Sums {
    let suspicion = suspicion(tensor);
    let as_written = if tensor.packed.is_some() { suspicion.as_written() } else { suspicion };
    // Blocks of numbers that are not finite were refused.
    let [lost, told] =
        [suspicion, as_written].map(|it| it.lost(wanted, written).unwrap_or_default());
    let mut sums = Sums { lost, told, ..Sums::default() };
    for (wanted, written) in wanted.iter().zip(written) {
        let difference = f64::from(wanted - written);
        sums.error += difference * difference;
        sums.energy += f64::from(*wanted) * f64::from(*wanted);
        sums.vanished += u64::from(*wanted != 0.0 && *written == 0.0);
    }
    sums
}

/// The part of a tensor's energy that may be in lost blocks: models have rows that are all
/// but zero, of tokens without a text.
const LOST_ENERGY: f64 = 0.01;

/// What holds a tensor's weights, in words: its element type, or its package's layout.
fn held_as(
    artifact: &Model,
    quantization: Option<&Quantization>,
    tensor: &ModelTensor,
) -> Cow<'static, str> {
    let in_package =
        || quantization?.type_of_tensor(tensor, &*artifact.source).map(Cow::<'static, str>::from);
    in_package().unwrap_or_else(|| tensor.source_type.name().into())
}

/// Turns a measurement into a row of the report, and a bad one into a finding.
fn judge(
    tensor: &ModelTensor,
    check: Result<Check, Error>,
    held_as: &str,
    options: &VerifyOptions,
    findings: &mut Vec<Finding>,
) -> Result<TensorCheck, Error> {
    let mut row = TensorCheck {
        name: tensor.name.to_string(),
        data_type: tensor.source_type.name(),
        relative_error: None,
        vanished: None,
        lost: None,
    };
    match check {
        Ok(Check::Blocks) => {}
        Ok(Check::Compared(sums)) => {
            let relative_error =
                if sums.error == 0.0 { 0.0 } else { (sums.error / sums.energy).sqrt() };
            let limit = options.max_relative_error.unwrap_or_else(|| error_limit(tensor));
            if relative_error.is_nan() || relative_error > limit {
                findings.push(Finding {
                    rule: "relative-error",
                    tensor: Some(tensor.name.to_string()),
                    message: format!(
                        "relative error {relative_error:.4}, more than {limit:.4} for {held_as}"
                    ),
                });
            }
            if sums.lost.energy > LOST_ENERGY * sums.energy {
                findings.push(Finding {
                    rule: "lost-weights",
                    tensor: Some(tensor.name.to_string()),
                    message: format!(
                        "{} of {} weights are in blocks of which more than half is lost: {held_as} cannot hold them",
                        sums.lost.weights,
                        tensor.shape.elements(),
                    ),
                });
            }
            row.relative_error = Some(relative_error);
            row.vanished = Some(sums.vanished);
            row.lost = Some(sums.told.weights);
        }
        Err(error @ (Error::NonFiniteBlock { .. } | Error::NonFiniteWeight { .. })) => {
            let rule = error.diagnosis().rule;
            let tensor = Some(tensor.name.to_string());
            findings.push(Finding { rule, tensor, message: error.to_string() });
        }
        Err(error) => return Err(error),
    }
    Ok(row)
}

/// The relative error no honest encoding exceeds: about three times what the
/// type's own search leaves of Gaussian weights. Weights of another tensor, or
/// rows in another order, give about 1.4.
fn error_limit(tensor: &ModelTensor) -> f64 {
    // Rounding to an 11 or 8 bit significand; once more the same for f16, whose
    // small numbers have fewer bits.
    const EXACT: &[(DataType, f64)] =
        &[(DataType::F32, 0.0), (DataType::F16, 1.0 / 1024.0), (DataType::BF16, 1.0 / 256.0)];
    if let Some(packed) = &tensor.packed {
        // Scales and shapes are most of what a small matrix takes, and hold nothing of it.
        let bits = packed.codes as f64 * 8.0 / tensor.shape.elements().max(1) as f64;
        // E4M3 has three bits of mantissa, whatever the number of all bits: rounding leaves
        // 0.026, and errors that are fed back nearly twice as much.
        const EIGHT_BIT_FLOATS: f64 = 0.08;
        return libm::pow(2f64, 3.0 - bits).clamp(EIGHT_BIT_FLOATS, 1.0);
    }
    let data_type = tensor.source_type;
    let known = EXACT.iter().find(|(known, _)| *known == data_type).map(|(_, limit)| *limit);
    known.unwrap_or_else(|| libm::pow(2f64, 2.5 - data_type.bits_per_weight()))
}
