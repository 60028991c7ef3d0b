//! Products that have to be finite: they are looked at while a layer is computed, and what was
//! found is asked for once, when the layer is done.

use std::sync::Arc;

use qz_kernels::backend::Backend;

use crate::error::Error;

/// Products that are looked at together.
const TOGETHER: usize = 64;

/// Products of some steps.
pub(super) struct Checks<B: Backend> {
    products: Vec<Product>,
    /// For each of them the first row that is not finite, [`TOGETHER`] in a buffer.
    found: Vec<B::Buffer>,
    given: Option<Arc<[usize]>>,
}

struct Product {
    /// The matrix.
    name: Arc<str>,
    /// Which of the batch's tokens its rows are; all if none.
    given: Option<Arc<[usize]>>,
}

impl<B: Backend> Default for Checks<B> {
    fn default() -> Self {
        Self { products: Vec::new(), found: Vec::new(), given: None }
    }
}

impl<B: Backend> Checks<B> {
    /// Which of the batch's tokens the rows of the next products are; all if none.
    pub(super) fn set_tokens(&mut self, given: Option<&[usize]>) {
        self.given = given.map(Arc::from);
    }

    /// Looks at a matrix' product.
    pub(super) fn add(
        &mut self,
        backend: &B,
        name: &Arc<str>,
        product: &B::Buffer,
    ) -> Result<(), Error> {
        let at = self.products.len() % TOGETHER;
        if at == 0 {
            self.found.push(backend.zeros(1, TOGETHER)?);
        }
        let found = self.found.last_mut().expect("one for each");
        backend.check_finite(product, found, at)?;
        self.products.push(Product { name: name.clone(), given: self.given.clone() });
        Ok(())
    }

    /// The matrix whose product was the first that is not finite, and the token; forgets all
    /// products.
    pub(super) fn settle(&mut self, backend: &B) -> Result<Option<(Arc<str>, usize)>, Error> {
        let (products, found) =
            (std::mem::take(&mut self.products), std::mem::take(&mut self.found));
        for (products, found) in products.chunks(TOGETHER).zip(&found) {
            let rows = backend.numbers(found)?;
            let bad = products.iter().zip(rows.iter()).find(|(_, row)| **row >= 0.0);
            if let Some((product, row)) = bad {
                let row = *row as usize;
                let token = product.given.as_ref().map_or(row, |given| given[row]);
                return Ok(Some((product.name.clone(), token)));
            }
        }
        Ok(None)
    }
}
