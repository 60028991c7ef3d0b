//! Completions: shells call the program itself, with what was typed, while this variable is set.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};

use crate::cli::Arguments;

const VARIABLE: &str = "QUANTIZE_COMPLETE";

/// Answers a shell that asks what may come next; nothing on any other run.
pub(crate) fn answer() -> Option<ExitCode> {
    let environment = CompleteEnv::with_factory(Arguments::command).var(VARIABLE);
    let folder = std::env::current_dir().ok();
    match environment.try_complete(std::env::args_os(), folder.as_deref()) {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(error) => {
            let _ = error.print();
            Some(ExitCode::FAILURE)
        }
    }
}

/// What a shell reads to ask.
pub(crate) fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    if shell == Shell::Bash {
        return Ok(BASH.replace("VARIABLE", VARIABLE).into_bytes());
    }
    let shells = Shells::builtins();
    let mut script = Vec::new();
    if let Some(shell) = shells.completer(&shell.to_string()) {
        shell.write_registration(VARIABLE, "quantize", "quantize", "quantize", &mut script)?;
    }
    Ok(script)
}

/// Bash cuts words at colons and equals signs (COMP_WORDBREAKS), and replaces only what stands
/// behind the last of them: words are put together again, and answers lose what is not replaced.
const BASH: &str = r#"# Completions of quantize for bash.
_quantize() {
    local line=${COMP_LINE:0:COMP_POINT} words=() last=-1 i word trimmed
    for ((i = 0; i <= COMP_CWORD; i++)); do
        trimmed=${line#"${line%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$trimmed
        if ((last >= 0)) && [[ $trimmed == "$line" ]]; then
            words[last]+=$word
        else
            words[++last]=$word
        fi
        line=${trimmed#"$word"}
    done
    local current=${words[last]} kept= break
    for break in : =; do
        if [[ $COMP_WORDBREAKS == *"$break"* && $current == *"$break"* ]]; then
            word=${current%"${current##*"$break"}"}
            ((${#word} > ${#kept})) && kept=$word
        fi
    done
    COMPREPLY=()
    while IFS= read -r word || [[ -n $word ]]; do
        [[ -n $word ]] && COMPREPLY+=("${word#"$kept"}")
    done < <(
        VARIABLE=bash _CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$last \
            "${words[0]}" -- "${words[@]}" 2>/dev/null
    )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o default -F _quantize quantize"#;
