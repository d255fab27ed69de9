"""What names stand for: tiers, aliases, fallbacks, profiles and remotes, and the files that say so."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gateway.admin.merging import known
from gateway.admin.settings_files import NAMES, SettingsEditor
from gateway.dialects.registry import TIERS
from gateway.models.rules import Rule
from gateway.models.settings_files import Policies
from shared.config import Settings, SettingsFile, environment_name
from shared.errors import ConfigError
from shared.remotes import FILE, Remote, parse_remotes
from shared.routing import Target


def render_table(policies: Policies, dead: frozenset[str]) -> dict[str, Any]:
    """`dead` are names that lead nowhere, a line each."""
    routes = policies.routes()
    return {
        "tiers": {tier: _tier(routes.tiers.get(tier)) for tier in (*TIERS, *sorted(routes.tiers.keys() - {*TIERS}))},
        "aliases": dict(routes.aliases),
        "fallbacks": {
            name: {"models": list(each.models), "on": sorted(each.on), "cool_down_s": each.cool_down_s}
            for name, each in policies.fallbacks().items()
        },
        "rules": [_rule(each) for each in policies.rules()],
        "profiles": sorted(routes.profiles),
        "default_model": {"model": routes.default_model, "set_by": environment_name("default_model")},
        "faults": list(policies.faults()),
        "dead": sorted(dead),
    }


def render_files(settings: Settings, editor: SettingsEditor) -> dict[str, Any]:
    """Reads them."""
    files = {name: _file(editor, name) for name in NAMES}
    return {"remotes": _remotes(settings), "files": files, "writable": editor.is_writable}


def _tier(target: Target | None) -> dict[str, str]:
    return {} if target is None else {name: value for name, value in asdict(target).items() if value}


def _rule(rule: Rule) -> dict[str, Any]:
    """What it says."""
    unsaid = asdict(Rule(number=0, model=""))
    return {name: value for name, value in asdict(rule).items() if value != unsaid[name] or value is False}


def _file(editor: SettingsEditor, name: str) -> dict[str, Any]:
    try:
        there = editor.read(name)
        return {"text": there.text, "tag": there.tag, "undo": editor.undoable(name, there.tag)}
    except ConfigError as error:
        return {"text": "", "tag": "", "undo": 0, "fault": str(error)}


def _remotes(settings: Settings) -> dict[str, Any]:
    """Never their keys."""
    try:
        remotes = parse_remotes(SettingsFile(settings, FILE).load())
    except ConfigError as error:
        return {"": {"fault": str(error)}}
    return {each.id: _remote(each) for each in remotes}


def _remote(remote: Remote) -> dict[str, Any]:
    has_key = bool(remote.key or remote.key_env)
    return known(source=remote.source, profile=remote.profile or None, tools=remote.tools, keyed=has_key)
