//! `completions`: a script for a shell that completes `cargo xtask`, the names of targets and
//! services with it. The script asks the tool that is built, below the build folder of the checkout
//! that the shell stands in; it compiles nothing and waits for no lock, and where no tool is built it
//! says nothing. What stands behind `cargo` and is not `xtask` goes to what completed cargo before.

use clap_complete::{CompleteEnv, CompletionCandidate};

use super::print_data;
use crate::cli::{Cli, Shell};
use crate::source::workspace::{Target, Workspace};

/// Set by the scripts alone: it holds the name of the shell that asks.
const VARIABLE: &str = "XTASK_COMPLETE";

/// Prints the script.
///
/// # Errors
/// When it cannot be written.
pub fn run(shell: Shell) -> anyhow::Result<()> {
    let script = match shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    };
    print_data(script)
}

/// Answers a script, and ends the process, if one asks.
pub fn answer() {
    CompleteEnv::with_factory(<Cli as clap::CommandFactory>::command)
        .var(VARIABLE)
        .complete();
}

/// The targets of the workspace that holds the current folder; none where it cannot be read:
/// whoever types a command line does not want to read of it.
#[must_use]
pub fn targets() -> Vec<CompletionCandidate> {
    let workspace = here();
    let targets = workspace.iter().flat_map(|one| one.targets.keys());
    targets
        .map(|name| CompletionCandidate::new(name.as_str()))
        .collect()
}

