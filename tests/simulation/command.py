"""The command line: runs seeds, and prints those that break a promise with the command that replays each."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from simulation import machine, worker
from simulation.mutants import MUTANTS
from simulation.run import Outcome, simulate


def main(arguments: list[str]) -> int:
    """Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python tests/simulation")
    parser.add_argument("seeds", help="one seed, or a range such as 0:300")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happens, line by line")
    parser.add_argument("--mutant", choices=MUTANTS, metavar="GUARD", help="break this guard first")
    parser.add_argument(
        "--mutants", action="store_true", help="break each guard in turn, and count the seeds that find it"
    )
    options = parser.parse_args(arguments)
    first, colon, last = options.seeds.partition(":")
    seeds = range(int(first), int(last)) if colon else [int(first)]
    if options.mutants:
        return _of_each_mutant(options.seeds)
    worker.install()
    machine.bind()
    if options.mutant:
        MUTANTS[options.mutant]()
    began = time.process_time()
    failed, sent, ids, virtual_s, steps = 0, 0, 0, 0.0, 0
    for seed in seeds:
        outcome = simulate(seed, traced=options.verbose)
        sent, ids, virtual_s, steps = (
            sent + outcome.sent, ids + outcome.ids, virtual_s + outcome.virtual_s, steps + outcome.steps,
        )  # fmt: skip
        if options.verbose:
            print(*outcome.lines, sep="\n")
            print(f"seed {seed}: {outcome.digest}")
        if outcome.broken:
            failed += 1
            _report(seed, outcome)
    print(
        f"{len(seeds)} seeds in {time.process_time() - began:.1f} s of CPU: {failed} broke a promise; "
        f"{ids} ids, {sent} messages sent, {steps} steps, {virtual_s / 60:.0f} virtual minutes"
    )
    return 1 if failed else 0


def _of_each_mutant(seeds: str) -> int:
    """Run the seeds with each guard broken, in a process of its own. Returns 1 if one is not found."""
    missed = 0
    for name in MUTANTS:
        run = subprocess.run(
            [sys.executable, str(Path(__file__).parent), seeds, "--mutant", name], capture_output=True, text=True
        )
        found = run.stdout.count("replay it:")
        missed += not found
        print(f"{found:4}  {name}", flush=True)
    return 1 if missed else 0


def _report(seed: int, outcome: Outcome) -> None:
    print(f"seed {seed}: {outcome.broken}\n  replay it: .venv/bin/python tests/simulation {seed} -v", flush=True)
