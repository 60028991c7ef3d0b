//! Tensor rules: what a tensor is called on both sides, what it does in the
//! model, and how its rows move between them. Everything that asks "which
//! weight is this" asks for the [`Role`], never for a name.

use std::fmt;

/// A decoder layer, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerIndex(pub u32);

impl fmt::Display for LayerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An expert of a layer, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertIndex(pub u32);

/// The numbers in a tensor's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameNumbers {
    /// Its layer.
    pub layer: Option<LayerIndex>,
    /// Its expert.
    pub expert: Option<ExpertIndex>,
}

/// What a tensor does in the model. A role, a part and a layer name at most one
/// tensor of a model. Matrices of experts have the role of the dense ones: a layer
/// has either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Role {
    TokenEmbedding,
    /// A vector for each position, added to the token's.
    PositionEmbedding,
    /// A vector for each kind of token (BERT's segments), added to the token's.
    TokenTypeEmbedding,
    /// The norm of the sum of a token's embeddings.
    TokenEmbeddingNorm,
    Output,
    OutputNorm,
    /// The layer that makes one vector of a text from its first token's.
    Pooler,

    /// The norm in front of attention, or of a layer's only mixer.
    AttentionNorm,
    AttentionQuery,
    AttentionKey,
    AttentionValue,
    /// The three of them in one matrix, one behind the other.
    AttentionQueryKeyValue,
    AttentionOutput,
    AttentionQueryNorm,
    AttentionKeyNorm,
    /// A logit for each head that joins the softmax and gives nothing.
    AttentionSinks,
    /// The norm of what attention gives, before it is added.
    PostAttentionNorm,
    /// The norm of the sum of attention and its input.
    AttentionSumNorm,

    // Multi-head latent attention: a narrow vector for each token, from which
    // queries, or keys and values, are made again.
    LatentQuery,
    LatentQueryNorm,
    /// From the narrow vector to queries.
    LatentQueryUp,
    /// The narrow vector for keys and values, and behind it the rotated part of keys.
    LatentKeyValue,
    LatentKeyValueNorm,
    /// From the narrow vector to keys and values, by head.
    LatentKeyValueUp,
    /// The part of the former that makes keys, of each head transposed.
    LatentKeyUp,
    /// The part of the former that makes values.
    LatentValueUp,

    /// The norm in front of the feed-forward network.
    FeedForwardNorm,
    FeedForwardGate,
    FeedForwardUp,
    /// Gate, and behind it up, in one matrix.
    FeedForwardGateUp,
    FeedForwardDown,
    /// The norm of what the feed-forward network gives, before it is added.
    PostFeedForwardNorm,
    /// The norm of the sum of the feed-forward network and its input.
    FeedForwardSumNorm,

    ExpertRouter,
    /// A number for each expert that is added when experts are chosen, and not when
    /// they are weighed.
    ExpertSelectionBias,
    // An expert that every token is given to.
    SharedExpertGate,
    SharedExpertUp,
    SharedExpertDown,
    /// Weighs the shared expert.
    SharedExpertRouter,

    // A state space layer.
    StateSpaceInput,
    StateSpaceConvolution,
    StateSpaceTimeStep,
    /// The logarithm of the state's decay; in GGUF the decay itself, negative.
    StateSpaceDecay,
    /// What is added of the input itself.
    StateSpaceSkip,
    StateSpaceNorm,
    StateSpaceOutput,

    RopeFrequencies,
    /// Divisors of the rotary frequencies past the context of training.
    RopeFactorsLong,
    /// Divisors of the rotary frequencies within it.
    RopeFactorsShort,
}

/// Which tensor of a role: its weight or the bias added to its product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Part {
    Weight,
    Bias,
}

/// A tensor name with at most one `{layer}` in it, and after that at most one
/// `{expert}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamePattern(pub &'static str);

const LAYER: &str = "{layer}";
const EXPERT: &str = "{expert}";

impl NamePattern {
    /// True if the name contains a layer number.
    pub fn has_layer(self) -> bool {
        self.0.contains(LAYER)
    }

    /// The name in `layer`; the number is left out if the pattern has none.
    pub fn name(self, layer: Option<LayerIndex>) -> String {
        match layer {
            Some(layer) => self.0.replacen(LAYER, &layer.to_string(), 1),
            None => self.0.to_owned(),
        }
    }

    /// The name of an expert's tensor in `layer`.
    pub fn name_of_expert(self, layer: Option<LayerIndex>, expert: ExpertIndex) -> String {
        self.name(layer).replacen(EXPERT, &expert.0.to_string(), 1)
    }

    /// If `name` fits, the numbers in it.
    pub fn matches(self, name: &str) -> Option<NameNumbers> {
        let Some((before, rest)) = self.0.split_once(LAYER) else {
            return (name == self.0).then(NameNumbers::default);
        };
        let name = name.strip_prefix(before)?;
        let Some((between, after)) = rest.split_once(EXPERT) else {
            let layer = Some(LayerIndex(plain_number(name.strip_suffix(rest)?)?));
            return Some(NameNumbers { layer, expert: None });
        };
        let (layer, name) = name.split_once(between)?;
        let layer = Some(LayerIndex(plain_number(layer)?));
        let expert = Some(ExpertIndex(plain_number(name.strip_suffix(after)?)?));
        Some(NameNumbers { layer, expert })
    }
}

/// A plain decimal: `007` and `+7` are none.
fn plain_number(digits: &str) -> Option<u32> {
    let canonical = digits == "0" || !digits.starts_with('0');
    let is_number = canonical && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// A size that `config.json` fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dimension {
    Vocabulary,
    Hidden,
    Intermediate,
    HeadSize,
    /// Rows of the query projection: heads times head size.
    Queries,
    /// Rows of the key and value projections.
    KeyValues,
    /// Experts of a layer.
    Experts,
    /// Rows of a gate and of an up projection behind it.
    GateAndUp,
}

