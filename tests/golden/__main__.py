"""Golden logs: what fixed messages and stored detectors give, as hashes. See tests/golden/README.md.

python -m tests.golden --check               compare with hashes.json; exit status 1 where anything differs
python -m tests.golden --write               write hashes.json
python -m tests.golden --dump FOLDER         write the logs themselves, to compare two versions of the program
python -m tests.golden --train               train artifacts that are missing, for new cases only
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from tests.golden.cases import CASES, MissingError
from tests.golden.logs import Logs

HASHES = Path(__file__).parent / "hashes.json"


def stored() -> dict[str, Any]:
    """Return the hashes that are written down, by case."""
    found: dict[str, Any] = json.loads(HASHES.read_text()) if HASHES.exists() else {}
    return found


def differences(case: str, now: dict[str, Any], was: dict[str, Any] | None) -> list[str]:
    """Return a line for each log of a case that differs, with how the counts have changed; none when all agree."""
    if was is None:
        return [f"{case}: not in hashes.json; run `python -m tests.golden --write --only {case}`"]
    found = []
    for kind in sorted({*now, *was} - {"counts"}):
        if now.get(kind) != was.get(kind):
            counts = _change(was["counts"].get(kind), now["counts"].get(kind))
            found.append(f"{case}: {kind} differ ({counts}): {_brief(was.get(kind))} -> {_brief(now.get(kind))}")
    if found and now.get("inputs") != was.get("inputs"):
        found.append(f"{case}: the messages themselves differ, so nothing is said of the stages that take them")
    return found


def _change(was: object, now: object) -> str:
    if was == now:
        return "counts agree"
    if isinstance(was, dict) and isinstance(now, dict):
        return ", ".join(
            f"{key} {was.get(key, 0)} -> {now.get(key, 0)}"
            for key in sorted({*was, *now})
            if was.get(key) != now.get(key)
        )
    return f"{was} -> {now}"


def _brief(value: object) -> str:
    return str(value)[:12] if value else "none"


def chosen(only: list[str] | None) -> list[str]:
    """Return the names of the cases asked for: each name, or all that begin with it and a slash."""
    if not only:
        return list(CASES)
    found = [case for case in CASES if any(case == name or case.startswith(f"{name}/") for name in only)]
    if unknown := [name for name in only if not any(c == name or c.startswith(f"{name}/") for c in CASES)]:
        raise SystemExit(f"no case is called {unknown[0]!r}; expected some of: {', '.join(CASES)}")
    return found


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def _dump(folder: Path, case: str, logs: Logs) -> None:
    for kind, lines in logs.kinds().items():
        path = folder / f"{case.replace('/', '-')}.{kind}"
        path.write_text("".join(f"{_line(line)}\n" for line in lines))


def _line(line: bytes) -> str:
    return line.decode() if line.startswith(b"{") else line.hex()


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description="Golden logs of fixed inputs.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compare with hashes.json")
    what.add_argument("--write", action="store_true", help="write hashes.json")
    what.add_argument("--dump", type=Path, metavar="FOLDER", help="write the logs themselves there, one file each")
    what.add_argument("--train", action="store_true", help="train artifacts that are missing, for new cases only")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this case, or those under NAME/")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore", RuntimeWarning)  # of readings beyond float32, which are there on purpose
    if args.train:
        from tests.golden.training import train_missing

        for path in train_missing():
            say(f"trained {path.name}")
        return 0
    known, failed = stored(), 0
    started = time.monotonic()
    if args.dump:
        args.dump.mkdir(parents=True, exist_ok=True)
    for case in chosen(args.only):
        began = time.monotonic()
        try:
            logs = CASES[case]()
        except MissingError as reason:
            say(f"skipped  {case}: {reason}")
            continue
        except AssertionError as error:
            failed += 1
            say(f"FAILED   {error}")
            continue
        took = f"{time.monotonic() - began:.1f} s"
        if args.dump:
            _dump(args.dump, case, logs)
        elif args.write:
            known[case] = logs.hashes()
            say(f"written  {case} ({took})")
        elif found := differences(case, json.loads(json.dumps(logs.hashes())), known.get(case)):
            failed += 1
            for line in found:
                say(f"DIFFERS  {line}")
        else:
            say(f"same     {case} ({took})")
    if args.write:
        kept = {case: known[case] for case in CASES if case in known}
        HASHES.write_text(json.dumps(kept, indent=1) + "\n")
    say(
        f"{failed} of {len(chosen(args.only))} cases differ, {time.monotonic() - started:.0f} s"
        if not args.write
        else f"{HASHES.name} written, {time.monotonic() - started:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # readings are refused by design; not where tests call `main`
    raise SystemExit(main())
