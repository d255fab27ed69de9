"""`mlx-gateway completion SHELL`: what a shell needs to complete our words, made from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")
_PROGRAM: Final = "mlx-gateway"


def words_of(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """What may follow each command: its options, choices and commands below it; "" is the program itself."""
    return dict(_walk(parser, ""))


def _walk(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, list[str]]]:
    words: list[str] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            words += action.choices
            for name, below in action.choices.items():
                yield from _walk(below, f"{path} {name}".strip())
        elif not action.option_strings and action.choices:
            words += map(str, action.choices)
    yield path, words


def render_completion(parser: argparse.ArgumentParser, shell: str) -> str:
    return _RENDERERS[shell](words_of(parser))


def _bash(words: Mapping[str, list[str]]) -> str:
    cases = "\n".join(f"    '{path}') words='{' '.join(found)}' ;;" for path, found in words.items() if path)
    return f"""_mlx_gateway() {{
  local path='' words='{" ".join(words[""])}' word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case $word in -*) ;; *) path="${{path:+$path }}$word" ;; esac
    case $path in
{cases}
    esac
  done
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
  [[ ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o filenames -F _mlx_gateway {_PROGRAM}
"""


def _zsh(words: Mapping[str, list[str]]) -> str:
    return f"#compdef {_PROGRAM}\nautoload -U +X bashcompinit && bashcompinit\n{_bash(words)}"


def _fish(words: Mapping[str, list[str]]) -> str:
    commands = [word for word in words[""] if not word.startswith("-")]
    lines = [f"complete -c {_PROGRAM} -n __fish_use_subcommand -f -a '{' '.join(commands)}'"]
    for path, found in words.items():
        if path and found:
            seen = " ; and ".join(f"__fish_seen_subcommand_from {word}" for word in path.split())
            lines.append(f"complete -c {_PROGRAM} -n '{seen}' -a '{' '.join(found)}'")
    return "\n".join(lines) + "\n"


_RENDERERS: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}
