"""Keys and hosts, as administrators see them: never a secret."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gateway.admin.merging import known
from gateway.door.listing import list_hosts
from gateway.keys.file import KeyFile
from gateway.keys.record import KeyRecord
from gateway.keys.usage import Used, read_usage
from shared.config import Settings


def render_keys(settings: Settings, keys: KeyFile) -> dict[str, Any]:
    """Reads files. `owner` is whether the simplest form, `MLX_GATEWAY_API_KEY`, is set."""
    used = read_usage(settings.state_dir)
    today = datetime.fromtimestamp(time.time(), UTC).date().isoformat()
    told = {
        f"{each.name} {each.shown}": _key(each, [one for one in used if one.key == each.name], today)
        for each in keys.records()
    }
    return {"owner": bool(settings.api_key), "fault": keys.fault, "keys": told}


def _key(record: KeyRecord, used: list[Used], today: str) -> dict[str, Any]:
    todays = [each for each in used if each.day == today]
    return known(
        name=record.name,
        shown=record.shown,
        state=record.state(time.time()),
        role=record.role,
        tenant=record.tenant or record.name,
        models=list(record.models),
        ceiling=record.ceiling,
        quota=asdict(record.quota),
        created_s=record.created_s,
        expires_s=record.expires_s,
        revoked_s=record.revoked_s,
        last_used=max((each.day for each in used), default=None),
        requests_today=sum(each.requests for each in todays),
        tokens_today=sum(each.input_tokens - each.cached_tokens + each.output_tokens for each in todays),
    )


def render_hosts(settings: Settings, living: Collection[str]) -> dict[str, Any]:
    """Reads files; `living` are words of names."""
    return {"hosts": {each["name"]: each for each in list_hosts(settings, living)}}
