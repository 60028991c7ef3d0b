//! Blocks that decoders share, and the decoder that most are: Llama's.

use qz_kernels::backend::{Activation, Attention, RotaryPairs, Rotation, Router};

use super::{Around, Keys, LayerBuilder, LayerGraph, ModelGraph, NormKind, Register, Rotary};
use crate::error::Error;
use crate::rules::Role;

/// Sizes that decoders state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    /// Width inside the feed-forward network.
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    /// Elements of one head.
    pub(super) head_size: usize,
    /// Epsilon of the norms.
    pub(super) epsilon: f32,
}

impl Sizes {
    /// Reads them, with llama.cpp's values where the file is silent (`load_hparams` in
    /// llama-model.cpp).
    pub(super) fn of_keys(keys: &Keys<'_>) -> Result<Self, Error> {
        Self::with_norms(keys, NormKind::RootMeanSquare)
    }

    /// The same of a decoder with norms of another kind.
    pub(super) fn with_norms(keys: &Keys<'_>, norms: NormKind) -> Result<Self, Error> {
        let key_value_heads = keys.size("attention.head_count_kv")?;
        Self::with_heads(keys, norms, key_value_heads)
    }

    /// The same of one with so many heads of keys and values, where not as many as of queries:
    /// layers may differ in it.
    pub(super) fn with_heads(
        keys: &Keys<'_>,
        norms: NormKind,
        key_value_heads: Option<usize>,
    ) -> Result<Self, Error> {
        let intermediate = match keys.size("expert_count")? {
            None | Some(0) => keys.required("feed_forward_length")?,
            // Layers may have nothing but experts.
            Some(_) => keys.size("feed_forward_length")?.unwrap_or(0),
        };
        Self::with_widths(keys, norms, key_value_heads, intermediate)
    }

    /// The same of a decoder whose networks have widths of their own.
    pub(super) fn with_widths(
        keys: &Keys<'_>,
        norms: NormKind,
        key_value_heads: Option<usize>,
        intermediate: usize,
    ) -> Result<Self, Error> {
        let hidden = keys.required("embedding_length")?;
        let heads = keys.required("attention.head_count")?;
        let implied = hidden / heads.max(1);
        let head_size = keys.size("attention.key_length")?.unwrap_or(implied);
        if head_size == 0 {
            return Err(keys.fault("attention.key_length", "is zero, or implied to be"));
        }
        let key_value_heads = key_value_heads.unwrap_or(heads);
        let layers = keys.layers()?;
        let key = match norms {
            NormKind::RootMeanSquare => "attention.layer_norm_rms_epsilon",
            NormKind::Layer | NormKind::Bare => "attention.layer_norm_epsilon",
        };
        let epsilon = keys.number(key)?.ok_or_else(|| keys.fault(key, "is missing"))?;
        if key_value_heads == 0 || !heads.is_multiple_of(key_value_heads) {
            return Err(keys.fault("attention.head_count_kv", "does not divide the heads"));
        }
        Ok(Self { layers, hidden, intermediate, heads, key_value_heads, head_size, epsilon })
    }

    /// The same of a decoder whose heads' values are as long as their keys.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        Self::read_with(keys, NormKind::RootMeanSquare)
    }

    /// The same with norms of another kind.
    pub(super) fn read_with(keys: &Keys<'_>, norms: NormKind) -> Result<Self, Error> {
        let sizes = Self::with_norms(keys, norms)?;
        if keys.size("attention.value_length")?.is_some_and(|size| size != sizes.head_size) {
            let problem = "differs from the keys' length, which is not supported";
            return Err(keys.fault("attention.value_length", problem));
        }
        Ok(sizes)
    }

    /// Attention as these sizes say, and no more.
    pub(super) fn attention(&self) -> Attention {
        Attention::plain(self.heads, self.key_value_heads, self.head_size)
    }

    /// How many elements of a head turn.
    pub(super) fn rotated(&self, keys: &Keys<'_>) -> Result<usize, Error> {
        const KEY: &str = "rope.dimension_count";
        let count = keys.size(KEY)?.unwrap_or(self.head_size);
        if count == 0 || count > self.head_size {
            return Err(keys.fault(KEY, "is more than a head has elements, or zero"));
        }
        if !count.is_multiple_of(2) {
            return Err(keys.fault(KEY, "is odd"));
        }
        Ok(count)
    }

    /// The elements of a head that turn, from its first on.
    pub(super) fn rotation(&self, count: usize, pairs: RotaryPairs) -> Rotation {
        Rotation { head_size: self.head_size, first: 0, count, pairs }
    }
}

