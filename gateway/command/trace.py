"""`mlx-gateway trace`: what became of requests, as this machine's gateways noted it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from gateway.command.ends import not_there
from gateway.trace.file import parse_trace, read_traces, traces_folder

_POLL_S = 0.3
_SPOKEN = ("body",)  # what holds the client's or the model's words
_SPOKEN_ANSWER = ("text", "reasoning", "arguments")


def find_traces(state_dir: Path, request_id: str) -> list[dict[str, Any]]:
    """Raises `ConfigError` (not_there) when nothing is known of it."""
    found = [trace for trace in read_traces(state_dir) if trace["id"] == request_id]
    if not found:
        raise not_there(f"nothing is known of {request_id} in {traces_folder(state_dir)}: see `mlx-gateway trace`")
    return found


def last_traces(state_dir: Path, count: int) -> list[dict[str, Any]]:
    """Raises `ConfigError` (not_there) when there is none."""
    found = sorted(read_traces(state_dir), key=lambda trace: float(trace.get("at_s", 0)))[-count:]
    if not found:
        raise not_there(f"no request was traced in {traces_folder(state_dir)} yet")
    return found


def following(state_dir: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[dict[str, Any]]:
    """Each as it is written, for ever."""
    folder = traces_folder(state_dir)
    seen = {path: path.stat().st_size for path in folder.glob("trace-*.jsonl")}
    while True:
        for path in sorted(folder.glob("trace-*.jsonl")):
            was = seen.get(path, 0)
            size = path.stat().st_size
            if size == was:
                continue
            with path.open("rb") as file:
                file.seek(was if size > was else 0)  # a shorter one is new
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            seen[path] = (was if size > was else 0) + len(whole)
            yield from filter(None, map(parse_trace, whole.splitlines()))
        wait(_POLL_S)


def redacted(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Without what anybody said, should it be there."""
    shown = {name: value for name, value in trace.items() if name not in _SPOKEN}
    answer = shown.get("answer")
    if isinstance(answer, dict):
        kept = {name: value for name, value in answer.items() if name not in _SPOKEN_ANSWER}
        calls = kept.get("calls")
        shown["answer"] = {**kept, "calls": len(calls)} if isinstance(calls, list) else kept
    return shown


def render_json(trace: Mapping[str, Any]) -> str:
    return orjson.dumps(trace).decode()


def render_line(trace: Mapping[str, Any]) -> str:
    """One request in one line, of a list."""
    tokens, seconds = trace.get("tokens", {}), trace.get("seconds", {})
    model = trace.get("canonical", {}).get("model") or trace.get("came", {}).get("model", "-")
    return (
        f"{_when(trace)}  {trace['id']}  {trace.get('outcome', ''):14} {model:24} "
        f"{tokens.get('input') or 0:>7} in {tokens.get('cached') or 0:>7} cached {tokens.get('output') or 0:>6} out  "
        f"{_s(seconds.get('first_token'))} {_s(seconds.get('total'))}"
    )


def render_trace(trace: Mapping[str, Any]) -> Iterator[str]:
    """For a person: what came, what was made of it, where it went and why, what was cached, how long it took."""
    yield f"{trace['id']}  {_when(trace)}  {trace.get('route', '')}  {trace.get('outcome', '')}"
    if trace.get("error"):
        yield f"  error      {trace['error']}"
    for title in ("came", "canonical"):
        if trace.get(title):
            yield f"  {title:10} {_pairs(trace[title])}"
    for attempt in trace.get("attempts", ()):
        yield from _attempt(attempt)
    for title, name in (("tokens", "tokens"), ("seconds", "seconds"), ("predicted", "predicted"), ("answer", "answer")):
        if trace.get(name):
            yield f"  {title:10} {_pairs(trace[name])}"
    if trace.get("body"):
        yield f"  body       {trace['body']}"


def _attempt(attempt: Mapping[str, Any]) -> Iterator[str]:
    more = {name: attempt[name] for name in ("goes_on_at_token", "returned", "fault") if name in attempt}
    ending = f"; {_pairs(more)}" if more else ""
    yield f"  attempt {attempt['number']}  {attempt['worker'] or 'no worker yet'}: {attempt['reason']}{ending}"
    for each in attempt.get("candidates", ()):
        wait = "unknown wait" if each["wait_s"] is None else f"wait {each['wait_s']:.2f} s"
        yield (
            f"             {each['worker']}: first token after {each['first_s']:.2f} s ({wait}, prefill "
            f"{each['prefill_s']:.2f} s), {each['cached_tokens']} of about {each['prompt_tokens']} tokens cached"
        )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_said(value)}" for name, value in values.items() if value not in (None, "", [], False))


def _said(value: Any) -> str:
    if value is True:
        return "yes"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _when(trace: Mapping[str, Any]) -> str:
    return datetime.fromtimestamp(float(trace.get("at_s", 0)), UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _s(value: float | None) -> str:
    return "      -" if value is None else f"{value:6.2f} s"
