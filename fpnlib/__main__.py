"""``python -m fpnlib run --profile demo``: the notebooks, headlessly."""

import argparse
import os
import signal
import sys
from pathlib import Path

import yaml

from fpnlib import runner
from fpnlib.artifacts import PROJECT


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 1 where a cell failed, 2 where the command was not understood, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="fpnlib", description="Flow Plugin Networks: the experiments as notebooks.")
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="execute the notebooks with a profile's parameters")
    run.add_argument("--profile", required=True, help="demo, paper, or another file of notebooks/profiles")
    run.add_argument("--out", help="the run's folder (default: outputs/<profile>)")
    run.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="NOTEBOOK",
        help="these notebooks only, by the start of their names",
    )
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="parameters in place of the profile's",
    )
    run.add_argument(
        "--jobs", type=int, metavar="N", help="notebooks side by side (default: one a core, or one on a GPU)"
    )
    run.add_argument("--limit", type=_seconds, metavar="TIME", help="of the whole run: 90, 90s, 15m or 2h")
    run.add_argument("--cell-limit", type=_seconds, metavar="TIME", help="of each cell")
    run.add_argument("--fresh", action="store_true", help="forget what the run's folder holds and start over")
    run.add_argument("--notebooks", type=Path, default=PROJECT / "notebooks", help="the folder of notebooks")
    given = parser.parse_args(arguments)
    try:
        if given.fresh and given.only:
            raise ValueError("--fresh starts a whole run over; to run one notebook again, delete its executed copy")
        runner.run(
            given.profile,
            _folder(given.out),
            given.only,
            _values(given.set),
            given.fresh,
            given.notebooks.resolve(),
            given.jobs,
            runner.Limits(given.cell_limit, given.limit),
        )
    except runner.CellError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command takes it up again", file=sys.stderr)
        return 130
    return 0


def _folder(out: str | None) -> str | None:
    """A folder as the shell means it, named relative to the project where it lies inside."""
    if out is None:
        return None
    path = Path(os.path.abspath(out))
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else str(path)


def _values(assignments: list[str]) -> dict[str, object]:
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise ValueError(f"--set takes name=value, got '{name}'")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a time is a number of seconds, or like 90s, 15m or 2h, got '{text}'")
    return seconds


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's "stop" is a Ctrl-C
    sys.exit(main())
