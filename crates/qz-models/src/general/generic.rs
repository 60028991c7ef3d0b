//! Names of folders that say nothing of the model in them.

/// True for what folders of models are called whatever is in them: a commit's hash, a
/// trainer's step, a common word, a hidden folder.
pub fn is_generic_name(name: &str) -> bool {
    #[rustfmt::skip]
    const WORDS: &[&str] = &[
        "best", "checkpoint", "checkpoints", "ckpt", "ckpts", "content", "data", "export",
        "exported", "final", "hf", "home", "huggingface", "last", "latest", "merged", "mnt",
        "model", "models", "out", "output", "outputs", "result", "results", "root", "snapshot",
        "snapshots", "src", "target", "temp", "tmp", "weights", "workspace",
    ];
    const STEPS: &[&str] = &["checkpoint", "ckpt", "step", "epoch", "global_step", "iter"];
    let lower = name.to_ascii_lowercase();
    let is_hash = lower.len() == 40 && lower.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_step = STEPS.iter().filter_map(|word| lower.strip_prefix(word)).any(|rest| {
        let number = rest.trim_start_matches(['-', '_']);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    lower.starts_with('.') || is_hash || is_step || WORDS.contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing() {
        let check =
            |name: &str, expected: bool| assert_eq!(is_generic_name(name), expected, "{name}");
        check("checkpoint-500", true);
        check("global_step1000", true);
        check("HF", true);
        check(".cache", true);
        check("93efa2f093efa2f093efa2f093efa2f093efa2f0", true);
        check("Llama-3.2-1B", false);
        check("checkpoint-final", false);
        check("Step-3", true);
        check("step-3.5-flash", false);
        check("models-of-mine", false);
    }
}
