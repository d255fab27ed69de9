"""`python -m tests.faults`: the fault suite by hand. `--help` says what can be chosen."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.cases import DIALECTS, reference, waves
from tests.faults.client import MESSAGES
from tests.faults.faults import FAULTS
from tests.faults.fleet import fleet
from tests.faults.report import notes, table
from tests.faults.trial import Verdict, try_fault


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--fault", action="append", default=[], help="only these faults (a part of the name)")
    parser.add_argument("--wave", action="append", default=[], help="only these waves: middle, before, first, last")
    parser.add_argument("--dialects", action="store_true", help="both dialects instead of Messages alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for logs, which stays")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    verdicts: list[Verdict] = []
    with fleet(folder / "fleet") as found:
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
                except AssertionError as error:
                    print(f"{fault.name}, {wave.name}: {error}", file=sys.stderr, flush=True)
                    found.heal()
                    continue
                verdicts += new
                for verdict in new:
                    print(f"{time.monotonic() - began_s:5.1f} s", verdict, file=sys.stderr, flush=True)
    print(table(verdicts))
    print(notes(verdicts))
    return int(any(verdict.kind == "wrong" for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
