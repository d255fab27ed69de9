"""What a `command` of `remotes.json` may start, and what it is given that a person has not said. Pure.

What is started here listens here alone, shows no page and writes down nobody's prompts. Some programs listen on every
interface, without any key, where nobody says otherwise: they are told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

HERE: Final = ("127.0.0.1", "localhost", "::1")
_HOST: Final = ("--host", "--bind")  # of every program that is known to have such a flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A server that is known by its name. `verb` is the word behind which its flags stand; `host` and `port` are its
    flags for where it listens (empty: it listens here by itself, or is told elsewhere), `more` what it is given unless
    one of `unless` stands there; `logs` are flags that write prompts into a file, `hidden` words behind which flags
    cannot be seen."""

    verb: str = ""
    host: str = ""
    port: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


# https://github.com/EricLBuehler/mistral.rs (mistralrs-cli), https://github.com/waybarrios/vllm-mlx,
# https://github.com/madroidmaq/mlx-omni-server. An architecture is found by mistral.rs itself.
_PROGRAMS: Final[Mapping[str, Program]] = {
    "mistralrs": Program(
        verb="serve",
        host="--host",
        port=("--port", "-p"),
        more=("--no-ui",),
        unless=("--no-ui", "--ui"),
        logs=("--log", "-l"),
        hidden=("from-config",),
    ),
    "mistralrs-server": Program(host="--serve-ip", port=("--port", "-p"), logs=("--log", "-l"), hidden=("toml",)),
    "vllm-mlx": Program(verb="serve", host="--host", port=("--port",)),
    "mlx-omni-server": Program(host="--host", port=("--port",)),
}


def completed(command: Sequence[str], port: int | None) -> tuple[str, ...]:
    """The command with what is not left to a known program: that it listens on this machine alone, at `port`."""
    words = tuple(command)
    place, program = _find(words)
    if program is None or (program.verb and program.verb not in words[place:]):
        return words
    said: list[str] = []
    if program.host and not _values(words, (program.host,)):
        said += [program.host, HERE[0]]
    if program.port and port and not _values(words, program.port):
        said += [program.port[0], str(port)]
    if not any(word in program.unless for word in words):
        said += program.more
    at = words.index(program.verb, place) + 1 if program.verb else place + 1
    return (*words[:at], *said, *words[at:])


def command_faults(command: Sequence[str], host: str, where: str) -> Iterator[str]:
    """`host` is that of the `url` under which the started server is asked."""
    if not command:
        yield f"{where}: `command` is a program and its arguments, each a text"
        return
    if host not in HERE:
        yield f"{where}: what `command` starts is asked on this machine: `url` is to name 127.0.0.1"
    words = [part for word in command for part in word.split()]  # also those that a shell is given
    name, program = _named(words)
    flags = (*_HOST, program.host) if program and program.host else _HOST
    for told in _values(words, flags):
        if told not in HERE:
            yield f"{where}: `command` lets the whole network in at {told}: what is started here listens on 127.0.0.1"
    if program is not None:
        yield from _log_faults(words, name, program, where)


def _log_faults(words: Sequence[str], name: str, program: Program, where: str) -> Iterator[str]:
    if found := [word for word in words if _is_flag(word, program.logs)]:
        yield f"{where}: `{found[0]}` of {name} writes whole prompts into a file; leave it out"
    if found := [word for word in words if word in program.hidden]:
        yield (
            f"{where}: what the file behind `{found[0]}` of {name} switches on, such as a log of whole prompts, is not "
            f"seen here; write its flags into `command`"
        )


def _find(words: Sequence[str]) -> tuple[int, Program | None]:
    """Of the first word that names a known program, perhaps behind another that starts it (`env`, `nice`)."""
    for place, word in enumerate(words):
        if (program := _PROGRAMS.get(PurePath(word).name)) is not None:
            return place, program
    return -1, None


def _named(words: Sequence[str]) -> tuple[str, Program | None]:
    place, program = _find(words)
    return (PurePath(words[place]).name if program else ""), program


def _is_flag(word: str, flags: Sequence[str]) -> bool:
    """`--log`, `--log=FILE`, `-l` and `-lFILE`."""
    return any(
        word == flag or word.startswith(f"{flag}=") or (len(flag) == 2 and word.startswith(flag)) for flag in flags
    )


def _values(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Of a flag, behind it or behind `=`; of a short one also without anything between."""
    found = []
    for place, word in enumerate(words):
        flag = next((each for each in flags if _is_flag(word, (each,))), None)
        if flag is not None:
            rest = word[len(flag) :].removeprefix("=")
            found.append(rest or next(iter(words[place + 1 : place + 2]), ""))
    return found
