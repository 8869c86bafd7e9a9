"""Damaged files through every reader and decoder: `make fuzz [MINUTES=10] [SEED=0]`.

    python tests/fuzz/fuzz.py [--minutes M | --files N] [--seed S] [--kind KIND …] [--keep FOLDER]

What must hold for each: nothing but our own errors comes out, every object is a row or a reject, time and memory are bounded. The
files are read in a child process. One that ends it, or that hangs, is what a run must be ready for: it is then tried by a whole run
(`end_to_end`), which must end by itself with every other object in the table. `--kind KIND --seed S --files 1` tries one file again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(TESTS), str(TESTS / "pipelines"), str(TESTS / "faults")]

from corpus import CORPUS  # noqa: E402 (found on the path set above)
from targets import damaged, play  # noqa: E402

from pipelines.child import ChildDied, ChildSilent, ask_child, end_children  # noqa: E402

SILENCE_S = 120.0  # after which a file hangs
ENOUGH = 50  # findings, after which there is something to do first
ROUND = 200  # files of one kind, before the next kind has its turn


@dataclass(frozen=True)
class Finding:
    """A file that did something: `fault`, what must never be; or `death`, what a run has to survive."""

    what: str
    kind: str
    seed: int
    why: str


def fuzz_round(kind: str, seeds: range) -> Iterator[Finding | None]:
    """A finding, or None, for each seed."""
    at = seeds.start
    while at < seeds.stop:
        current, found = at, None
        try:
            for word, seed, why in ask_child(SILENCE_S, play, (kind, range(at, seeds.stop))):
                if word == "fault":
                    found = Finding("fault", kind, seed, why)
                    continue
                if seed > current:
                    yield found
                    found = None
                current = seed
        except (ChildDied, ChildSilent) as failure:
            found = Finding("death", kind, current, str(failure))
        yield found
        at = current + 1


def fuzz(kinds: Sequence[str], seed: int, until: float, files: int | None) -> Iterator[tuple[str, Finding | None]]:
    """Kind and finding of file after file, the kinds in turn, until a moment, or so many of each kind."""
    done = 0
    while time.monotonic() < until and (files is None or done < files):
        size = ROUND if files is None else min(ROUND, files - done)
        for kind in kinds:
            for finding in fuzz_round(kind, range(seed + done, seed + done + size)):
                yield kind, finding
                if time.monotonic() > until:
                    break
        done += size


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--files", type=int, help="of each kind, in place of a time")
    parser.add_argument("--seed", type=int, default=0, help="of the first file of each kind")
    parser.add_argument("--kind", nargs="*", choices=list(CORPUS), default=list(CORPUS))
    parser.add_argument("--keep", type=Path, help="a folder for the files that did something")
    asked = parser.parse_args(arguments)
    minutes = asked.minutes if asked.minutes is not None else 10 if asked.files is None else 10**6
    print(f"seed {asked.seed}; a file again: fuzz.py --kind KIND --seed SEED --files 1", flush=True)
    tried: Counter[str] = Counter()
    findings = []
    for kind, finding in fuzz(asked.kind, asked.seed, time.monotonic() + 60 * minutes, asked.files):
        tried[kind] += 1
        if finding is None:
            continue
        findings.append(finding)
        print(f"{finding.what}: {finding.kind} {finding.seed}: {finding.why}", flush=True)
        if asked.keep is not None:
            asked.keep.mkdir(parents=True, exist_ok=True)
            (asked.keep / f"{finding.kind}-{finding.seed}").write_bytes(damaged(finding.kind, finding.seed))
        if len(findings) == ENOUGH:
            print("that is enough to look at")
            break
    end_children()
    bad = [finding for finding in findings if finding.what == "fault"]
    deaths = [finding for finding in findings if finding.what == "death"]
    for finding in deaths[:5]:
        from end_to_end import survives

        if not survives(finding.kind, damaged(finding.kind, finding.seed)):
            bad.append(finding)
            print(f"a run does not survive {finding.kind} {finding.seed}")
    print(f"{', '.join(f'{number} {kind}' for kind, number in tried.items())}; {len(bad)} faults, {len(deaths)} deaths")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
