"""The command line: ``python -m fpnlib demo | run | report | verify | data``."""

import argparse
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

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
    about = "Flow Plugin Networks: the experiments as notebooks."
    short = "demo is short for run --profile demo"
    parser = argparse.ArgumentParser(prog="fpnlib", description=about, epilog=short)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_run(commands)
    page = commands.add_parser("report", help="write a run's page, report.html, into its folder")
    page.set_defaults(do=_report)
    check = commands.add_parser("verify", help="check a run's files and some of its numbers")
    check.set_defaults(do=_verify)
    for command in (page, check):
        command.add_argument("folders", nargs="*", type=_path, help="default: all in outputs/")
    check.add_argument("--data", type=_path, metavar="FOLDER", help="default: $FPN_DATA")
    check.add_argument("--files-only", action="store_true", help="compute nothing")
    copy = commands.add_parser("data", help="make a small copy of a dataset's images, once")
    copy.set_defaults(do=_prepare)
    copy.add_argument("dataset", choices=["celeba"])
    copy.add_argument("--size", type=int, default=64, help="pixels a side (default: 64)")
    copy.add_argument("--data", type=_path, metavar="FOLDER", help="default: $FPN_DATA")
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    about = "execute the notebooks with a profile's parameters"
    after = "A notebook that fails stops no other; the errors come last, and the exit code is 1."
    run = commands.add_parser("run", help=about, description=about.capitalize() + ".", epilog=after)
    run.set_defaults(do=_run)
    several = {"nargs": "+", "action": "extend", "default": []}
    run.add_argument("--profile", required=True, help="demo, paper, …: see notebooks/profiles")
    run.add_argument("--out", type=_path, metavar="FOLDER", help="default: outputs/<profile>")
    run.add_argument("--only", **several, metavar="NOTEBOOK", help="by the start of its name")
    about = "parameters in place of the profile's; family.name=value for a family's setting"
    run.add_argument("--set", **several, metavar="NAME=VALUE", help=about)
    run.add_argument("--fresh", action="store_true", help="empty the run's folder and start over")
    about = "notebooks side by side (default: one a core; one on a GPU)"
    run.add_argument("--jobs", type=int, metavar="N", help=about)
    run.add_argument("--limit", type=_seconds, metavar="TIME", help="of the run: 90s, 15m or 2h")
    run.add_argument("--cell-limit", type=_seconds, metavar="TIME", help="of each cell")
    run.add_argument("--notebooks", type=_path, metavar="FOLDER", help="the folder of notebooks")
    about = "a run for each seed, and for each value of a list: --set flow_width=[40,224]"
    many = run.add_argument_group("sweeps", about)
    many.add_argument("--seeds", **several, type=int, metavar="SEED")
    about = "runs at a time (default: one a core; one on a GPU)"
    many.add_argument("--workers", type=int, metavar="N", help=about)
    many.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster: tcp://host:port")


def _run(given: argparse.Namespace) -> int:
    from fpnlib.runs import execute  # heavy; here and below, only what the command needs
    from fpnlib.runs.engine import CellError, Limits
    from fpnlib.runs.plan import fan_out

    if given.fresh and given.only:
        raise ValueError("--fresh starts a whole run over; to repeat one notebook, delete its copy")
    values = _values(given.set)
    if "out" in values:
        raise ValueError(f"a run's folder is given with --out {values['out']}, not with --set")
    common = {
        "only": given.only,
        "values": values,
        "fresh": given.fresh,
        "out": given.out and _folder(given.out),
        "notebooks": given.notebooks or PROJECT / "notebooks",
    }
    many = given.seeds or given.workers is not None or given.scheduler is not None
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
        raise ValueError("--jobs is of one run's notebooks; a sweep has --workers")
    folder = sweeps.sweep(
        given.profile,
        seeds=given.seeds,
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
            raise ValueError(f"--set gives {name} twice; for a run of each value give a list")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"--set takes a value as YAML has it: {reason}") from None
    return values


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a time is like 90s, 15m or 2h, got '{text}'")
    return seconds


def _command(arguments: list[str]) -> str:
    """The command that resumes: this one, without what would start over."""
    python = Path(sys.executable)
    found = shutil.which(python.name) == sys.executable
    kept = [argument for argument in arguments if argument != "--fresh"]
    return shlex.join([python.name if found else str(python), "-m", "fpnlib", *kept])
