"""The fault suite by hand: `python -m tests.faults [matrix|soak|fuzz]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.faults import fuzz, soak
from tests.faults.cases import DIALECTS, reference, waves
from tests.faults.client import MESSAGES
from tests.faults.faults import FAULTS
from tests.faults.fleet import PACED, QUICK, Fleet, fleet
from tests.faults.report import notes, page, table
from tests.faults.trial import NotInPlaceError, Verdict, try_fault
from tests.support import undertaker


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("matrix", "soak", "fuzz"), default="matrix")
    parser.add_argument("--fault", action="append", default=[], help="only these faults (a part of the name)")
    parser.add_argument("--wave", action="append", default=[], help="only these waves: middle, before, first, last")
    parser.add_argument("--dialects", action="store_true", help="both dialects instead of Messages alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--requests", type=int, default=20_000, help="of the soak and of the fuzzing")
    parser.add_argument("--marks", type=int, default=10, help="of the soak: how often memory is measured")
    parser.add_argument("--schemathesis", type=Path, help="its program: what it makes of /openapi.json is sent, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for logs, which stays")
    parser.add_argument("--write", type=Path, help="where to write the matrix as a page")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    if options.what == "matrix":
        with fleet(folder / "fleet") as found:
            return _matrix(found, options)
    # (The soak's four workers: two Macs with two models each.)
    with fleet(folder / "fleet", models=(PACED, QUICK) if options.what == "soak" else (PACED,)) as found:
        return _soak(found, options) if options.what == "soak" else _fuzz(found, options)


def _matrix(found: Fleet, options: argparse.Namespace) -> int:
    verdicts: list[Verdict] = []
    failed: list[str] = []
    chosen = [wave for dialect in (DIALECTS if options.dialects else (MESSAGES,)) for wave in waves(dialect)]
    chosen = [wave for wave in chosen if not options.wave or wave.name in options.wave]
    expected = {case: reference(found, case) for wave in chosen for case in wave.cases}
    for fault in FAULTS:
        if options.fault and not any(part in fault.name for part in options.fault):
            continue
        for wave in [wave for _ in range(options.rounds) for wave in chosen]:
            began_s = time.monotonic()
            try:
                new = try_fault(found, wave, fault, expected)
            except (AssertionError, NotInPlaceError) as error:
                failed.append(f"{fault.name}, {wave.name}: {error}")
                _say(failed[-1])
                found.heal()
                continue
            verdicts += new
            for verdict in new:
                _say(f"{time.monotonic() - began_s:5.1f} s {verdict}")
    _say(table(verdicts), sys.stdout)
    _say(notes(verdicts), sys.stdout)
    if options.write:
        options.write.write_text(page(verdicts, failed, datetime.now(UTC).date()))
    return int(bool(failed) or any(verdict.kind == "wrong" for verdict in verdicts))


def _soak(found: Fleet, options: argparse.Namespace) -> int:
    began_s = time.monotonic()
    account = soak.soak(found, options.requests, seed=options.seed, marks=options.marks, say=_say)
    _say(f"{options.requests} requests in {time.monotonic() - began_s:.0f} s", sys.stdout)
    for line in soak.lines(account):
        _say(line, sys.stdout)
    return int(bool(account.wrong))


def _fuzz(found: Fleet, options: argparse.Namespace) -> int:
    began_s = time.monotonic()
    result = fuzz.fuzz(found, options.requests, seed=options.seed)
    if options.schemathesis:  # the last: it makes keys, after which nobody is let in without one
        result.bad += fuzz.described(found, options.schemathesis, options.requests)
    _say(f"{options.requests} requests in {time.monotonic() - began_s:.0f} s", sys.stdout)
    for line in fuzz.lines(result):
        _say(line, sys.stdout)
    return int(bool(result.bad))


def _say(text: str, to: object = None) -> None:
    print(text, file=to or sys.stderr, flush=True)  # type: ignore[call-overload]


if __name__ == "__main__":
    undertaker.begin()
    sys.exit(main())
