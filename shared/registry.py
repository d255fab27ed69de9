"""What is served where: models, the workers that hold them and the hosts that may load them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from shared.cost import PrefillCost
from shared.durations import parse_keep_alive
from shared.keys import word
from shared.options import ENGINE_OPTIONS, Option, raise_first, value_faults

EngineName = Literal["mlx", "gguf", "remote", "embeddings", "transcription", "speech", "echo", "echo-streamed"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)
WorkerState = Literal["loading", "ready", "draining", "stalled"]
LoadPolicy = Literal["start", "on-demand"]
# What holds a model's weights in this machine's memory, and must ask for it before it loads them.
ENGINES_IN_MEMORY: frozenset[EngineName] = frozenset({"mlx", "gguf", "embeddings", "transcription", "speech"})
RestartCause = Literal["crash", "stall"]
ModelState = Literal["available", "loading", "ready", "unloaded", "no_memory", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model a host may serve. `source` is what the person named: a path or a Hugging Face id.

    `load` says when a worker is started for it: with the host, or when somebody asks for the model. It is unloaded when
    it has been idle for `keep_alive_s`, infinite where it never is, or when another needs its memory; but not while it
    is pinned. `hosts` are the words of those that serve it, all where it is empty; `copies` are the hosts that load it
    when it is asked for, 0 for all that can.
    """

    id: str
    source: str
    engine: EngineName = "mlx"
    options: dict[str, Any] = field(default_factory=dict)
    load: LoadPolicy = "start"
    keep_alive_s: float = math.inf
    is_pinned: bool = False
    hosts: tuple[str, ...] = ()
    copies: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What a process can read: wire versions, and codes of classes. Who writes to it keeps to them."""

    versions: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLease:
    """A live worker, as it says itself once a second.

    `epoch` is new at every start. `queues` are the RQ queues it serves, `kinds` the kinds of work it takes. Rates are
    tokens per second, 0 while unknown; `waiting_tokens` is uncached prompt not prefilled yet. `load_done` is 0..1 while
    loading. `made_at_s` is the model's date, as Unix time, 0 while unknown.

    What `place` decides on, classes in the order of `PRIORITIES`, seconds 0 while unknown: `reserved_places`
    are those beyond its capacity for the first class, `held` counts what it has claimed, `queued` the jobs in
    its own lists when `placed` jobs had ever been put there, `waiting_s` the predicted prefill of what it holds and has
    not prefilled, `prefill_s` is the mean prefill of a request and `service_s` the mean time from its start to its end,
    with its deviation. `beside` are the jobs in the lanes of kinds that are done beside the engine's batch. `template`
    is what a person should know of the model's chat template, by name. `prefill_pass_s` (seconds of each pass),
    `prefill_token_s` (of each token), `prefill_depth_s` (of each token per token before it) and `prefill_pass_tokens`
    (tokens of a whole pass) are what prefill costs here: `prefill_cost` holds them and predicts with them.
    Predictions of waits and prefills, alone and beside streams that decode, are to be multiplied by `wait_factor`,
    `prefill_factor` and `beside_factor`, as this worker has learned. `tokens_per_byte` is what the text of requests
    takes here, 0 while unknown, and `restore_tokens_per_s` how fast prefixes come from disk, 0 while that is not known
    to take any time. What is kept takes
    `kept_bytes_per_token` in files, 0 while it is kept in none; `link_bytes_per_s` is how fast files of other hosts, by
    their words, came here; 0 where they lately did not. `notes` are what a person should know of how it is going.
    `identity` sums up the model's files, the same wherever they lie, empty while unknown; `own_model` is filled in by a
    gateway that tells models of one name apart. `relays` is the dialect whose bodies it passes on as they are, to a
    server that speaks it; empty where it passes on none.
    """

    worker: str
    model: str
    host: str
    pid: int
    epoch: str
    state: WorkerState
    queues: tuple[str, ...] = ()
    engine: str = ""
    context_tokens: int = 0
    capacity: int = 0
    in_flight: int = 0
    waiting_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    supports_tools: bool = False
    supports_reasoning: bool = False
    supports_images: bool = False
    load_done: float = 0.0
    cache_bytes: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    made_at_s: int = 0
    reserved_places: int = 0
    held: tuple[int, ...] = ()
    queued: tuple[int, ...] = ()
    placed: int = 0
    waiting_s: tuple[float, ...] = ()
    prefill_s: float = 0.0
    service_s: float = 0.0
    service_deviation_s: float = 0.0
    reader: Reader = field(default_factory=Reader)
    template: dict[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("generate", "count")
    beside: dict[str, int] = field(default_factory=dict)
    prefill_pass_s: float = 0.0
    prefill_token_s: float = 0.0
    prefill_depth_s: float = 0.0
    prefill_pass_tokens: int = 0
    notes: tuple[str, ...] = ()
    wait_factor: float = 1.0
    prefill_factor: float = 1.0
    beside_factor: float = 1.0
    tokens_per_byte: float = 0.0
    restore_tokens_per_s: float = 0.0
    kept_bytes_per_token: float = 0.0
    link_bytes_per_s: dict[str, float] = field(default_factory=dict)
    identity: str = ""
    own_model: str = ""
    relays: str = ""

    @property
    def own_id(self) -> str:
        """The model's id on the worker's own host, which its lists and files are named after."""
        return self.own_model or self.model

    @property
    def prefill_cost(self) -> PrefillCost:
        """What prefill costs here; not `is_known` while nothing was measured."""
        return PrefillCost(
            pass_s=self.prefill_pass_s,
            token_s=self.prefill_token_s,
            depth_s=self.prefill_depth_s,
            pass_tokens=self.prefill_pass_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One model as a host sees it. `reason` says why it failed or has no memory; `source` is the path or id behind it;
    `made_at_s` is its date, as Unix time, 0 while unknown.

    `available` waits to be asked for, `unloaded` too, and was loaded before. `no_memory` is tried again when somebody
    asks for it or when memory is freed: its weights need `needed_bytes` (0 before that is known), other models leave
    `free_bytes` of the `limit_bytes` that all may use together. `load_s` is how long it took to load it here last.
    """

    id: str
    state: ModelState
    source: str = ""
    reason: str = ""
    load_done: float = 0.0
    made_at_s: int = 0
    needed_bytes: int = 0
    free_bytes: int = 0
    limit_bytes: int = 0
    is_pinned: bool = False
    restarts: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    load_s: float = 0.0

    @property
    def is_hopeless(self) -> bool:
        """Whether asking for it is of no use until its files or the settings change."""
        return self.state == "failed" or (self.state == "no_memory" and self.needed_bytes > self.limit_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """A host that lives. `files` is where other hosts may read what is kept here (host:port, or `cache_door.BY_DOOR`),
    empty where they may not; `is_draining`: it takes no work any more, and will leave. `instance` is new at
    every start, which was at `since_s` (Unix time), on this `machine`."""

    host: str
    pid: int
    models: tuple[ModelRecord, ...] = ()
    reader: Reader = field(default_factory=Reader)
    figures: dict[str, float] = field(default_factory=dict)  # see `shared.worker_metrics.HOST_FIGURES`
    faults: tuple[str, ...] = ()  # of its settings files, whose last good content stays in force
    files: str = ""
    is_draining: bool = False
    instance: str = ""
    since_s: float = 0.0
    machine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRecord:
    """A gateway process that lives, as it says itself. `address` is its host and port, `faults` are those of its
    settings files, whose last good content stays in force."""

    gateway: str
    pid: int
    reader: Reader = field(default_factory=Reader)
    address: str = ""
    faults: tuple[str, ...] = ()


StrangerKind = Literal["worker", "host", "gateway"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """Somebody alive with whom this process cannot speak, and why. It gets no work."""

    kind: StrangerKind
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A snapshot of everything alive. The gateway decides on this and keeps nothing else."""

    workers: tuple[WorkerLease, ...] = ()
    hosts: tuple[HostRecord, ...] = ()
    gateways: tuple[GatewayRecord, ...] = ()
    strangers: tuple[Stranger, ...] = ()

    def faults(self) -> dict[str, tuple[str, ...]]:
        """What is wrong with settings files, and the hosts and gateways that say so."""
        told: dict[str, tuple[str, ...]] = {}
        for name, faults in (
            *((h.host, h.faults) for h in self.hosts),
            *((g.gateway, g.faults) for g in self.gateways),
        ):
            for fault in faults:
                told[fault] = (*told.get(fault, ()), name)
        return told

    def with_missing(self, before: Fleet) -> Fleet:
        """With the workers and hosts that were there before and are not here."""
        workers, hosts = {w.worker for w in self.workers}, {h.host for h in self.hosts}
        return replace(
            self,
            workers=(*self.workers, *(w for w in before.workers if w.worker not in workers)),
            hosts=(*self.hosts, *(h for h in before.hosts if h.host not in hosts)),
        )

    def ready_workers(self, model: str) -> tuple[WorkerLease, ...]:
        """Who can answer for the model: who has it under this name, and who has the same files under another."""
        same = {w.identity for w in self.workers if w.model == model and w.identity}
        return tuple(w for w in self.workers if w.state == "ready" and (w.model == model or w.identity in same))

    def model_ids(self) -> tuple[str, ...]:
        """Every model that can be asked for, those of failed loads left out, in stable order."""
        ids = {w.model: None for w in self.workers}
        for record in (m for h in self.hosts for m in h.models):
            if not record.is_hopeless:
                ids[record.id] = None
        return tuple(sorted(ids))

    def made_at_s(self, model: str) -> int:
        """The model's date, the earliest where machines differ; 0 when nobody knows it."""
        dates = [w.made_at_s for w in self.workers if w.model == model]
        dates += [m.made_at_s for h in self.hosts for m in h.models if m.id == model]
        return min((date for date in dates if date), default=0)

    def failure(self, model: str) -> str:
        """Why no host could load the model; empty when one has it or nobody tried."""
        if any(w.model == model for w in self.workers):
            return ""
        records = [m for h in self.hosts for m in h.models if model in (m.id, m.source)]
        if any(not m.is_hopeless for m in records):
            return ""
        return next((m.reason for m in records), "")

    def without_memory(self, model: str) -> ModelRecord | None:
        """What a host says that has no memory for the model; None when it is had somewhere, or may be soon."""
        records = [m for h in self.hosts for m in h.models if model in (m.id, m.source)]
        if any(w.model == model for w in self.workers) or any(m.state not in ("no_memory", "failed") for m in records):
            return None
        return next((m for m in records if m.state == "no_memory"), None)


MODELS_FILE_KEYS = ("models", "keep_alive")
_KEEP_ALIVE: Final = Option(kind="keep_alive")
_LISTED: Final = Option(
    choices=tuple(name for name in ENGINE_NAMES if name != "remote"), note="servers elsewhere stand in remotes.json"
)
# Of an entry of `models.json`; what its `options` may say is in `ENGINE_OPTIONS`.
MODEL: Final[Mapping[str, Option]] = {
    "id": Option(),
    "source": Option(is_needed=True),
    "engine": _LISTED,
    "backend": _LISTED,
    "options": Option(kind="object"),
    "load": Option(choices=get_args(LoadPolicy)),
    "keep_alive": _KEEP_ALIVE,
    "pinned": Option(kind="flag"),
    "hosts": Option(kind="texts", is_needed=True, note="the names of those that serve it"),
    "copies": Option(kind="whole", most=10_000, note="of hosts; 0: all"),
}


def parse_models(data: Any) -> tuple[ModelSpec, ...]:
    """`models.json`: `{"keep_alive": …, "models": [{"id", "source", "engine", "options", "load", "keep_alive",
    "pinned", "hosts", "copies"} | "path-or-id", …]}`. `backend` is another word for `engine`. Raises `ConfigError`."""
    raise_first(models_faults(data))
    entries = data["models"] if isinstance(data, dict) else data
    keep_alive_s = default_keep_alive_s(data)
    return tuple(_build_model(_full(entry), keep_alive_s) for entry in entries)


def models_faults(data: Any) -> Iterator[str]:
    """One line for each value of `models.json` that cannot be meant."""
    entries = data.get("models") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        yield 'models.json: expected {"models": [...]}'
        return
    if isinstance(data, dict):
        yield from value_faults("models.json", {"keep_alive": _KEEP_ALIVE}, data)
    for index, entry in enumerate(entries):
        yield from _entry_faults(f"models.json: entry {index}", _full(entry))


def default_keep_alive_s(data: Any) -> float:
    """Of the models for which `models.json` says nothing else. Raises `ConfigError`."""
    if not isinstance(data, dict) or "keep_alive" not in data:
        return math.inf
    raise_first(value_faults("models.json", {"keep_alive": _KEEP_ALIVE}, data))
    return _keep_alive_s(data["keep_alive"])


def _keep_alive_s(value: Any) -> float:
    """Of a value that was checked."""
    keep_alive_s = parse_keep_alive(value)
    return math.inf if keep_alive_s is None else keep_alive_s


def _full(entry: Any) -> Any:
    return {"source": entry} if isinstance(entry, str) else entry


def engine_of_entry(entry: Mapping[str, Any]) -> Any:
    """What the entry says, or its source's name."""
    usual = "gguf" if str(entry.get("source", "")).endswith(".gguf") else "mlx"
    return entry.get("engine", entry.get("backend", usual))


def _entry_faults(where: str, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("source"), str) or not entry["source"]:
        yield f"{where} needs a `source` (a path or a Hugging Face id)"
        return
    yield from value_faults(where, MODEL, entry)
    name = entry.get("id")
    if isinstance(name, str) and not (name or model_id_of(entry["source"])).isprintable():
        yield f"{where}: {name!r} is no name that a client could say"
    engine, options = engine_of_entry(entry), entry.get("options")
    if entry.get("backend", engine) != engine:
        yield f"{where}: `engine` is {engine!r} and `backend`, the same in other words, {entry['backend']!r}"
    if isinstance(options, dict) and isinstance(engine, str) and engine in ENGINE_OPTIONS:
        yield from value_faults(f"{where}: options", ENGINE_OPTIONS[engine], options)


def _build_model(entry: Mapping[str, Any], keep_alive_s: float) -> ModelSpec:
    return ModelSpec(
        id=entry.get("id") or model_id_of(entry["source"]),
        source=entry["source"],
        engine=engine_of_entry(entry),
        options=dict(entry.get("options", {})),
        load=entry.get("load", "start"),
        keep_alive_s=_keep_alive_s(entry["keep_alive"]) if "keep_alive" in entry else keep_alive_s,
        is_pinned=entry.get("pinned", False),
        hosts=tuple(map(word, entry.get("hosts", ()))),
        copies=entry.get("copies", 0),
    )


def model_id_of(source: str) -> str:
    """The name clients use: a path's last folder, a Hugging Face id as it is."""
    stripped = source.rstrip("/")
    is_path = stripped.startswith(("/", "~", ".")) or stripped.count("/") > 1
    return stripped.rsplit("/", 1)[-1] if is_path else stripped
