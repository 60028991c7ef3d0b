//! What tensors do in a model. Everything that asks "which weight is this" asks for the
//! [`Role`], never for a name.

/// What a tensor does in the model. A role, a part and a layer name at most one
/// tensor of a model. Matrices of experts have the role of the dense ones: a layer
/// has either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Role {
    /// A tensor of a part that sees, which is written and never computed.
    Projector,
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
    /// The layer that makes a classifier's scores of that vector.
    Classifier,

    /// The norm in front of attention, or of a layer's only mixer.
    AttentionNorm,
    /// The norm in front of attention alone, where [`Role::AttentionNorm`] is that of the
    /// network beside it.
    AttentionOwnNorm,
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
    /// Numbers that are added to scores by the distance of keys.
    AttentionDistances,
    /// The norm of what attention gives, before it is added.
    PostAttentionNorm,
    /// The norm of the sum of attention and its input.
    AttentionSumNorm,

    // A decoder's attention to what an encoder has made.
    CrossAttentionNorm,
    CrossAttentionQuery,
    CrossAttentionKey,
    CrossAttentionValue,
    CrossAttentionOutput,
    CrossAttentionDistances,

    // An encoder beside a decoder, which has the plain roles.
    EncoderOutputNorm,
    EncoderAttentionNorm,
    EncoderAttentionQuery,
    EncoderAttentionKey,
    EncoderAttentionValue,
    EncoderAttentionOutput,
    EncoderAttentionDistances,
    EncoderFeedForwardNorm,
    EncoderFeedForwardGate,
    EncoderFeedForwardUp,
    EncoderFeedForwardDown,

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
    /// The norm of what a network beside experts gives, before these are added.
    PostSharedExpertNorm,
    /// The norm in front of experts alone.
    ExpertsNorm,
    /// The norm of what experts give, before the network beside them is added.
    PostExpertsNorm,
    /// From hidden states to the narrow vector that experts multiply.
    ExpertsInput,
    /// From what they make of it to hidden states.
    ExpertsOutput,
    /// The norm of the sum of the feed-forward network and its input.
    FeedForwardSumNorm,

    ExpertRouter,
    /// The norm of what the router multiplies.
    ExpertRouterNorm,
    /// What each expert's weight is multiplied with.
    ExpertScale,
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

    // A layer with a short convolution.
    /// Both gates and what goes through them.
    ShortConvolutionInput,
    ShortConvolution,
    ShortConvolutionOutput,

    /// What time steps are made of, and the vectors that states are written and read with.
    StateSpaceParts,

    // A layer with the delta rule, beside those of a state space.
    /// What its result is weakened by.
    StateSpaceGate,
    /// What each head's time step is made of.
    StateSpaceStep,
    /// How far each head corrects its state.
    StateSpaceStrength,
    /// The latter and the former in one matrix, by head of keys.
    StateSpaceStrengthStep,
    /// The narrow vector that time steps are made of.
    StateSpaceNarrowStep,
    /// The narrow vector that is made into what the result is weakened by.
    StateSpaceNarrowGate,
    // Convolutions of queries, keys and values, each by itself.
    QueryConvolution,
    KeyConvolution,
    ValueConvolution,

    // A layer that only predicts further tokens.
    /// What joins a token's embedding and the hidden states.
    NextTokenProjection,
    NextTokenEmbeddingNorm,
    NextTokenHiddenNorm,
    NextTokenEmbedding,
    NextTokenOutput,
    NextTokenOutputNorm,

    // What a model has for each token in each layer, beside the hidden states.
    /// Rows with the numbers of all layers, by token.
    PerLayerEmbedding,
    /// What is added to them of the token's embedding.
    PerLayerEmbeddingProjection,
    /// The norm of that.
    PerLayerEmbeddingNorm,
    /// From hidden states to what weakens them.
    PerLayerGate,
    /// From them to hidden states.
    PerLayerOutput,
    /// The norm of that, before it is added.
    PerLayerNorm,
    /// What a layer's hidden states are multiplied with at last.
    LayerScale,

    // Several streams of hidden states (AltUp).
    /// What makes the other streams of the first.
    StreamProjection,
    /// What of the other streams is added to the first at last.
    StreamOutput,
    /// The norm of what is routed.
    StreamRouterNorm,
    StreamRouter,
    /// From what is routed to how streams make up what is predicted of each.
    StreamPrediction,
    /// From what is routed to how far each is corrected.
    StreamCorrection,
    /// What the first stream is multiplied with before a layer's own numbers of tokens.
    StreamScale,

    // A branch of low rank beside attention (Laurel).
    LowRankDown,
    LowRankUp,
    LowRankNorm,

    RopeFrequencies,
    /// Divisors of the rotary frequencies past the context of training.
    RopeFactorsLong,
    /// Divisors of the rotary frequencies within it.
    RopeFactorsShort,
}

