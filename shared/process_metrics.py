"""What this process costs, as Prometheus's own clients name it. Theirs reads /proc and says nothing on a Mac."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ProcessCollector(Collector):
    def __init__(self) -> None:
        self._process = psutil.Process()

    def collect(self) -> Iterable[Metric]:
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info()
            yield CounterMetricFamily(
                "process_cpu_seconds", "User and system time spent, in seconds", value=times.user + times.system
            )
            yield GaugeMetricFamily("process_resident_memory_bytes", "Memory in use", value=memory.rss)
            yield GaugeMetricFamily(
                "process_start_time_seconds", "When the process began, as Unix time", value=self._process.create_time()
            )
            with contextlib.suppress(psutil.Error, NotImplementedError):
                yield GaugeMetricFamily("process_open_fds", "Files and sockets open", value=self._process.num_fds())
