//! `new-architecture NAME`: a family's file, its lines in the lists, and an entry in the
//! script that makes its tiny checkpoint. What is written computes as Llama does under
//! other names; the rest is for whoever knows the family.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const FAMILIES: &str = "crates/qz-models/src/architectures";
const LIST: &str = "crates/qz-models/src/architectures/mod.rs";
const SCRIPT: &str = "fixtures/make/tiny_checkpoints.py";

/// What a family is called in Rust, in Python and in GGUF.
struct Names {
    /// `gpt-oss`.
    gguf: String,
    /// `gpt_oss`.
    module: String,
    /// `GptOss`.
    class: String,
}

impl Names {
    fn of(name: &str) -> Result<Self> {
        let is_name = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        ensure!(is_name(name), "{name:?}: expected a name as GGUF has it, such as gpt-oss");
        let class = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        Ok(Self { gguf: name.to_owned(), module: name.replace('-', "_"), class })
    }
}

/// Writes the files under `root`.
pub(crate) fn run(root: &Path, name: &str) -> Result<()> {
    let names = Names::of(name)?;
    let family = root.join(FAMILIES).join(format!("{}.rs", names.module));
    ensure!(!family.exists(), "{} is there already", family.display());
    edit(&root.join(LIST), |text| listed(text, &names))?;
    edit(&root.join(SCRIPT), |text| scripted(text, &names))?;
    fs::write(&family, family_file(&names)).context(family.display().to_string())?;
    println!(
        "{} is there, and its lines in {LIST} and {SCRIPT}. Next: docs/adding-an-architecture.md",
        family.display()
    );
    Ok(())
}

fn edit(path: &Path, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let text = fs::read_to_string(path).context(path.display().to_string())?;
    let text = change(&text).context(path.display().to_string())?;
    fs::write(path, text).context(path.display().to_string())
}

/// The list of families with one more.
fn listed(text: &str, names: &Names) -> Result<String> {
    let Names { module, class, .. } = names;
    let text = inserted(text, "mod llama;\n", &format!("mod {module};\n"))?;
    let (before, after) = text.rsplit_once("];").context("no list ends here")?;
    Ok(format!("{before}    &{module}::{class},\n];{after}"))
}

/// The script with one more checkpoint.
fn scripted(text: &str, names: &Names) -> Result<String> {
    let Names { gguf, class, .. } = names;
    let text = inserted(
        text,
        "from transformers import (\n",
        &format!("    {class}Config,\n    {class}ForCausalLM,\n"),
    )?;
    let text = inserted(
        &text,
        "FAMILIES = {\n",
        &format!("    \"{gguf}\": ({class}Config, {class}ForCausalLM),\n"),
    )?;
    inserted(
        &text,
        "    # The committed selection.\n",
        &format!(
            "    \"{gguf}\": Checkpoint(\"{gguf}\", \"llama3\", {{**NARROW}}, tokenizer_size=300),\n"
        ),
    )
}

/// `text` with `new` behind the first `place`.
fn inserted(text: &str, place: &str, new: &str) -> Result<String> {
    let Some((before, after)) = text.split_once(place) else {
        bail!("{place:?} is not in it");
    };
    Ok(format!("{before}{place}{new}{after}"))
}

fn family_file(names: &Names) -> String {
    let Names { gguf, module, class } = names;
    format!(
        r##"//! {class} (`{class}Model` in `conversion/`): what is unlike Llama.

use super::decoder;
use crate::architecture::Architecture;
use crate::config::{{
    ConfigDefaults, DEFAULT_RMS_EPSILON, DEFAULT_ROPE_THETA, DefaultHeadSize, DefaultWindow,
}};
use crate::rules::TensorRule;

/// {class}.
pub(super) struct {class};

static RULES: &[TensorRule] = &[
    decoder::TOKEN_EMBEDDING,
    decoder::OUTPUT_NORM,
    decoder::OUTPUT,
    decoder::ATTENTION_NORM,
    decoder::QUERY,
    decoder::KEY,
    decoder::VALUE,
    decoder::ATTENTION_OUTPUT,
    decoder::FEED_FORWARD_NORM,
    decoder::GATE,
    decoder::UP,
    decoder::DOWN,
];

static DEFAULTS: ConfigDefaults = ConfigDefaults {{
    model_type: "{module}",
    // What {class}Config assumes.
    numbers: &[],
    head_size: DefaultHeadSize::Implied,
    rms_epsilon: DEFAULT_RMS_EPSILON,
    rope_theta: DEFAULT_ROPE_THETA,
    sliding_rope_theta: None,
    window: DefaultWindow::Never,
}};

impl Architecture for {class} {{
    fn class_names(&self) -> &'static [&'static str] {{
        &["{class}ForCausalLM"]
    }}

    fn gguf_name(&self) -> &'static str {{
        "{gguf}"
    }}

    fn defaults(&self) -> &'static ConfigDefaults {{
        &DEFAULTS
    }}

    fn tensor_rules(&self) -> &'static [TensorRule] {{
        RULES
    }}
}}
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn names_follow_from_that_in_gguf() {
        let names = Names::of("gpt-oss2").expect("a name");
        assert_eq!((names.module.as_str(), names.class.as_str()), ("gpt_oss2", "GptOss2"));
        for name in ["", "GptOss", "gpt_oss", "2b", "a/b"] {
            assert!(Names::of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn lists_get_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        for file in [LIST, SCRIPT] {
            let copy = folder.path().join(file);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("made");
            fs::copy(root().join(file), copy).expect("copied");
        }
        run(folder.path(), "brand-new").expect("written");
        let has = |file: &str, lines: &[&str]| {
            let text = fs::read_to_string(folder.path().join(file)).expect("read");
            assert!(lines.iter().all(|line| text.contains(line)), "{file}");
        };
        has(LIST, &["mod brand_new;\n", "    &brand_new::BrandNew,\n];"]);
        has(SCRIPT, &["    \"brand-new\": (BrandNewConfig, BrandNewForCausalLM),\n"]);
        has(&format!("{FAMILIES}/brand_new.rs"), &["pub(super) struct BrandNew;"]);
        assert!(run(folder.path(), "brand-new").is_err(), "it is there already");
    }
}
