"""Models of one name whose files differ between hosts, told apart: the name is that of one, `name@host` the others.

What two models are is what their files say: config, tokenizer, chat template and weights (`WorkerLease.identity`). The
same files under different paths are one model. All gateways must say the same, so that nothing but the leases decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from shared.keys import host_of
from shared.registry import Fleet, WorkerLease


def told_apart(fleet: Fleet) -> Fleet:
    """With another model id for each worker, and on its host, whose files are not those that have the name."""
    others = dict(_others(fleet.workers))
    if not others:
        return fleet
    names = {
        (host_of(worker.worker), worker.model): others[worker.worker]
        for worker in fleet.workers
        if worker.worker in others
    }
    workers = tuple(_renamed(worker, others.get(worker.worker, "")) for worker in fleet.workers)
    hosts = tuple(
        replace(
            host,
            models=tuple(replace(each, id=names.get((host_of(host.host), each.id), each.id)) for each in host.models),
        )
        for host in fleet.hosts
    )
    return replace(fleet, workers=workers, hosts=hosts)


def _others(workers: Iterable[WorkerLease]) -> Iterable[tuple[str, str]]:
    """Of each worker that does not have its name: (worker, the name it has instead)."""
    by_model: Mapping[str, list[WorkerLease]] = defaultdict(list)
    for worker in workers:
        if worker.identity:
            by_model[worker.model].append(worker)
    for model, found in by_model.items():
        first = _first(found)
        for worker in found:
            if worker.identity != first:
                yield worker.worker, f"{model}@{host_of(worker.worker)}"


def _first(workers: list[WorkerLease]) -> str:
    """Whose the name is: of the files on most hosts, of several the host's that comes first by name."""
    hosts: Mapping[str, set[str]] = defaultdict(set)
    for worker in workers:
        hosts[worker.identity].add(host_of(worker.worker))
    return min(hosts, key=lambda identity: (-len(hosts[identity]), min(hosts[identity])))


def _renamed(worker: WorkerLease, name: str) -> WorkerLease:
    if not name:
        return worker
    files = "config, tokenizer, template or weights"
    note = f"served as {name}: its files ({files}) are not those of {worker.model} elsewhere"
    return replace(worker, model=name, own_model=worker.model, notes=(*worker.notes, note))
