"""`mlx-gateway key create|list|revoke|usage`."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.command.ends import not_there
from gateway.keys.file import KeyFile
from gateway.keys.holder import ROLES, Quota
from gateway.keys.making import Wish, add_key, revoke_key
from gateway.keys.record import KeyRecord
from gateway.keys.usage import Used, read_usage
from shared.config import Settings
from shared.errors import ConfigError
from shared.request import PRIORITIES

_OWNER: Final = "(owner)"  # in lists: the key of MLX_GATEWAY_API_KEY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders may be named behind the action as well."""
    folders = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for name in ("--config", "--state"):
        folders.add_argument(name, type=Path, metavar="DIR", help=argparse.SUPPRESS)
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and print it, once", parents=[folders])
    create.add_argument("name", help="who has it; shown in lists, logs and metrics")
    create.add_argument("--role", choices=ROLES, default="user", help="what it may do (user)")
    create.add_argument("--models", metavar="M,...", help="patterns of the models it may use (all)")
    create.add_argument("--tenant", default="", help="whose caches and stored answers it shares (its own)")
    create.add_argument(
        "--class", dest="ceiling", choices=PRIORITIES, default="interactive", help="the best it may have"
    )
    create.add_argument("--requests-per-minute", type=int, default=0, metavar="N", help="0: no limit, as for tokens")
    create.add_argument("--tokens-per-minute", type=int, default=0, metavar="N", help="computed ones, not cached")
    create.add_argument("--tokens-per-day", type=int, default=0, metavar="N")
    create.add_argument("--expires", metavar="DURATION", help="such as 12h or 30d (never)")
    actions.add_parser("list", help="show all keys, never themselves", parents=[folders])
    actions.add_parser("revoke", help="lock a key out at once", parents=[folders]).add_argument("name")
    usage = actions.add_parser("usage", help="show what each key used, by day and model", parents=[folders])
    usage.add_argument("--csv", action="store_true", help="as comma-separated values")


def run_key(settings: Settings, options: argparse.Namespace) -> int:
    """Raises `ConfigError`."""
    return _ACTIONS[options.action](settings, options)


def _create(settings: Settings, options: argparse.Namespace) -> int:
    file = KeyFile(settings.state_dir)
    is_first = not file.has_keys and not settings.api_key
    key, record = add_key(file, wish_of(options))
    print(key)
    print(f"this is the only time that the key of {record.name} is shown", file=sys.stderr)
    if is_first and record.role != "admin":
        print(_FIRST, file=sys.stderr)
    return 0


_FIRST: Final = (
    "from now on every request needs a key, yours too, and MLX_GATEWAY_API_KEY is not set here: set it where `up` "
    "starts, or make an owner's key with `mlx-gateway key create NAME --role admin`"
)


def wish_of(options: argparse.Namespace) -> Wish:
    quota = Quota(
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        tokens_per_day=options.tokens_per_day,
    )
    return Wish(
        name=options.name,
        role=options.role,
        tenant=options.tenant,
        models=() if options.models is None else _patterns(options.models),
        ceiling=options.ceiling,
        quota=quota,
        expires="" if options.expires is None else _duration(options.expires),
    )


def _patterns(text: str) -> list[str]:
    """Those between commas. An empty variable of a script must not open every model."""
    found = [pattern for pattern in (each.strip() for each in text.split(",")) if pattern]
    if not found:
        raise ConfigError(f"--models {text!r} names no model: without the option the key may use all")
    return found


def _duration(text: str) -> str:
    if not text:
        raise ConfigError("--expires '' is no duration: without the option the key never expires")
    return text


def _revoke(settings: Settings, options: argparse.Namespace) -> int:
    if missing := revoke_key(KeyFile(settings.state_dir), options.name):
        raise not_there(missing)
    print(f"{options.name} is revoked")
    return 0


def _list(settings: Settings, _: argparse.Namespace) -> int:
    records = KeyFile(settings.state_dir).records()
    last = {used.key: used.day for used in read_usage(settings.state_dir)}
    rows = [list_row(record, last.get(record.name, "never"), now_s=time.time()) for record in records]
    head = ("NAME", "KEY", "STATE", "ROLE", "MODELS", "LIMITS", "MADE", "LAST USED")
    print("\n".join(_table([head, *rows])) if rows else "there are no keys: mlx-gateway key create NAME")
    return 0


def list_row(record: KeyRecord, last_used: str, *, now_s: float) -> tuple[str, ...]:
    quota = {name.replace("_per_", "/"): most for name, most in asdict(record.quota).items() if most}
    limits = [f"{most} {name}" for name, most in quota.items()]
    if record.ceiling != "interactive":
        limits.append(f"class {record.ceiling}")
    return (
        record.name,
        f"{record.shown}...",
        record.state(now_s),
        record.role,
        ", ".join(record.models) or "all",
        ", ".join(limits) or "none",
        datetime.fromtimestamp(record.created_s, UTC).date().isoformat(),
        last_used,
    )


def _usage(settings: Settings, options: argparse.Namespace) -> int:
    names = tuple(each.name for each in fields(Used))
    rows = [
        tuple(str(value) for value in asdict(replace(used, key=used.key or _OWNER)).values())
        for used in read_usage(settings.state_dir)
    ]
    if options.csv:
        csv.writer(sys.stdout).writerows([names, *rows])
    else:
        head = tuple(name.upper().replace("_", " ") for name in names)
        print("\n".join(_table([head, *rows])) if rows else "nothing was used yet")
    return 0


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


_ACTIONS: Final[Mapping[str, Callable[[Settings, argparse.Namespace], int]]] = {
    "create": _create,
    "list": _list,
    "revoke": _revoke,
    "usage": _usage,
}