impl Dimension {
    /// The keys of `config.json` that fix it, for messages.
    pub fn keys(self) -> &'static str {
        match self {
            Self::Vocabulary => "vocab_size",
            Self::Hidden => "hidden_size",
            Self::Intermediate => "intermediate_size",
            Self::HeadSize => "head_dim",
            Self::Queries => "num_attention_heads x head_dim",
            Self::KeyValues => "num_key_value_heads x head_dim",
            Self::Experts => "num_local_experts",
            Self::GateAndUp => "2 x intermediate_size",
        }
    }
}

/// Whether a checkpoint must have a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Required,
    /// If this boolean of `config.json` is true; it must not be there if the
    /// config says false, and may be there if the config says nothing.
    WhenTrue(&'static str),
    /// May be there unless this boolean of `config.json` is false.
    AllowedWhenTrue(&'static str),
    /// If this boolean of `config.json` is false; it may be there in any case.
    WhenFalse(&'static str),
}

/// How the tensor in a GGUF file follows from the one in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// The same rows in the same order.
    Keep,
    /// Within each query head, the two halves interleaved: Hugging Face's rotary
    /// embedding pairs row `i` with row `i + half`, llama.cpp's "llama" graph
    /// pairs neighbours (`LlamaModel.permute` in `conversion/llama.py`).
    PairRotaryHalves,
    /// The matrices of a layer's experts, each a tensor of its own in the
    /// checkpoint, one behind the other.
    StackExperts,
    /// One half of the rows of each matrix in the tensor.
    TakeHalf(Half),
}

/// Which rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Half {
    First,
    Second,
}

/// One tensor of an architecture.
#[derive(Clone, Copy, Debug)]
pub struct TensorRule {
    /// Its name in a Hugging Face checkpoint.
    pub hugging_face: NamePattern,
    /// Its name in a GGUF file.
    pub gguf: NamePattern,
    /// What it does.
    pub role: Role,
    /// Weight or bias.
    pub part: Part,
    /// Its dimensions in the checkpoint, outermost first.
    pub shape: &'static [Dimension],
    /// Whether it must be there.
    pub presence: Presence,
    /// How its rows move.
    pub transform: Transform,
}

impl TensorRule {
    /// A required weight whose rows keep their order.
    pub const fn weight(
        role: Role,
        hugging_face: &'static str,
        gguf: &'static str,
        shape: &'static [Dimension],
    ) -> Self {
        Self {
            hugging_face: NamePattern(hugging_face),
            gguf: NamePattern(gguf),
            role,
            part: Part::Weight,
            shape,
            presence: Presence::Required,
            transform: Transform::Keep,
        }
    }

    /// A required bias whose elements keep their order.
    pub const fn bias(
        role: Role,
        hugging_face: &'static str,
        gguf: &'static str,
        shape: &'static [Dimension],
    ) -> Self {
        let mut rule = Self::weight(role, hugging_face, gguf, shape);
        rule.part = Part::Bias;
        rule
    }

    /// The same rule with another presence.
    pub const fn when(mut self, presence: Presence) -> Self {
        self.presence = presence;
        self
    }

    /// The same rule with rotary halves paired.
    pub const fn paired(self) -> Self {
        self.transformed(Transform::PairRotaryHalves)
    }

    /// The same rule with another transform.
    pub const fn transformed(mut self, transform: Transform) -> Self {
        self.transform = transform;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_both_ways() {
        let pattern = NamePattern("model.layers.{layer}.mlp.up_proj.weight");
        let check = |name: &str, expected: Option<u32>| {
            let found = pattern.matches(name).map(|numbers| (numbers.layer, numbers.expert));
            assert_eq!(found, expected.map(|n| (Some(LayerIndex(n)), None)), "{name}");
        };
        check("model.layers.0.mlp.up_proj.weight", Some(0));
        check("model.layers.41.mlp.up_proj.weight", Some(41));
        check("model.layers.04.mlp.up_proj.weight", None);
        check("model.layers.+4.mlp.up_proj.weight", None);
        check("model.layers..mlp.up_proj.weight", None);
        check("model.layers.4294967296.mlp.up_proj.weight", None);
        check("model.layers.4.mlp.up_proj.weight.scale", None);
        check("x.model.layers.4.mlp.up_proj.weight", None);
        assert_eq!(pattern.name(Some(LayerIndex(7))), "model.layers.7.mlp.up_proj.weight");
        let none = NameNumbers::default();
        assert_eq!(NamePattern("lm_head.weight").matches("lm_head.weight"), Some(none));
        assert_eq!(NamePattern("lm_head.weight").matches("lm_head.bias"), None);
    }

    #[test]
    fn names_of_experts_match_both_ways() {
        let pattern = NamePattern("model.layers.{layer}.experts.{expert}.w1.weight");
        let check = |name: &str, expected: Option<(u32, u32)>| {
            let found = pattern.matches(name).map(|numbers| (numbers.layer, numbers.expert));
            let expected = expected
                .map(|(layer, expert)| (Some(LayerIndex(layer)), Some(ExpertIndex(expert))));
            assert_eq!(found, expected, "{name}");
        };
        check("model.layers.3.experts.12.w1.weight", Some((3, 12)));
        check("model.layers.3.experts.012.w1.weight", None);
        check("model.layers.3.experts..w1.weight", None);
        check("model.layers.3.experts.1.experts.1.w1.weight", None);
        check("model.layers.3.experts.w1.weight", None);
        let name = pattern.name_of_expert(Some(LayerIndex(3)), ExpertIndex(12));
        assert_eq!(name, "model.layers.3.experts.12.w1.weight");
    }
}
