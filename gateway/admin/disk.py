"""Models on this machine's disk: what lies there, what is fetched from the hub, and what is deleted.

Fetching is `mlx-gateway pull` as a process of its own: the hub's package takes seconds to import, blocks, and goes on
from whole files when it is asked again.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from gateway.admin.merging import known
from gateway.command.pulling import local
from gateway.command.pulling.plan import Machine, fit_of, fit_with, most_tokens
from gateway.dispatch.tasks import cancel_all
from shared.cache_size import CacheSize
from shared.config import Settings, child_environment, model_folders
from shared.errors import ConfigError, InvalidRequestError, RouteNotFoundError
from shared.log import last_lines, log_size
from shared.processes import GuardedProcess
from shared.registry import Fleet

_ID: Final = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")  # MAKER/MODEL, and no option of a command line
_PULL: Final = (sys.executable, "-P", "-m", "gateway.command.cli", "pull")
CONTEXTS: Final = (8_192, 32_768, 65_536, 131_072, 262_144)  # tokens of a conversation that a person may choose
_MOST_AT_ONCE: Final = 3
_GRACE_S: Final = 2.0
_PLAN_S: Final = 60.0

PullState = Literal["fetching", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """`reason` says why it failed, or where it lies."""

    total_bytes: int
    began_s: float
    state: PullState = "fetching"
    reason: str = ""


class Pulls:
    """Of one gateway's machine. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pulls: dict[str, Pull] = {}
        self._processes: dict[str, GuardedProcess] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def stamp(self) -> object:
        """Changes each second while something is fetched."""
        return tuple(self._pulls.values()), int(time.monotonic()) if self._processes else 0

    async def plan(self, model: str, quantization: str) -> Mapping[str, Any]:
        """What would be fetched: `size_bytes`, and `lines` for a person. Raises `ConfigError` for what the hub has not,
        or what has no room here, and `InvalidRequestError`."""
        if _ID.fullmatch(model) is None or re.fullmatch(r"\w*", quantization) is None:
            raise InvalidRequestError("`model` is MAKER/MODEL as the hub names it", param="model")
        words = _pull_command("--json", model, quantization)
        status, out, err = await _run(words, child_environment(self._settings))
        if status != 0:
            raise ConfigError(_last_line(err).removeprefix("mlx-gateway: "))
        plan: Mapping[str, Any] = orjson.loads(out)
        return plan

    async def search(self, words: str) -> Mapping[str, Any]:
        """Models of the hub with these words in their names. Raises `ConfigError`."""
        command = [*_PULL, "--json", f"--search={words}"]
        status, out, err = await _run(command, child_environment(self._settings))
        if status != 0:
            raise ConfigError(_last_line(err).removeprefix("mlx-gateway: "))
        found: Mapping[str, Any] = orjson.loads(out)
        return found

    async def start(self, model: str, quantization: str) -> Mapping[str, Any]:
        """As `plan`, and it is fetched from now on; one that is fetched already goes on so."""
        plan = await self.plan(model, quantization)
        if model in self._processes:
            return {**plan, "lines": [f"{model} is fetched already"]}
        if len(self._processes) >= _MOST_AT_ONCE:
            raise InvalidRequestError(f"{_MOST_AT_ONCE} models are fetched already: wait for one, or cancel one")
        log = self._settings.state_dir / "logs" / "pull.log"
        since = log_size(log)
        words, environment = _pull_command("--yes", model, quantization), child_environment(self._settings)
        process = GuardedProcess(words, env=environment, log=log, grace_s=_GRACE_S)
        self._pulls[model] = Pull(total_bytes=plan["size_bytes"], began_s=time.time())
        self._processes[model] = process
        self._tasks[model] = asyncio.get_running_loop().create_task(self._follow(model, process, log, since))
        return plan

    async def _follow(self, model: str, process: GuardedProcess, log: Path, since: int) -> None:
        status = await process.ended()
        words = await asyncio.to_thread(last_lines, log, since_byte=since)
        del self._processes[model], self._tasks[model]
        if self._pulls[model].state == "fetching":
            state: PullState = "done" if status == 0 else "failed"
            self._pulls[model] = replace(self._pulls[model], state=state, reason=_last_line(words))

    def cancel(self, model: str) -> str:
        """Whole files stay, and are not fetched again. Raises `RouteNotFoundError`."""
        process = self._processes.get(model)
        if process is None:
            raise RouteNotFoundError(f"{model[:100]!r} is not fetched now")
        self._pulls[model] = replace(self._pulls[model], state="cancelled", reason="the same goes on with it")
        process.terminate()
        return f"{model} is not fetched any more"

    def is_fetched(self, model: str) -> bool:
        return model in self._processes

    def render(self) -> Mapping[str, Any]:
        """Reads folders."""
        return {"pulls": {model: _told(model, pull) for model, pull in self._pulls.items()}}

    async def aclose(self) -> None:
        for process in self._processes.values():
            process.terminate()
        await cancel_all(self._tasks.values())


