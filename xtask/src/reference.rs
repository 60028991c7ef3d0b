//! llama.cpp's own library, loaded into this process.

use std::ffi::c_void;
use std::path::Path;

use anyhow::Context;
use libloading::Library;
use qz_tensor::{DataType, GgmlTypeId};

/// `ggml_quantize_chunk` (ggml.h): type, weights, output, first weight, rows,
/// columns, importance; returns the bytes written.
type QuantizeChunk =
    unsafe extern "C" fn(u32, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;
/// `quantize_row_*_ref` (ggml-quants.h): weights, blocks, elements.
type QuantizeRow = unsafe extern "C" fn(*const f32, *mut c_void, i64);
/// `dequantize_row_*` (ggml-quants.h): blocks, output, elements.
pub(crate) type Dequantize = unsafe extern "C" fn(*const c_void, *mut f32, i64);

/// The library, and what it is asked for.
pub(crate) struct Reference {
    library: Library,
    quantize_chunk: QuantizeChunk,
    /// For types of activations, that no chunk can have.
    activations: [(DataType, QuantizeRow); 2],
}

impl Reference {
    /// Loads it.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        // SAFETY: the caller names a build of libggml-base, whose initializers
        // only set up its own state.
        let library = unsafe { Library::new(path) }
            .with_context(|| format!("cannot load {}", path.display()))?;
        // SAFETY: the declaration above is that of ggml.h.
        let quantize_chunk = unsafe { *library.get::<QuantizeChunk>(b"ggml_quantize_chunk\0")? };
        // SAFETY: the declaration above is that of ggml-quants.h.
        let row = |symbol: &[u8]| unsafe { library.get::<QuantizeRow>(symbol).map(|row| *row) };
        let activations = [
            (DataType::Q8_1, row(b"quantize_row_q8_1_ref\0")?),
            (DataType::Q8_K, row(b"quantize_row_q8_K_ref\0")?),
        ];
        Ok(Self { library, quantize_chunk, activations })
    }

    /// Encodes whole rows.
    pub(crate) fn encode(
        &self,
        id: GgmlTypeId,
        weights: &[f32],
        columns: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        let data_type = DataType::from_ggml(id);
        if let Some((_, quantize)) = self.activations.iter().find(|row| Some(row.0) == data_type) {
            // The sums of a zero block of Q8_K are left as they were.
            out.fill(0);
            // SAFETY: `out` has the bytes of all weights.
            unsafe {
                quantize(weights.as_ptr(), out.as_mut_ptr().cast(), weights.len() as i64);
            }
            return;
        }
        let matrix = importance.map_or(std::ptr::null(), |importance| {
            assert_eq!(importance.len(), columns);
            importance.as_ptr()
        });
        let rows = weights.len() / columns;
        // SAFETY: all rows lie in `weights`, importance covers the columns, and
        // `out` has the bytes of all rows; the assertion below confirms the size.
        let written = unsafe {
            (self.quantize_chunk)(
                id.0,
                weights.as_ptr(),
                out.as_mut_ptr().cast(),
                0,
                rows as i64,
                columns as i64,
                matrix,
            )
        };
        assert_eq!(written, out.len());
    }

    /// The library's decoder; none for F32, which needs none, and for Q8_1, which it
    /// only multiplies.
    pub(crate) fn decoder(&self, data_type: DataType) -> anyhow::Result<Option<Dequantize>> {
        let symbol = match data_type.name() {
            "F32" | "Q8_1" => return Ok(None),
            "F16" => "ggml_fp16_to_fp32_row".to_owned(),
            "BF16" => "ggml_bf16_to_fp32_row".to_owned(),
            name => format!("dequantize_row_{}", name.to_lowercase().replace("_k", "_K")),
        };
        // SAFETY: all these functions have the declaration above (ggml-quants.h,
        // ggml.h).
        let function = unsafe { self.library.get::<Dequantize>(symbol.as_bytes()) };
        Ok(Some(*function.with_context(|| format!("the library has no {symbol}"))?))
    }
}
