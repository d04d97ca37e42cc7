"""The command line: ``python -m fpnlib demo | run | report | verify | data``."""

import argparse
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fpnlib.store import PROJECT


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command's words; None: those of this process.

    Returns:
        The exit code: 0; 1 if a cell failed or a check did not hold; 2 if the command was not
        understood or a folder is not usable; 130 if it was interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["demo"]:
        arguments = ["run", "--profile", "demo", *arguments[1:]]
    given = _parser().parse_args(arguments)
    try:
        return given.do(given)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; to resume: {_command(arguments)}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    about = "Run the notebooks of the Flow Plugin Network, and look at what they made."
    parser = argparse.ArgumentParser(prog="python -m fpnlib", description=about)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_run(commands)
    commands.add_parser("demo", help="short for: run --profile demo")
    page = _add(commands, "report", "write report.html, a page of figures and tables, for each run")
    page.set_defaults(do=_report)
    check = _add(commands, "verify", "check the files of runs, and compute some numbers again")
    check.set_defaults(do=_verify)
    for command in (page, check):
        about = "folders of runs (default: all in outputs)"
        command.add_argument("folders", nargs="*", type=_path, help=about)
    check.add_argument("--files-only", action="store_true", help="check the files only")
    copy = _add(commands, "data", "store cropped and resized copies of a dataset's images")
    copy.set_defaults(do=_prepare)
    copy.add_argument("dataset", choices=["celeba"])
    copy.add_argument("--size", type=int, default=64, help="width in pixels (default: 64)")
    for command in (check, copy):
        about = "folder of the datasets (default: $FPN_DATA, else data)"
        command.add_argument("--data", type=_path, metavar="FOLDER", help=about)
    return parser


def _add(commands: argparse._SubParsersAction, name: str, about: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=about, description=about.capitalize() + ".")


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = _add(commands, "run", "execute the notebooks with the parameters of a profile")
    run.epilog = "If a notebook fails, the others continue. The exit code is then 1."
    run.set_defaults(do=_run)
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    about = "a file in notebooks/profiles, for example demo or paper"
    run.add_argument("--profile", required=True, help=about)
    about = "the run's folder (default: outputs/<profile>)"
    run.add_argument("--out", type=_path, metavar="FOLDER", help=about)
    about = "only these notebooks, by the first characters of their names: 04 08"
    run.add_argument("--only", **several, metavar="NOTEBOOK", help=about)
    about = "replace a notebook's parameter (seed=1) or a family's setting (digits.flow_epochs=8)"
    run.add_argument("--set", **several, metavar="NAME=VALUE", help=about)
    run.add_argument("--fresh", action="store_true", help="empty the run's folder and start over")
    about = "notebooks that run at the same time (default: one for each core; one on a GPU)"
    run.add_argument("--jobs", type=int, metavar="N", help=about)
    about = "stop the run after this time: 90s, 15m or 2h"
    run.add_argument("--limit", type=_seconds, metavar="TIME", help=about)
    about = "stop a cell after this time"
    run.add_argument("--cell-limit", type=_seconds, metavar="TIME", help=about)
    about = "folder of the notebooks (default: notebooks)"
    run.add_argument("--notebooks", type=_path, metavar="FOLDER", help=about)
    about = "One run for each seed and each value of a list: --set digits.flow_width=[40,224]"
    many = run.add_argument_group("sweeps", about)
    many.add_argument("--seeds", **several, type=int, metavar="SEED", help="one run for each seed")
    about = "runs at the same time (default: one for each core; one on a GPU)"
    many.add_argument("--workers", type=int, metavar="N", help=about)
    about = "run on a Dask cluster: tcp://host:port"
    many.add_argument("--scheduler", metavar="ADDRESS", help=about)


def _run(given: argparse.Namespace) -> int:
    from fpnlib.runs import execute  # heavy; here and below, only what the command needs
    from fpnlib.runs.engine import CellError, Limits
    from fpnlib.runs.plan import fan_out

    if given.fresh and given.only:
        raise ValueError(
            "--fresh starts the whole run over; to repeat one notebook, delete its executed copy"
        )
    values = _values(given.set)
    if "out" in values:
        raise ValueError(f"the run's folder is set with --out {values['out']}, not with --set")
    if given.seeds and "seed" in values:
        raise ValueError("--seeds and --set seed=… both say the seed; give one of them")
    if given.seeds:
        values["seed"] = given.seeds  # a list, which fans out
    common = {
        "only": given.only,
        "values": values,
        "fresh": given.fresh,
        "out": given.out and _folder(given.out),
        "notebooks": given.notebooks or PROJECT / "notebooks",
    }
    many = given.workers is not None or given.scheduler is not None
    try:
        if many or fan_out(values, given.only, common["notebooks"]):
            return _sweep(given, common)
        limits = Limits(given.cell_limit, given.limit)
        execute.run(given.profile, side_by_side=given.jobs, limits=limits, **common)
    except CellError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def _sweep(given: argparse.Namespace, common: dict) -> int:
    from fpnlib.runs import sweeps
    from fpnlib.store import Manifest

    if given.jobs is not None:
        raise ValueError("--jobs is for the notebooks of one run; for a sweep use --workers")
    folder = sweeps.sweep(
        given.profile,
        workers=given.workers,
        scheduler=given.scheduler,
        limits=(given.cell_limit, given.limit),
        **common,
    )
    print(f"\n{(folder / Manifest.SUMMARY).read_text()}\nin {folder}")
    return 0


def _report(given: argparse.Namespace) -> int:
    from fpnlib.runs import report

    failures = []
    for folder in given.folders or _runs():
        try:
            print(report.write(folder))
        except (ValueError, OSError) as error:  # the other folders get their pages
            failures.append(error)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 2 if failures else 0


def _verify(given: argparse.Namespace) -> int:
    from fpnlib.runs import verify

    wrong, say = [], partial(print, " ")
    data = str(given.data or "")
    for folder in given.folders or _runs():
        print(f"{folder}:")
        found = verify.verify(folder, data, numbers=not given.files_only, say=say)
        wrong += [f"{folder}: {line}" for line in found]
    for line in wrong:
        print(f"does not hold: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _prepare(given: argparse.Namespace) -> int:
    from fpnlib.data.faces import prepare_celeba

    print(prepare_celeba(given.data, given.size))
    return 0


def _runs() -> list[Path]:
    """The runs in ``outputs``."""
    outputs = PROJECT / "outputs"
    folders = [path.parent for path in sorted(outputs.glob("*/manifest.json"))]
    if not folders:
        raise FileNotFoundError(f"no run in {outputs}; name a folder, or make one: make demo")
    return folders


def _path(text: str) -> Path:
    """A path as the shell means it: relative to the working directory, ``~`` is the user's home."""
    if not text:  # a variable of the shell that is not set
        raise argparse.ArgumentTypeError("expected a folder, got an empty name")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _folder(path: Path) -> str:
    """A folder's name, relative to the project if it lies inside."""
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else str(path)


def _values(assignments: list[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise ValueError(f"--set takes name=value, got '{name}'")
        if name in values:
            raise ValueError(f"--set has {name} twice; a list of values makes one run for each")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"--set takes a value in YAML: {reason}") from None
    return values


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a time like 90s, 15m or 2h, got '{text}'")
    return seconds


def _command(arguments: list[str]) -> str:
    """The command that resumes: this one, without what would start over."""
    python = Path(sys.executable)
    found = shutil.which(python.name) == sys.executable
    kept = [argument for argument in arguments if argument != "--fresh"]
    return shlex.join([python.name if found else str(python), "-m", "fpnlib", *kept])
