"""The fedkd command."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkd.base.errors import InputError, Notice, RunFailed
from fedkd.cli.audit import audit
from fedkd.cli.compare import compare
from fedkd.cli.demo import demo
from fedkd.cli.deploy_kit import deploy_kit
from fedkd.cli.doctor import doctor
from fedkd.cli.export import export
from fedkd.cli.launch import carry_out_all, engine_settings, parse_changes, parse_seeds, planned, refuse_together, resumed
from fedkd.cli.listings import keys, losses, strategies, targets
from fedkd.cli.new import new
from fedkd.cli.plain_help import PlainCommand
from fedkd.cli.plot import plot
from fedkd.cli.replay import replay
from fedkd.cli.report import report
from fedkd.cli.result import report_result, write_group_of_seeds
from fedkd.cli.resume import resume as resume_command
from fedkd.cli.runs import runs as runs_command
from fedkd.cli.supernode import supernode
from fedkd.cli.sweep import sweep
from fedkd.cli.watch import watch

app = typer.Typer(
    name="fedkd",
    help="Federated and online knowledge distillation: one readable file per algorithm, from laptop to cluster.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted (a run can be resumed).",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        from fedkd import __version__

        print(f"fedkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and end.")
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """Entry point. Bad input: one line on stderr, exit code 2. A failed run: one line, 1. The rest keeps its traceback."""
    from click.exceptions import ClickException

    if sys.argv[1:2] != ["supernode"]:  # a SuperNode says what it does
        os.environ.setdefault("FLWR_LOG_LEVEL", "WARNING")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # Flower reads it when it is imported
    _show_notices()
    try:
        code = app(standalone_mode=False)
    except (InputError, ClickException) as error:
        message = error.format_message() if isinstance(error, ClickException) else str(error)
        print(f"fedkd: error: {' '.join(message.split())}", file=sys.stderr)
        code = 2
    except RunFailed as error:
        print(f"fedkd: the run failed: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _show_notices() -> None:
    """A Notice is one line on stderr, each text once; other warnings stay as Python has them."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, Notice):
            print(f"fedkd: note: {message}", file=sys.stderr)
        else:
            usual(message, category, *rest, **named)

    warnings.simplefilter("once", Notice)
    warnings.showwarning = show


@app.command(cls=PlainCommand)
def run(
    file: Annotated[
        Path | None, typer.Argument(help="The experiment, a TOML file; or pyproject.toml of an app.", show_default=False)
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Where the clients run: in-process, together or ray.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the file's seed.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds, e.g. 0-2 or 0,3,7. Finished ones are skipped.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key, e.g. data.alpha=0.1. With --resume: rounds=30."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's directory, or the seeds' parent [default: runs/FILE-STRATEGY-sSEED].")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Run local, centralised, ensemble and (if nets are equal) fedavg beside it.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the run in DIR.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no rounds, only the result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a round on stdout.")] = False,
) -> None:
    """Run FILE, an experiment in TOML, or go on with a run."""
    from fedkd.engine.begun import begun_early

    if resume is not None:
        given = {
            "FILE": file,
            "--seed": seed,
            "--seeds": seeds,
            "--out": out,
            "--baselines": baselines or None,
        }
        refuse_together("--resume goes on with the experiment in DIR", given)
        launches = [resumed(resume, parse_changes(changes or []))]
        done = carry_out_all(launches, engine, quiet=quiet, as_json=as_json)
    elif file is None:
        raise InputError("give an experiment file, `fedkd run FILE`, or a run to go on with, `fedkd resume DIR`")
    elif seed is not None and seeds is not None:
        raise InputError("give --seed or --seeds, not both")
    else:
        overrides = parse_changes(changes or [])
        if engine is not None:
            overrides["engine.name"] = engine
        numbers = [seed] if seeds is None else parse_seeds(seeds)
        one = seeds is None and not baselines
        with begun_early(engine_settings(file, overrides) if one else {}) as grids:
            launches = planned(file, overrides, numbers, out, several=seeds is not None, baselines=baselines)
            done = carry_out_all(launches, grids.get(launches[0].experiment.engine, engine), quiet=quiet, as_json=as_json)
    if seeds is not None and out is not None and not baselines and len(done) > 1:
        write_group_of_seeds(out, done)
    if done and not (as_json and quiet):
        report_result(done, sys.stderr if as_json else sys.stdout, beside=baselines)
    if failed := len(launches) - len(done):
        raise RunFailed(f"{failed} of {len(launches)} runs {'has' if failed == 1 else 'have'} nothing to show")


COMMANDS = (
    *(plot, replay, report, compare, sweep, watch, demo, audit, export),
    *(strategies, keys, losses, targets, new, doctor),
)
for command in COMMANDS:
    app.command(cls=PlainCommand)(command)
app.command("resume", cls=PlainCommand)(resume_command)
app.command("runs", cls=PlainCommand)(runs_command)
app.command("deploy-kit", cls=PlainCommand)(deploy_kit)
app.command(cls=PlainCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(supernode)
