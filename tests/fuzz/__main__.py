"""`python -m fuzz`: many cases, resumed where they were stopped; or one of them again."""

import argparse
import sys
from pathlib import Path

import torch

from straightthrough.cli.progress import live

from .checks import fault
from .run import load, run
from .trial import trial

STATE = Path("results/fuzz/state.json")


def main() -> int:
    """Run what the command line asks for, and return the exit code."""
    options = _options()
    torch.set_num_threads(1)
    if options.worker is not None:
        return _work(options.worker, options.cases)
    if options.case is not None:
        return _repeat(options.case)
    resumed = load(STATE).next
    if resumed:
        print(f"resumed at case {resumed}; without {STATE} it begins anew")
    try:
        with live() as notify:
            state = run(options.cases, STATE, notify)
    except KeyboardInterrupt:
        print(f"stopped at case {load(STATE).next}; the next run goes on there")
        return 1
    done, failed = state.next, len(state.failed)
    print(f"{done} of {options.cases} cases, {failed} failed, {state.seconds:.0f} s")
    for line in state.failed if resumed else ():
        print(line)
    if failed:
        print("repeat one: make fuzz CASE=number")
    return int(failed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="how many")
    parser.add_argument("--case", type=int, help="the number of a case to run alone")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(first: int, total: int) -> int:
    for number in range(first, total):
        print(number, flush=True)
        wrong = fault(number)
        if wrong:
            print(number, wrong, flush=True)
    print(total, flush=True)
    return 0


def _repeat(number: int) -> int:
    print(trial(number))
    wrong = fault(number)
    print(wrong or "nothing is wrong")
    return int(wrong is not None)


if __name__ == "__main__":
    sys.exit(main())
