//! Which experts tokens are given to.

/// How tokens are given to experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Experts there are.
    pub experts: usize,
    /// Experts that a token is given to.
    pub used: usize,
    /// What becomes of a token's scores.
    pub gating: Gating,
    /// The weights of a token's experts are divided by their sum.
    pub normalize: bool,
    /// What weights are multiplied with at last.
    pub scale: f32,
    /// Experts stand in so many groups, of which the best so many are chosen from; a group
    /// is as good as its two best experts are together.
    pub groups: Option<(usize, usize)>,
}

impl Router {
    /// Mixtral's.
    pub fn plain(experts: usize, used: usize) -> Self {
        let gating = Gating::Softmax;
        Self { experts, used, gating, normalize: true, scale: 1.0, groups: None }
    }
}

/// What becomes of a token's scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// The softmax over all experts.
    Softmax,
    /// Each score's sigmoid.
    Sigmoid,
    /// The softmax over those that were chosen.
    SoftmaxOfChosen,
    /// Of each that is chosen the softmax over those not chosen before it that come near it
    /// (SparseMixer, arXiv 2409.12136, outside of training).
    SparseMixer,
}

/// An expert's tokens, with the weight of its answer for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertLoad {
    /// Row numbers, in order.
    pub tokens: Vec<usize>,
    /// One for each token.
    pub weights: Vec<f32>,
}