impl Role {
    /// True for matrices of layers that are stored in few bits.
    pub fn is_rounded(self) -> bool {
        matches!(
            self,
            Self::AttentionQuery
                | Self::AttentionKey
                | Self::AttentionValue
                | Self::AttentionQueryKeyValue
                | Self::AttentionOutput
                | Self::LatentQuery
                | Self::LatentQueryUp
                | Self::LatentKeyValue
                | Self::LatentKeyValueUp
                | Self::LatentKeyUp
                | Self::LatentValueUp
                | Self::FeedForwardGate
                | Self::FeedForwardUp
                | Self::FeedForwardGateUp
                | Self::FeedForwardDown
                | Self::SharedExpertGate
                | Self::SharedExpertUp
                | Self::SharedExpertDown
                | Self::StateSpaceInput
                | Self::StateSpaceOutput
                | Self::StateSpaceParts
                | Self::StateSpaceTimeStep
                | Self::StateSpaceGate
                | Self::ShortConvolutionInput
                | Self::ShortConvolutionOutput
                | Self::StateSpaceStep
                | Self::StateSpaceStrength
                | Self::StateSpaceStrengthStep
                | Self::StateSpaceNarrowStep
                | Self::StateSpaceNarrowGate
                | Self::NextTokenProjection
                | Self::PerLayerEmbeddingProjection
                | Self::PerLayerGate
                | Self::ExpertsInput
                | Self::ExpertsOutput
                | Self::PerLayerOutput
                | Self::CrossAttentionQuery
                | Self::CrossAttentionKey
                | Self::CrossAttentionValue
                | Self::CrossAttentionOutput
                | Self::EncoderAttentionQuery
                | Self::EncoderAttentionKey
                | Self::EncoderAttentionValue
                | Self::EncoderAttentionOutput
                | Self::EncoderFeedForwardGate
                | Self::EncoderFeedForwardUp
                | Self::EncoderFeedForwardDown
        )
    }

    /// True for matrices of layers that choose or weigh, or are of low rank: they are small, and
    /// nobody rounds them.
    pub fn is_router(self) -> bool {
        matches!(
            self,
            Self::ExpertRouter | Self::SharedExpertRouter | Self::LowRankDown | Self::LowRankUp
        )
    }

    /// The first role of those that engines multiply by together: they make one matrix of
    /// them.
    pub fn multiplied_with(self) -> Self {
        match self {
            Self::AttentionKey | Self::AttentionValue => Self::AttentionQuery,
            Self::LatentKeyValue => Self::LatentQuery,
            Self::FeedForwardUp => Self::FeedForwardGate,
            Self::SharedExpertUp => Self::SharedExpertGate,
            Self::CrossAttentionValue => Self::CrossAttentionKey,
            Self::EncoderAttentionKey | Self::EncoderAttentionValue => Self::EncoderAttentionQuery,
            Self::EncoderFeedForwardUp => Self::EncoderFeedForwardGate,
            own => own,
        }
    }
}

/// Which tensor of a role: its weight or the bias added to its product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Part {
    Weight,
    Bias,
}
