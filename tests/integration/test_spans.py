"""A request's spans, from a client's own trace through the gateway to the worker, as a collector gets them."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collected, collecting
from tests.support.processes import wait_until
from tests.support.up import Up, message, up

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def ask(stack: Up, path: str, body: Any, traceparent: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", int(stack.url.rsplit(":", 1)[1]), timeout=30)
    headers = {"content-type": "application/json", "traceparent": traceparent}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


@pytest.mark.slow
def test_gateway_and_worker_tell_one_trace_that_goes_on_with_the_clients(tmp_path: Path) -> None:
    with collecting() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with up(tmp_path, env=environment) as running:
            running.wait_until_ready()
            said = message("hello there secret word", temperature=0.5)
            assert ask(running, "/v1/messages", said, f"00-{TRACE}-{CALLER}-01") == 200
            wait_until(lambda: len(_roots(collector.of(TRACE))) == 2, "both parts have told")
            gateway, worker = _roots(collector.of(TRACE))
            assert (gateway.service, worker.service) == ("mlx-gateway-gateway", "mlx-gateway-worker")
            assert (gateway.parent, worker.parent) == (CALLER, gateway.id)
            assert gateway.name == "chat echo"
            assert gateway.attributes["gen_ai.operation.name"] == "chat"
            assert gateway.attributes["gen_ai.request.temperature"] == 0.5
            assert gateway.attributes["gen_ai.usage.output_tokens"] == 4
            assert gateway.attributes["mlx_gateway.outcome"] == "ok"
            assert worker.attributes["gen_ai.usage.output_tokens"] == 4
            assert worker.attributes["mlx_gateway.worker"] == gateway.attributes["mlx_gateway.worker"]
            wait_until(lambda: len(_stages(collector.of(TRACE), gateway)) >= 6, "the stages of its way")
            assert _stages(collector.of(TRACE), gateway) == ["parse", "route", "enqueue", "wait", "prefill", "decode"]
            assert _stages(collector.of(TRACE), worker) == ["prepare", "prefill", "decode"]
            assert "secret word" not in str(collector.spans)

            failing = message("echo:fail internal no luck")
            assert ask(running, "/v1/messages", failing, f"00-{TRACE[::-1]}-{CALLER}-01") == 500
            wait_until(lambda: _errors(collector.of(TRACE[::-1])) == {"internal"}, "the error is told")

            # A client whose own trace is not kept has none of ours kept.
            unsampled = TRACE.replace("4", "5")
            assert ask(running, "/v1/messages", said, f"00-{unsampled}-{CALLER}-00") == 200
            assert ask(running, "/v1/messages", said, "no such thing") == 200
            wait_until(lambda: any(span.parent == "" for span in tuple(collector.spans)), "a trace of its own")
            assert collector.of(unsampled) == []


def _roots(spans: list[Collected]) -> list[Collected]:
    """The gateway's span, then the worker's."""
    return sorted((span for span in spans if "gen_ai.operation.name" in span.attributes), key=lambda span: span.service)


def _stages(spans: list[Collected], of: Collected) -> list[str]:
    return [span.name for span in spans if span.parent == of.id and "gen_ai.operation.name" not in span.attributes]


def _errors(spans: list[Collected]) -> set[Any]:
    return {span.attributes["error.type"] for span in spans if "error.type" in span.attributes}
