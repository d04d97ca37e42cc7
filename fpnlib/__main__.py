"""``python -m fpnlib run | report | verify``: the notebooks headlessly, and what they left."""

import argparse
import os
import signal
import sys
from pathlib import Path

import yaml

from fpnlib import runs
from fpnlib.store import PROJECT, Manifest


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 1 where a cell failed or a check did not hold, 2 where the command was not understood or a folder
    not usable, 130 where it was interrupted."""
    given = _parser().parse_args(arguments)
    try:
        return given.do(given) or 0
    except runs.CellError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command takes it up again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fpnlib", description="Flow Plugin Networks: the experiments as notebooks."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    several = {"nargs": "+", "action": "extend", "default": []}

    about = "execute the notebooks with a profile's parameters"
    after = "A notebook that fails stops no other; the errors come last, and the exit code is 1."
    run = commands.add_parser("run", help=about, description=about.capitalize() + ".", epilog=after)
    run.set_defaults(do=_run)
    run.add_argument(
        "--profile", required=True, help="demo, paper, or another file of notebooks/profiles"
    )
    run.add_argument("--out", help="the run's folder (default: outputs/<profile>)")
    run.add_argument(
        "--only", **several, metavar="NOTEBOOK", help="these notebooks, by the start of their names"
    )
    run.add_argument(
        "--set", **several, metavar="NAME=VALUE", help="parameters in place of the profile's"
    )
    run.add_argument(
        "--fresh", action="store_true", help="forget what the run's folder holds and start over"
    )
    run.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="notebooks side by side (default: one a core; one on a GPU)",
    )
    run.add_argument(
        "--limit", type=_seconds, metavar="TIME", help="of the whole run: 90, 90s, 15m or 2h"
    )
    run.add_argument("--cell-limit", type=_seconds, metavar="TIME", help="of each cell")
    run.add_argument(
        "--notebooks", type=Path, default=PROJECT / "notebooks", help="the folder of notebooks"
    )
    many = run.add_argument_group(
        "sweeps", "a run for each seed, and for each value of a list: --set flow_width=[40,224]"
    )
    many.add_argument("--seeds", **several, type=int, metavar="SEED")
    many.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="runs at a time (default: one a core; one on a GPU)",
    )
    many.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask cluster instead of this machine: tcp://host:port",
    )

    page = commands.add_parser("report", help="write a run's page, report.html, into its folder")
    page.set_defaults(do=_report)
    check = commands.add_parser(
        "verify", help="check a run's files, and compute some of its numbers again"
    )
    check.set_defaults(do=_verify)
    for command in (page, check):
        command.add_argument(
            "folders", nargs="*", type=Path, help="runs' folders (default: all in outputs/)"
        )
    check.add_argument(
        "--data", default="", metavar="FOLDER", help="of the datasets (default: $FPN_DATA)"
    )
    check.add_argument("--files-only", action="store_true", help="compute nothing")
    return parser


def _run(given: argparse.Namespace) -> None:
    if given.fresh and given.only:
        raise ValueError(
            "--fresh starts a whole run over; to run one notebook again, delete its executed copy"
        )
    notebooks, values = given.notebooks.resolve(), _values(given.set)
    if "out" in values:
        raise ValueError(f"a run's folder is given with --out {values['out']}, not with --set")
    common = dict(out=_folder(given.out), only=given.only, fresh=given.fresh, notebooks=notebooks)
    cluster = dict(seeds=given.seeds, workers=given.workers, scheduler=given.scheduler)
    many = given.seeds or given.workers is not None or given.scheduler is not None
    if many or runs.fan_out(values, given.only, notebooks):
        if given.jobs is not None:
            raise ValueError(
                "--jobs is of one run's notebooks; in a sweep --workers says how many runs at a time"
            )
        from fpnlib.runs import sweeps  # here and below: what other commands need not wait for

        limits = (given.cell_limit, given.limit)
        folder = sweeps.sweep(given.profile, values=values, **common, **cluster, limits=limits)
        print(f"\n{(folder / Manifest.SUMMARY).read_text()}\nin {folder}")
        return
    limits = runs.Limits(given.cell_limit, given.limit)
    runs.run(given.profile, values=values, **common, side_by_side=given.jobs, limits=limits)


def _report(given: argparse.Namespace) -> int:
    from fpnlib.runs import report

    failed = []
    for folder in given.folders or _runs():
        try:
            print(report.write(folder))
        except (ValueError, OSError) as error:  # the other folders get their pages
            failed.append(error)
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    return 2 if failed else 0


def _verify(given: argparse.Namespace) -> int:
    from fpnlib.runs import verify

    wrong = []
    for folder in given.folders or _runs():
        print(f"{folder}:")
        found = verify.verify(
            folder, given.data, numbers=not given.files_only, say=lambda line: print(f"  {line}")
        )
        wrong += [f"{folder}: {line}" for line in found]
    for line in wrong:
        print(f"does not hold: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _runs() -> list[Path]:
    """The runs in ``outputs``. Raises FileNotFoundError where there is none."""
    folders = [path.parent for path in sorted((PROJECT / "outputs").glob("*/manifest.json"))]
    if not folders:
        raise FileNotFoundError(
            f"no run in {PROJECT / 'outputs'}; name a folder, or make one: make demo"
        )
    return folders


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
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"--set gives {twice[0]} twice; for a run of each value give a list: {twice[0]}=[1,2]"
        )
    try:
        return {name: yaml.safe_load(value) for name, _, value in pairs}
    except yaml.YAMLError as error:
        raise ValueError(
            f"--set takes a value as YAML has it: {' '.join(str(error).split())}"
        ) from None


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(
            f"a time is a number of seconds, or like 90s, 15m or 2h, got '{text}'"
        )
    return seconds


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's "stop" is a Ctrl-C
    sys.exit(main())
