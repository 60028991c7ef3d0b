//! The schemes of a packed folder: the target's, and those that `--tensor-type` gives to some of
//! its matrices.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use qz_models::{LayerIndex, Role, fused_module};
use qz_packed::{Mixing, OtherScheme, Scheme};
use qz_plan::{Overrides, Reason, Wish};
use qz_tensor::{DataType, Location, Name};

use super::{Format, packed, safetensors};
use crate::error::Error;
use crate::model::{Model, ModelTensor};
use crate::unknown_target::UnknownTarget;

/// The target's scheme, and those of single matrices.
pub(super) struct Schemes<'a> {
    format: &'a Format,
    mixing: Mixing,
    usual: &'a dyn Scheme,
    /// By the position of the wish. Not there where it is the usual one.
    others: HashMap<usize, Box<dyn Scheme>>,
}

/// What a person wants a tensor to become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Plain, of this type.
    Plain(DataType, Reason),
    /// Packed, as the wish at this position says.
    Packed(usize),
}

impl<'a> Schemes<'a> {
    /// Reads the wishes.
    ///
    /// # Errors
    /// If one is of this format, and no scheme of it.
    pub(super) fn new(
        format: &'a Format,
        usual: &'a dyn Scheme,
        overrides: &Overrides,
    ) -> Result<Self, Error> {
        let mut others = HashMap::new();
        for (position, wish) in overrides.tensors.iter().enumerate() {
            let Some(name) = own_scheme(format, wish.wish()) else { continue };
            let Some(scheme) = packed::find(format, name) else {
                return Err(UnknownTarget::new(&wish.wish().to_string()).into());
            };
            if scheme.name() != usual.name() {
                others.insert(position, scheme);
            }
        }
        let mixing = format.family.map_or(Mixing::None, |family| family.mixing);
        Ok(Self { format, mixing, usual, others })
    }

    /// What is wanted of a tensor, by its role or by its name.
    pub(super) fn wanted(&self, tensor: &ModelTensor, overrides: &Overrides) -> Option<Wanted> {
        let of_role = match tensor.role {
            Some(Role::TokenEmbedding) => overrides.token_embedding,
            Some(Role::Output) if overrides.leave_output => Some(tensor.stored_type),
            Some(Role::Output) => overrides.output,
            _ => None,
        };
        let is_plain = |data_type: &DataType| safetensors::torch_name(*data_type).is_some();
        if let Some(data_type) = of_role {
            return is_plain(&data_type).then_some(Wanted::Plain(data_type, Reason::Base));
        }
        let taken = |wish: &Wish| match wish {
            Wish::Type(data_type) => is_plain(data_type).then_some(Some(*data_type)),
            Wish::Scheme(_) => own_scheme(self.format, wish).map(|_| None),
        };
        let (position, data_type) = overrides.first_match(&tensor.name, taken)?;
        Some(match data_type {
            Some(data_type) => Wanted::Plain(data_type, Reason::Override(position)),
            None => Wanted::Packed(position),
        })
    }

    /// The scheme that a wish names, or the usual one.
    pub(super) fn scheme(&self, wish: Option<usize>) -> &dyn Scheme {
        let other = wish.and_then(|wish| self.others.get(&wish));
        other.map_or(self.usual, |other| &**other)
    }

    /// As targets are called.
    pub(super) fn target(&self, wish: Option<usize>) -> String {
        format!("{}:{}", self.format.name, self.scheme(wish).name())
    }

    /// Modules by the scheme that they have instead of the usual one.
    pub(super) fn others(&self, modules: BTreeMap<usize, Vec<String>>) -> Vec<OtherScheme> {
        let mut by_name: BTreeMap<String, OtherScheme> = BTreeMap::new();
        for (wish, mut modules) in modules {
            let Some(scheme) = self.others.get(&wish) else { continue };
            let new = || OtherScheme { entry: scheme.entry(), modules: Vec::new() };
            by_name.entry(scheme.name()).or_insert_with(new).modules.append(&mut modules);
        }
        by_name.into_values().collect()
    }

