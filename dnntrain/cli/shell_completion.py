"""Write static scripts that complete commands, choices and keys in a shell.

The script itself contains the words, so that TAB starts no Python: a line of commands, one of keys,
and for each group its choices. Completing `optim=` offers the choices of optim; `optim.` the
options of all its choices; `opti` both of these. Imports neither hydra nor torch.
"""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from dnntrain.cli.command_table import COMMAND_SPELLINGS, COMMANDS, COMMON_OPTIONS
from dnntrain.config.groups import LISTS, VISIBLE
from dnntrain.config.key_table import get_root_fields, get_section_fields
from dnntrain.config.registry import Registry
from dnntrain.config.run_config import SECTIONS

SHELLS = ("bash", "zsh", "fish")


def collect_flags(name: str) -> list[str]:
    """Return the options of a command: --name, --name=, or --name=VALUE for each of few values."""
    command = COMMANDS[name]
    flags = []
    for option in (*COMMON_OPTIONS, *COMMAND_SPELLINGS, *command.options):
        if option.is_switch:
            flags += [flag for flag in option.flags if flag.startswith("--")]
        else:
            flags += [f"--{option.name}={value}" for value in option.choices or ("",)]
    return list(dict.fromkeys(flags))


def collect_words(choice_registry: Registry) -> list[str]:
    """Return every word that can follow, in alphabetical order.

    The words are GROUP=CHOICE and KEY= (KEY=VALUE if the values are few).
    """
    words = [f"{name}=" for name in get_root_fields()]
    for section in SECTIONS:
        for name, option in get_section_fields(section).items():
            words += _format_settings(f"{section}.{name}", option.type)
    for group in VISIBLE:
        names = choice_registry.list_names(group)
        words += [f"+{group}=[{name}]" if group in LISTS else f"{group}={name}" for name in names]
        for choice in choice_registry.get_choices(group).values():
            if choice.module_path is not None:
                for name, option in choice.schema.fields.items():
                    words += _format_settings(f"{choice.key}.{name}", option.type)
    return sorted(set(words))


def _format_settings(key: str, annotation: object) -> list[str]:
    if annotation is bool:
        return [f"{key}=true", f"{key}=false"]
    if get_origin(annotation) is Literal:
        return [f"{key}={option}" for option in get_args(annotation)]
    return [f"{key}="]


def render_bash(words: list[str]) -> str:
    # Readline splits words at `=`, so the text before it is removed from the candidates. Keys are
    # completed level by level, as folders are.
    flags = "\n".join(f'_dnntrain_flags_{name}="{" ".join(collect_flags(name))}"' for name in COMMANDS)
    return f"""# bash completion of dnntrain: eval "$(dnntrain completion bash)"
_dnntrain_commands="{" ".join(COMMANDS)}"
{flags}
_dnntrain_words="{" ".join(words)}"
_dnntrain() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" word candidate before rest IFS=$' \\t\\n'
  word="${{line##*[[:space:]]}}"
  COMPREPLY=()
  local candidates="$_dnntrain_words"
  case "$word" in
    -*)
      candidates="$_dnntrain_flags_train"
      for candidate in $line; do
        [[ " $_dnntrain_commands " == *" $candidate "* ]] || continue
        before="_dnntrain_flags_$candidate"; candidates="${{!before}}"; break
      done ;;
    *) [[ "$line" =~ [[:space:]].*[[:space:]] ]] || candidates="$_dnntrain_commands $_dnntrain_words" ;;
  esac
  if [[ "$line" =~ ^[^[:space:]]+[[:space:]]+completion[[:space:]] ]]; then candidates="{" ".join(SHELLS)}"; fi
  before=""
  if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then before="${{word%%=*}}="; fi
  local seen=" "
  local -a list
  read -r -a list <<< "$candidates"
  for candidate in "${{list[@]}}"; do
    [[ "$candidate" == "$word"* ]] || continue
    if [[ "$word" != *=* && "$candidate" == *=?* ]]; then candidate="${{candidate%%=*}}="; fi
    rest="${{candidate#"$word"}}"
    if [[ "$word" != *=* && "$rest" == *.* ]]; then candidate="$word${{rest%%.*}}."; fi
    [[ "$seen" == *" $candidate "* ]] && continue
    seen+="$candidate "
    COMPREPLY+=("${{candidate#"$before"}}")
  done
  if [[ ${{#COMPREPLY[@]}} -eq 0 && "$word" != *=* ]]; then
    while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -f -- "$word")
  fi
  if [[ ${{#COMPREPLY[@]}} -eq 1 && "${{COMPREPLY[0]}}" == *[=.] ]]; then compopt -o nospace 2>/dev/null; fi
  return 0
}}
complete -F _dnntrain dnntrain"""


def render_zsh(words: list[str]) -> str:
    cases = "\n".join(f"    {name}) flags=({' '.join(collect_flags(name))}) ;;" for name in COMMANDS)
    return f"""#compdef dnntrain
# zsh completion of dnntrain: eval "$(dnntrain completion zsh)"
_dnntrain() {{
  local -a commands flags settings shells
  commands=({" ".join(COMMANDS)})
  case "$words[2]" in
{cases}
    *) flags=({" ".join(collect_flags("train"))}) ;;
  esac
  shells=({" ".join(SHELLS)})
  settings=({" ".join(f"'{word}'" for word in words)})
  if [[ "$words[2]" == completion ]]; then compadd -- $shells; return; fi
  if [[ "$PREFIX" == -* ]]; then compadd -- $flags; return; fi
  (( CURRENT == 2 )) && compadd -- $commands
  compadd -S '' -- $settings
  _files
}}
(( $+functions[compdef] )) && compdef _dnntrain dnntrain"""


def render_fish(words: list[str]) -> str:
    lines = ["# fish completion of dnntrain: dnntrain completion fish > ~/.config/fish/completions/dnntrain.fish"]
    lines += [
        f"complete -c dnntrain -n __fish_use_subcommand -a {name} -d '{command.doc.replace(chr(39), '')}'"
        for name, command in COMMANDS.items()
    ]
    lines += [f"complete -c dnntrain -n '__fish_seen_subcommand_from completion' -f -a '{' '.join(SHELLS)}'"]
    lines += [f"complete -c dnntrain -l {option.name}" for option in (*COMMON_OPTIONS, *COMMAND_SPELLINGS)]
    for name in COMMANDS:
        for option in COMMANDS[name].select_options().values():
            values = "" if option.is_switch else f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r"
            lines.append(f"complete -c dnntrain -n '__fish_seen_subcommand_from {name}' -l {option.name}{values}")
    lines += [f"complete -c dnntrain -a '{word}'" for word in words]
    return "\n".join(lines)


#: shell → function of the words that returns its script.
RENDERERS = {"bash": render_bash, "zsh": render_zsh, "fish": render_fish}