async def _run(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Its status and what it said. Raises `ConfigError` when it says nothing for too long."""
    none, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, env=environment, stdin=none, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(_PLAN_S):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise ConfigError(f"the hub has not answered for {_PLAN_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


def _pull_command(flag: str, model: str, quantization: str) -> list[str]:
    wanted = ["--quantization", quantization] if quantization else []
    return [*_PULL, flag, *wanted, model]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _told(model: str, pull: Pull) -> dict[str, Any]:
    fetched = pull.total_bytes if pull.state == "done" else min(pull.total_bytes, fetched_bytes(model))
    return known(
        state=pull.state,
        fetched_bytes=fetched,
        total_bytes=pull.total_bytes,
        began_s=pull.began_s,
        reason=pull.reason or None,
    )


def fetched_bytes(model: str) -> int:
    """Of the model's files in the hub's cache, parts of them too."""
    (cache, *_), _ = model_folders()
    blobs = cache / f"models--{model.replace('/', '--')}" / "blobs"
    try:
        return sum(path.stat().st_size for path in blobs.iterdir())
    except OSError:  # not there yet, or a part that was just made whole
        return 0


def with_fits(plan: Mapping[str, Any], fleet: Fleet) -> dict[str, Any]:
    """A plan, with whether its model runs on each Mac whose memory is known: `fit` of weights alone, and in `contexts`
    with a conversation of so many tokens, where what its cache takes is known."""
    sizes = {host.host: int(host.figures.get("memory_total_bytes", 0)) for host in fleet.hosts}
    machines = {host: Machine(memory_bytes=size, disk_bytes=0) for host, size in sizes.items() if size}
    told = {name: value for name, value in plan.items() if name != "cache"}
    cache = CacheSize(**plan["cache"]) if plan.get("cache") else None
    fits = [{"host": host, **_fit(plan["size_bytes"], cache, machine)} for host, machine in machines.items()]
    return {**told, "fits": fits}


def _fit(size_bytes: int, cache: CacheSize | None, machine: Machine) -> dict[str, Any]:
    told: dict[str, Any] = {"fit": fit_of(size_bytes, machine), "usable_bytes": round(machine.usable_bytes)}
    if cache is None:
        return told
    contexts = [
        {"tokens": each, "cache_bytes": cache.predict(each), "fit": fit_with(size_bytes, cache, each, machine)}
        for each in CONTEXTS
    ]
    return {**told, "contexts": contexts, "most_tokens": most_tokens(size_bytes, cache, machine)}


def render_local(fleet: Fleet) -> Mapping[str, Any]:
    """Reads the folders of models."""
    served = _served(fleet)
    return {"models": {each.id: _lying(each, is_served=_is_served(each, served)) for each in local.find_local()}}


def _lying(model: local.LocalModel, *, is_served: bool) -> dict[str, Any]:
    return {
        "place": model.place,
        "kind": model.kind,
        "size_bytes": model.size_bytes,
        "is_whole": model.is_whole,
        "is_served": is_served,
    }


def delete(name: str, fleet: Fleet) -> str:
    """Raises `ConfigError` where there is none, and `InvalidRequestError` where it is served."""
    model = local.named(name)
    if _is_served(model, _served(fleet)):
        raise InvalidRequestError(f"{model.id} is served: take it out of models.json, or stop what serves it, first")
    local.remove(model)
    return f"{model.id} is deleted: {model.size_bytes / 1e9:.2f} GB"


def _served(fleet: Fleet) -> set[str]:
    return {record.source for host in fleet.hosts for record in host.models}


def _is_served(model: local.LocalModel, sources: Iterable[str]) -> bool:
    """By its id, or by a path to it or into it."""
    return any(source == model.id or Path(source).is_relative_to(model.path) for source in sources)
