"""Cells of a table: one run each, in processes of one thread side by side, each written when it is done."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


def fill(
    cells: Sequence[Any],
    run: Callable[[Any], dict[str, Any]],
    results: Path,
    *,
    describe: Callable[[dict[str, Any]], str],
    workers: int,
) -> None:
    """Run cells and append a line of JSON for each, so that nothing is lost by a Ctrl-C; ``describe`` says it to the user."""
    os.environ.update(OMP_NUM_THREADS="1", FLWR_TELEMETRY_ENABLED="0")
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(run, cell) for cell in cells]
        try:
            for number, done in enumerate(as_completed(runs), start=1):
                line = done.result()
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"  {number}/{len(cells)} {describe(line)} in {line['seconds']:.0f} s", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def lines_of(results: Path, setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of this very setting."""
    return [line for line in written(results) if line["setting"] == json.loads(json.dumps(setting))]


def written(results: Path) -> list[dict[str, Any]]:
    """All lines; one that a crash cut off does not count."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]


def finished(cells: Iterable[Any], results: Path) -> dict[Any, dict[str, Any]]:
    """The lines that are there of these cells, which have a ``method``, a ``seed`` and a ``setting()``."""

    def key(method: str, seed: int, setting: Mapping[str, Any]) -> str:
        return json.dumps([method, seed, setting], sort_keys=True)

    last = {key(line["method"], line["seed"], line["setting"]): line for line in written(results)}
    keys = {cell: key(cell.method, cell.seed, cell.setting()) for cell in cells}
    return {cell: last[made] for cell, made in keys.items() if made in last}


def put_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Put tables into a page, each between ``<!-- its name -->`` and ``<!-- end -->``."""
    text = page.read_text()
    for name, table in tables.items():
        mark = f"<!-- {name} -->"
        block = f"{mark}\n{table}\n<!-- end -->"
        text, times = re.subn(f"{mark}\n.*?<!-- end -->", lambda _, block=block: block, text, flags=re.S)
        if times != 1:
            raise SystemExit(f"{page}: {mark} ... <!-- end --> stands there {times} times: it must once")
    page.write_text(text)


def intervals_over(found: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], key: str) -> str:
    """One method's lines minus another's in points, seed by seed: the mean and half its 95 % interval; empty for none."""
    from fedkd.results.statistics import mean_interval

    theirs = {line["seed"]: line[key] for line in base}
    values = [100 * (line[key] - theirs[line["seed"]]) for line in found if line["seed"] in theirs]
    if not values:
        return ""
    mean, half = mean_interval(values)
    return f"{mean:+.1f} ± {half:.1f}" if len(values) > 1 else f"{mean:+.1f}"
