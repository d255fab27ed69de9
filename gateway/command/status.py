"""`mlx-gateway status` on the machine where something runs: as a table, as lines, or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.command.elsewhere import RemoteGateway
from gateway.command.quarantine import quarantine_lines
from gateway.command.runfile import read_running
from gateway.command.running_fleet import need_redis, read_fleet
from gateway.command.stack import describe_model
from gateway.command.watching import wants_table, watch
from gateway.overview import render_overview
from shared.config import Settings
from shared.disk import subject_and_effect
from shared.errors import ConfigError
from shared.registry import Fleet, HostRecord, Stranger, WorkerLease


def show_status(settings: Settings, options: argparse.Namespace) -> int:
    if options.is_json:
        print(json.dumps(_overview(settings), indent=2))
    elif wants_table(options):
        running = read_running(settings.state_dir)
        watch(lambda: _overview(settings), "" if running is None else running.url)
    else:
        for line in _lines(settings):
            print(line)
    return 0


def _overview(settings: Settings) -> Mapping[str, Any]:
    """As the gateway says it, who knows what runs; where none answers, as Redis does. Raises `ConfigError`."""
    running = read_running(settings.state_dir)
    if running is not None:
        try:
            found: Mapping[str, Any] = RemoteGateway(running.url, settings.api_key).get("/status")
        except ConfigError:
            pass  # it starts, or is being started again
        else:
            return found
    return render_overview(read_fleet(settings))


def _lines(settings: Settings) -> Iterator[str]:
    fleet = read_fleet(settings)
    running = read_running(settings.state_dir)
    if running is not None:
        yield f"gateway  {running.url}  (of `up`, pid {running.pid})"
    yield from _fleet_lines(fleet)
    yield from asyncio.run(quarantine_lines(need_redis(settings)))
    for fault, names in fleet.faults().items():
        subject, effect = subject_and_effect(fault)
        yield f"{subject:<8} {fault}; {effect} ({', '.join(names)})"
    if not fleet.hosts and not fleet.workers and not fleet.strangers:
        yield "no hosts and no workers are running"


def _fleet_lines(fleet: Fleet) -> Iterator[str]:
    for host in fleet.hosts:
        yield from _host_lines(host)
    for lease in fleet.workers:
        yield from _worker_lines(lease)
    for stranger in fleet.strangers:
        yield describe_stranger(stranger)


def _host_lines(host: HostRecord) -> Iterator[str]:
    yield f"host     {host.host}  (pid {host.pid})" + ("  leaves" if host.is_draining else "")
    for model in host.models:
        yield f"  {describe_model(model)}"


def _worker_lines(lease: WorkerLease) -> Iterator[str]:
    yield f"worker   {describe_worker(lease)}"
    if lease.template:
        yield f"  chat template: {describe_template(lease.template)}"
    for note in lease.notes:
        yield f"  note: {note}"


def describe_worker(lease: WorkerLease) -> str:
    """One line for a person."""
    rate = lease.decode_tokens_per_s if lease.metrics.get("running") else 0.0  # else it is that of the past
    return (
        f"{lease.worker}  {lease.model}  {lease.state}  {lease.in_flight}/{lease.capacity} requests  "
        f"{rate:.0f} tokens/s  context {lease.context_tokens}"
    )


def describe_stranger(stranger: Stranger) -> str:
    """One line for a person."""
    return f"{stranger.kind:<8} {stranger.name}  gets no work: {stranger.reason}"


def describe_template(template: Mapping[str, str]) -> str:
    """One line for a person."""
    return "; ".join(f"{name} {value}" for name, value in template.items())