/// Attention as a layer has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SelfAttention {
    pub(super) attention: Attention,
    /// The rotary embedding of the model, and what of a head turns by it.
    pub(super) rotary: Option<(usize, Rotation)>,
    /// The rotary embedding of queries, where keys have another.
    pub(super) query_rotary: Option<usize>,
    /// Queries and keys are normed for each head before they turn, if the model has the
    /// norms' weights.
    pub(super) norms_heads: bool,
    /// The same after they turn.
    pub(super) norms_turned_heads: bool,
    /// Each head of queries and keys is divided by its root mean square after it has turned.
    pub(super) divides_turned_heads: bool,
    /// Queries and keys of all heads together are normed before they turn.
    pub(super) norms_rows: bool,
    /// Each head of queries and keys is normed by weights of its own before it turns, and its
    /// mean taken away, if the model has such weights.
    pub(super) norms_heads_apart: bool,
    pub(super) epsilon: f32,
    /// Queries, keys and values are products of one matrix.
    pub(super) is_fused: bool,
    /// A score of nothing joins each head's.
    pub(super) has_sinks: bool,
    /// The same, if the model has it.
    pub(super) may_have_sinks: bool,
    /// Roles of tensors with which it would be another one.
    pub(super) without: &'static [Role],
}

impl SelfAttention {
    /// As sizes say, and no more.
    pub(super) fn plain(sizes: &Sizes) -> Self {
        Self::of(sizes.attention(), sizes.epsilon)
    }

    /// Attention, and nothing before it.
    pub(super) fn of(attention: Attention, epsilon: f32) -> Self {
        Self {
            attention,
            rotary: None,
            query_rotary: None,
            norms_heads: false,
            norms_turned_heads: false,
            divides_turned_heads: false,
            norms_rows: false,
            norms_heads_apart: false,
            epsilon,
            is_fused: false,
            has_sinks: false,
            may_have_sinks: false,
            without: &[],
        }
    }

    /// Adds it to a layer; the products of its output matrix.
    pub(super) fn add_to(&self, layer: &mut LayerBuilder, input: Register) -> Register {
        let attention = self.attention;
        let widths = [attention.query_width(), attention.key_width(), attention.value_width()];
        let rows = if self.is_fused {
            let all =
                layer.product(input, Role::AttentionQueryKeyValue, widths.iter().sum::<usize>());
            let mut first = 0;
            widths.map(|width| {
                first += width;
                layer.columns(all, first - width..first)
            })
        } else {
            let roles = [Role::AttentionQuery, Role::AttentionKey, Role::AttentionValue];
            let members = [0, 1, 2].map(|at| (roles[at], widths[at]));
            let rows = layer.linear(input, &members);
            [rows[0], rows[1], rows[2]]
        };
        let norms = [Role::AttentionQueryNorm, Role::AttentionKeyNorm];
        let rotaries = [self.query_rotary, None];
        for ((rows, norm), own) in rows.into_iter().zip(norms).zip(rotaries) {
            if self.norms_rows {
                layer.group_norm(rows, norm, 1, self.epsilon);
            }
            if self.norms_heads {
                layer.head_norm(rows, norm, attention.key_size, self.epsilon);
            }
            if self.norms_heads_apart {
                let heads = layer.row_width(rows) / attention.key_size;
                layer.group_layer_norm(rows, norm, heads, self.epsilon);
            }
            if let Some((rotary, rotation)) = self.rotary {
                layer.rotate(rows, own.unwrap_or(rotary), rotation);
            }
            if self.norms_turned_heads {
                layer.head_norm(rows, norm, attention.key_size, self.epsilon);
            }
            if self.divides_turned_heads {
                layer.bare_head_norm(rows, attention.key_size, self.epsilon);
            }
        }
        self.without.iter().for_each(|role| layer.without(*role));
        let sinks = match (self.has_sinks, self.may_have_sinks) {
            (true, _) => Some(layer.vector(Role::AttentionSinks, attention.heads)),
            (false, true) => Some(layer.optional_vector(Role::AttentionSinks, attention.heads)),
            (false, false) => None,
        };
        let attended = layer.attend(rows, attention, sinks);
        layer.product(attended, Role::AttentionOutput, layer.hidden())
    }
}

