//! Adapters of fused experts: one parameter for the matrices of all experts, as
//! `target_parameters` of PEFT names them.
//!
//! A has the rows of all experts one behind the other; in a row of B, places of the rank are
//! apart by the number of experts. Several parameters of one module are wrapped one in the
//! other: `experts.base_layer.lora_A` is that of the first, `experts.lora_A` of the last.

use qz_tensor::TensorIndex;

use super::config::Scaling;
use super::merge::{Merge, Product};
use crate::edits::FactorStrides;
use crate::error::Error;

/// A fused parameter, and the matrices of an expert it is made of in checkpoints that have
/// them one by one.
struct FusedParameter {
    name: &'static str,
    /// Under the names of most families, and of Mixtral.
    parts: &'static [&'static [&'static str]],
}

/// In the order in which modules have them.
const PARAMETERS: &[FusedParameter] = &[
    FusedParameter { name: "gate_up_proj", parts: &[&["gate_proj", "up_proj"], &["w1", "w3"]] },
    FusedParameter { name: "down_proj", parts: &[&["down_proj"], &["w2"]] },
];

/// What PEFT puts between a wrapped module and its wrapper.
const WRAPPED: &str = ".base_layer";

impl Merge<'_> {
    /// The factors of `module`, which wraps parameters of its own.
    pub(super) fn add_to_experts(
        &mut self,
        module: &str,
        [a, b]: [TensorIndex; 2],
    ) -> Result<(), Error> {
        let container = module.trim_end_matches(WRAPPED);
        let depth = (module.len() - container.len()) / WRAPPED.len();
        let adapted: Vec<&FusedParameter> = PARAMETERS
            .iter()
            .filter(|parameter| {
                let own = format!("{container}.{}", parameter.name);
                let is_own = |stated: &String| {
                    own.strip_suffix(&**stated)
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                self.adapter.config.target_parameters.iter().any(is_own)
            })
            .collect();
        let Some(parameter) = adapted.len().checked_sub(1 + depth).map(|place| adapted[place])
        else {
            return Err(self.homeless(a, &format!("{module}.weight")));
        };
        let name = format!("{container}.{}", parameter.name);
        let scaling = self.adapter.config.scaling(&name);
        let ([all, width], [height, all_of_b]) = (self.matrix(a)?, self.matrix(b)?);
        if all % scaling.rank != 0 || all != all_of_b {
            let rank = scaling.rank;
            let problem = format!(
                "has {all} rows, and lora_B {all_of_b} columns, for experts of the rank {rank}"
            );
            return Err(self.adapter.fault(a, problem));
        }
        let experts =
            Experts { count: all / scaling.rank, width, height, scaling, factors: [a, b] };
        match self.find(&name) {
            Some(tensor) => self.add_to_stack(&name, tensor, &experts),
            None => self.add_to_each(container, parameter, &experts),
        }
    }

    /// All experts in one tensor.
    fn add_to_stack(
        &mut self,
        name: &str,
        tensor: TensorIndex,
        experts: &Experts,
    ) -> Result<(), Error> {
        let (of_a, of_b) = (experts.of_a(0), experts.of_b(0, 0));
        let Experts { count, width, height, scaling, factors: [a, b] } = *experts;
        let (expected, rows, columns) = match self.is_turned(tensor) {
            true => ([count, width, height], (a, of_a), (b, of_b)),
            false => ([count, height, width], (b, of_b), (a, of_a)),
        };
        let shape = &self.base(tensor).shape;
        if shape.dimensions() != expected {
            let [experts, rows, columns] = expected;
            let problem =
                format!("is of {experts} matrices of {rows} × {columns}; {name} is {shape}");
            return Err(self.adapter.fault(a, problem));
        }
        self.push_product(&Product { tensor, rows, columns, scaling, is_rounded: true })
    }

    /// Each expert's matrices in tensors of their own.
    fn add_to_each(
        &mut self,
        container: &str,
        parameter: &FusedParameter,
        experts: &Experts,
    ) -> Result<(), Error> {
        let Experts { count, width, height, scaling, factors: [a, b] } = *experts;
        let name = |expert: u64, part: &str| format!("{container}.{expert}.{part}.weight");
        let parts = parameter.parts.iter().find(|parts| self.find(&name(0, parts[0])).is_some());
        let parts =
            *parts.ok_or_else(|| self.homeless(a, &format!("{container}.{}", parameter.name)))?;
        let of_parts = parts.len() as u64;
        if height % of_parts != 0 {
            let problem = format!("has {height} rows for {of_parts} matrices of equal height");
            return Err(self.adapter.fault(b, problem));
        }
        let rows = height / of_parts;
        for expert in 0..count {
            for (part, first_row) in parts.iter().zip((0..).map(|number: u64| number * rows)) {
                let name = name(expert, part);
                let tensor = self.find(&name).ok_or_else(|| self.homeless(a, &name))?;
                let shape = &self.base(tensor).shape;
                if shape.dimensions() != [rows, width] {
                    let problem = format!("is of a matrix of {rows} × {width}; {name} is {shape}");
                    return Err(self.adapter.fault(a, problem));
                }
                let rows = (b, experts.of_b(expert, first_row));
                let columns = (a, experts.of_a(expert));
                let product = Product { tensor, rows, columns, scaling, is_rounded: true };
                self.push_product(&product)?;
            }
        }
        Ok(())
    }
}

/// The factors of all experts.
struct Experts {
    count: u64,
    /// Columns of A.
    width: u64,
    /// Rows of B.
    height: u64,
    scaling: Scaling,
    /// A and B.
    factors: [TensorIndex; 2],
}

impl Experts {
    /// Where A's numbers are, from an expert's on.
    fn of_a(&self, expert: u64) -> FactorStrides {
        let matrix = self.scaling.rank * self.width;
        FactorStrides { first: expert * matrix, matrix, item: 1, rank: self.width }
    }

    /// Where B's numbers are, from a row of an expert's on.
    fn of_b(&self, expert: u64, row: u64) -> FactorStrides {
        let item = self.scaling.rank * self.count;
        FactorStrides { first: row * item + expert, matrix: 1, item, rank: self.count }
    }
}