    /// Fails if the configuration cannot say that a tensor has another scheme.
    fn check_mixes(&self, model: &Model, tensor: &ModelTensor, wish: usize) -> Result<(), Error> {
        let Some(scheme) = self.others.get(&wish) else { return Ok(()) };
        let fault = |why: String| Err(unmixed(model, tensor, why));
        let (target, usual) = (self.target(Some(wish)), self.target(None));
        if self.mixing == Mixing::None {
            return fault(format!(
                "cannot become {target} beside {usual}: a configuration of {} has one scheme for \
                 all matrices; --tensor-type REGEX=bf16 leaves one as it is",
                self.format.name
            ));
        }
        let (own, other) = (scheme.common(), self.usual.common());
        match own.or(other) {
            Some((key, _)) if own != other => fault(format!(
                "cannot become {target} beside {usual}: the configuration's {key} holds for all \
                 matrices"
            )),
            _ => Ok(()),
        }
    }
}

/// The name of a format's scheme, if a wish is for one.
fn own_scheme<'w>(format: &Format, wish: &'w Wish) -> Option<&'w str> {
    match wish {
        Wish::Type(_) => None,
        Wish::Scheme(name) => {
            let (of, scheme) = name.split_once(':')?;
            (of == format.name).then_some(scheme)
        }
    }
}

fn unmixed(model: &Model, tensor: &ModelTensor, why: String) -> Error {
    let location = Location { offset: None, ..model.location(tensor, 0) };
    Error::Mixed { location: Box::new(location), why: why.into() }
}

/// What engines multiply by together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Fusion {
    OfRole(Option<LayerIndex>, Role),
    /// Of a model that nobody here knows.
    OfModule(String, &'static str),
    /// The matrices of a layer's experts.
    Experts(Option<LayerIndex>),
    Alone(Name),
}

impl Fusion {
    pub(super) fn of(tensor: &ModelTensor) -> Self {
        match (tensor.role, fused_module(&tensor.name)) {
            (Some(role), _) => Self::OfRole(tensor.layer, role.multiplied_with()),
            (None, Some((module, kind))) => Self::OfModule(module.to_owned(), kind),
            (None, None) => Self::Alone(tensor.name.clone()),
        }
    }

    /// What has to have one scheme.
    fn of_scheme(tensor: &ModelTensor, is_of_experts: bool) -> Self {
        match tensor.name.split_once(".experts.") {
            _ if is_of_experts => Self::Experts(tensor.layer),
            Some((before, _)) => Self::OfModule(before.to_owned(), "experts"),
            None => Self::of(tensor),
        }
    }
}

/// The scheme of each group of matrices that need the same one, with the tensor that had it first.
#[derive(Default)]
pub(super) struct FusedSchemes(HashMap<Fusion, (String, Option<usize>)>);

impl FusedSchemes {
    /// Notes the scheme of a tensor.
    ///
    /// # Errors
    /// If it does not mix with the others, or another one is multiplied together with it.
    pub(super) fn note(
        &mut self,
        schemes: &Schemes<'_>,
        model: &Model,
        tensor: &ModelTensor,
        wish: Option<usize>,
        is_of_experts: bool,
    ) -> Result<(), Error> {
        if let Some(wish) = wish {
            schemes.check_mixes(model, tensor, wish)?;
        }
        if schemes.mixing == Mixing::Free {
            return Ok(());
        }
        let fusion = Fusion::of_scheme(tensor, is_of_experts);
        let new = || (tensor.name.to_string(), wish);
        let (first, of_first) = self.0.entry(fusion).or_insert_with(new);
        let (own, other) = (schemes.target(wish), schemes.target(*of_first));
        if own == other {
            return Ok(());
        }
        let why = format!(
            "would become {own} and {first} {other}: engines want one scheme for both, as one \
             matrix or as experts of one layer; name them together in --tensor-type"
        );
        Err(unmixed(model, tensor, why))
    }
}