/// Adds a gated network to a layer; the products of down.
pub(super) fn gated(
    layer: &mut LayerBuilder,
    input: Register,
    width: usize,
    activation: Activation,
) -> Register {
    let roles = [Role::FeedForwardGate, Role::FeedForwardUp, Role::FeedForwardDown];
    gated_of(layer, input, roles, width, activation)
}

/// The same of an expert that every token is given to.
pub(super) fn shared_expert(layer: &mut LayerBuilder, input: Register, width: usize) -> Register {
    shared_expert_of(layer, input, width, Activation::Silu)
}

/// The same with any activation.
pub(super) fn shared_expert_of(
    layer: &mut LayerBuilder,
    input: Register,
    width: usize,
    activation: Activation,
) -> Register {
    let roles = [Role::SharedExpertGate, Role::SharedExpertUp, Role::SharedExpertDown];
    gated_of(layer, input, roles, width, activation)
}

fn gated_of(
    layer: &mut LayerBuilder,
    input: Register,
    [gate, up, down]: [Role; 3],
    width: usize,
    activation: Activation,
) -> Register {
    let rows = layer.linear(input, &[(gate, width), (up, width)]);
    layer.activate(activation, rows[0], rows[1]);
    layer.product(rows[0], down, layer.hidden())
}

/// Experts and how many a token is given to; none if the file speaks of none.
pub(super) fn experts(keys: &Keys<'_>) -> Result<Option<(usize, usize)>, Error> {
    let experts = match keys.size("expert_count")? {
        None | Some(0) => return Ok(None),
        Some(experts) => (experts, keys.required("expert_used_count")?),
    };
    if experts.1 > experts.0 {
        return Err(keys.fault("expert_used_count", "is more than there are experts"));
    }
    Ok(Some(experts))
}

/// Llama, Mistral and Mixtral.
pub(super) fn llama(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    let experts = experts(keys)?;
    decoder(keys, RotaryPairs::Adjacent, experts)
}

/// Qwen 2 and 3: pairs of another kind, and of Qwen 3 norms of queries and keys.
pub(super) fn qwen(keys: &Keys<'_>) -> Result<ModelGraph, Error> {
    if experts(keys)?.is_some() {
        return Err(keys.unknown_architecture());
    }
    decoder(keys, RotaryPairs::Halves, None)
}

fn decoder(
    keys: &Keys<'_>,
    pairs: RotaryPairs,
    experts: Option<(usize, usize)>,
) -> Result<ModelGraph, Error> {
    let sizes = Sizes::read(keys)?;
    let count = sizes.rotated(keys)?;
    let attention = SelfAttention {
        attention: Attention { window: keys.window()?, ..sizes.attention() },
        rotary: Some((0, sizes.rotation(count, pairs))),
        norms_heads: true,
        ..SelfAttention::plain(&sizes)
    };
    let layer = || -> LayerGraph {
        let mut layer = LayerBuilder::new(sizes.hidden);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, sizes.epsilon);
        let attended = attention.add_to(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, sizes.epsilon);
        let fed = match experts {
            None => gated(&mut layer, normed, sizes.intermediate, Activation::Silu),
            Some((experts, used)) => {
                let router = Router::plain(experts, used);
                layer.experts(normed, router, None, sizes.intermediate, Activation::Silu)
            }
        };
        layer.add(fed);
        layer.finish()
    };
    Ok(ModelGraph {
        hidden: sizes.hidden,
        layers: (0..sizes.layers).map(|_| layer()).collect(),
        rotaries: vec![Rotary::read(keys, count)?],
        around: Around::plain(sizes.epsilon),
    })
}
