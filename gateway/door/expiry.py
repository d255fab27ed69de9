"""When the certificates of sharing end: a Mac whose own has ended is locked out until it joins anew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.door.authority import HOST_DAYS
from gateway.door.folder import DoorFolder
from shared.errors import ConfigError

_DAY_S: Final = 86400.0
_BEGINS: Final = b"-----BEGIN CERTIFICATE-----"


def expiries(folder: DoorFolder) -> Mapping[str, float]:
    """By name, in Unix time: the door's own, its authorities, and every Mac's that joined. Empty where nothing is
    shared, or what reads certificates is not installed."""
    if not folder.is_shared:
        return {}
    found = {path.stem: ends_s for path in sorted(folder.path.glob("*.pem")) if (ends_s := _ends_s(path)) is not None}
    try:
        joined = [host for host in folder.hosts().values() if not host.is_revoked and host.joined_at_s]
    except ConfigError:
        return found  # which whoever wants to join is told
    return found | {host.name: host.joined_at_s + HOST_DAYS * _DAY_S for host in joined}


def _ends_s(path: Path) -> float | None:
    """Of the first certificate in the file; None where there is none that can be read."""
    try:
        from cryptography import x509

        data = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(data[data.index(_BEGINS) :])
    except (ImportError, OSError, ValueError):
        return None
    return certificate.not_valid_after_utc.astimezone(dt.UTC).timestamp()


class CertificateCollector(Collector):
    """Read at each scrape: few, small, and changed by others."""

    def __init__(self, folder: DoorFolder) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        text = "Unix time at which a certificate of sharing ends"
        family = GaugeMetricFamily("gw_certificate_expiry_timestamp_seconds", text, labels=["name"])
        for name, ends_s in expiries(self._folder).items():
            family.add_metric([name], ends_s)
        yield family
