//! Qwen 3 rerankers: the reference makes classifiers of them, which is not
//! supported (`Qwen3Model._is_qwen3_reranker` in `conversion/qwen.py`).

use qz_tensor::{Location, Warning};

use crate::architecture::Model;
use crate::error::Error;

const README: &str = "README.md";

/// Says so if the model looks like a reranker.
pub(super) fn warnings(model: &Model<'_>) -> Result<Vec<Warning>, Error> {
    let readme = model.files.read(README)?.unwrap_or_default();
    let readme = String::from_utf8_lossy(&readme).to_lowercase();
    let folder = model.files.folder_name().unwrap_or_default().to_lowercase();
    if !readme.contains("# qwen3-reranker") && !folder.contains("qwen3-reranker") {
        return Ok(Vec::new());
    }
    Ok(vec![Warning {
        location: Location::file(model.files.path(README)),
        rule: "reranker-as-language-model",
        message: "the model is a reranker; it is converted as a language model, without the \
                  classifier that llama.cpp's own converter makes of its output weights"
            .to_owned(),
    }])
}