/// What has a log in a run of some target.
#[must_use]
pub fn services() -> Vec<CompletionCandidate> {
    let workspace = here();
    let targets = workspace.iter().flat_map(|one| one.targets.values());
    let names: std::collections::BTreeSet<&str> = targets.flat_map(Target::manifests).collect();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// What `bench load` knows.
#[must_use]
pub fn loads() -> Vec<CompletionCandidate> {
    let workspace = here();
    let loads = workspace.iter().flat_map(super::bench::loads);
    loads.map(CompletionCandidate::new).collect()
}

/// What a run can be deployed to. Contexts are the user's own, and kubectl completes those.
#[must_use]
pub fn clusters() -> Vec<CompletionCandidate> {
    ["local", "kind", "context:"]
        .map(CompletionCandidate::new)
        .into()
}

fn here() -> Option<Workspace> {
    Workspace::load(&Workspace::find_root().ok()?).ok()
}

const BASH: &str = r#"# Completes `cargo xtask` in bash. Made by `cargo xtask completions bash`.

# The tool of the checkout that holds the current folder, if it is built.
_phase_zero_tool() {
    local folder=$PWD target
    while [[ -n $folder ]]; do
        if [[ -f $folder/Cargo.toml && $(<"$folder/Cargo.toml") == *'[workspace.metadata.e2e]'* ]]; then
            target=${CARGO_TARGET_DIR:-$folder/target}
            [[ -x $target/debug/xtask ]] && printf %s "$target/debug/xtask"
            return
        fi
        folder=${folder%/*}
    done
}

# Remembers what completes cargo now, and takes its place.
_phase_zero_take_over() {
    if [[ $(complete -p cargo 2>/dev/null) =~ ' -F '([^ ]+) && ${BASH_REMATCH[1]} != _phase_zero_cargo ]]; then
        _phase_zero_before=${BASH_REMATCH[1]}
    fi
    complete -o bashdefault -o default -F _phase_zero_cargo cargo
}

_phase_zero_hand_on() {
    if [[ -z $_phase_zero_before ]]; then
        # bash-completion loads what it has for a command when that is first completed.
        if declare -F _comp_load >/dev/null; then
            _comp_load cargo
        elif declare -F _completion_loader >/dev/null; then
            _completion_loader cargo
        fi
        _phase_zero_take_over
    fi
    [[ -n $_phase_zero_before ]] && "$_phase_zero_before" "$@"
}

_phase_zero_cargo() {
    local at=1 tool
    [[ ${COMP_WORDS[1]} == +* ]] && at=2
    if ((COMP_CWORD <= at)) || [[ ${COMP_WORDS[at]} != xtask ]]; then
        _phase_zero_hand_on "$@"
        if ((COMP_CWORD == at)) && [[ xtask == "$2"* && " ${COMPREPLY[*]} " != *' xtask '* && -n $(_phase_zero_tool) ]]; then
            COMPREPLY+=(xtask)
        fi
        return
    fi
    COMPREPLY=()
    tool=$(_phase_zero_tool)
    [[ -n $tool ]] || return
    mapfile -t COMPREPLY < <(
        _CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$((COMP_CWORD - at)) XTASK_COMPLETE=bash \
            "$tool" -- "${COMP_WORDS[@]:at:COMP_CWORD-at}" "$2" 2>/dev/null
    )
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
}

_phase_zero_before=
_phase_zero_take_over
"#;

const ZSH: &str = r#"# Completes `cargo xtask` in zsh. Made by `cargo xtask completions zsh`.

# The tool of the checkout that holds the current folder, if it is built.
_phase_zero_tool() {
    local folder=$PWD target
    while [[ $folder != / ]]; do
        if [[ -f $folder/Cargo.toml && $(<$folder/Cargo.toml) == *'[workspace.metadata.e2e]'* ]]; then
            target=${CARGO_TARGET_DIR:-$folder/target}
            [[ -x $target/debug/xtask ]] && print -r -- $target/debug/xtask
            return
        fi
        folder=${folder:h}
    done
}

_phase_zero_cargo() {
    local at=2 tool
    [[ $words[2] == +* ]] && at=3
    if (( CURRENT <= at )) || [[ $words[at] != xtask ]]; then
        ${_phase_zero_before:-_default} "$@"
        return
    fi
    tool=$(_phase_zero_tool)
    [[ -n $tool ]] || return 1
    local -a found folders
    found=("${(@f)$(
        _CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$(( CURRENT - at )) XTASK_COMPLETE=zsh \
            $tool -- "${(@)words[at,CURRENT]}" 2>/dev/null
    )}")
    folders=(${${(M)found:#*/}%/})
    found=(${found:#*/})
    (( $#folders )) && _describe -V 'folders' folders -S / -r /
    (( $#found )) && _describe -V 'values' found
}

if (( ! $+functions[compdef] )); then
    autoload -Uz compinit && compinit
fi
if [[ ${_comps[cargo]} != _phase_zero_cargo ]]; then
    typeset -g _phase_zero_before=${_comps[cargo]}
    compdef _phase_zero_cargo cargo
fi
"#;

const FISH: &str = r#"# Completes `cargo xtask` in fish. Made by `cargo xtask completions fish`.

# The tool of the checkout that holds the current folder, if it is built.
function __phase_zero_tool
    set -l folder $PWD
    while test -n "$folder"
        if test -f $folder/Cargo.toml; and string match --quiet '[workspace.metadata.e2e]' <$folder/Cargo.toml
            set -l target $folder/target
            set --query CARGO_TARGET_DIR[1]; and set target $CARGO_TARGET_DIR
            test -x $target/debug/xtask; and echo $target/debug/xtask
            return
        end
        set folder (string replace --regex '/[^/]*$' '' $folder)
    end
end

# The words before the one that is typed, without `cargo` and a toolchain.
function __phase_zero_words
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set --erase words[1]
    string match --quiet -- '+*' $words[1]; and set --erase words[1]
    string join0 -- $words
end

function __phase_zero_is_asked
    set -l words (__phase_zero_words | string split0)
    test "$words[1]" = xtask
end

function __phase_zero_answer
    set -l words (__phase_zero_words | string split0)
    set -l tool (__phase_zero_tool)
    test -n "$tool"; and XTASK_COMPLETE=fish $tool -- $words (commandline --current-token --cut-at-cursor) 2>/dev/null
end

# Beside what completes cargo: fish asks all that know a command.
complete --command cargo --condition __phase_zero_is_asked --no-files --keep-order --arguments '(__phase_zero_answer)'
complete --command cargo --condition '__fish_is_first_token; and test -n (__phase_zero_tool)' --arguments xtask
"#;
