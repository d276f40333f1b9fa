"""The axes of a grid: from ``KEY=VALUE,VALUE`` as typed to the cells of their product, each with a place of its own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from fedkd.base.config_text import located, read_toml
from fedkd.base.errors import InputError, Notice
from fedkd.engine.cells import Cell, cells_of_seeds
from fedkd.engine.one_run import tell_what_is_idle
from fedkd.experiment.experiment import Experiment
from fedkd.experiment.run_config import tables_of_file

#: The axis of strategies: another than the file's comes without the file's own keys of [strategy].
STRATEGY = "strategy"


def parse_axes(texts: Iterable[str]) -> dict[str, list[str]]:
    """Axes as typed: keys with their values, each value once. Raises InputError for one that is none.

    >>> parse_axes(["strategy=fedmd,dsfl", "data.alpha=0.1,1.0", "net_options.mlp.hidden=[64],[128,64]"])
    {'strategy': ['fedmd', 'dsfl'], 'data.alpha': ['0.1', '1.0'], 'net_options.mlp.hidden': ['[64]', '[128,64]']}
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, rest = (part.strip() for part in text.partition("="))
        values = list(dict.fromkeys(split_values(rest)))
        if not equals or not all(part.strip() for part in key.split(".")) or not all(values):
            raise InputError(f"--grid {text}: write KEY=VALUE,VALUE, e.g. --grid data.alpha=0.1,1.0")
        key = STRATEGY if key == "strategy.name" else key
        if key in axes:
            raise InputError(f"--grid {text}: {key} has an axis already: give all its values in one")
        if key == "seed":
            raise InputError(f"--grid {text}: seeds are given as --seeds 0-4")
        axes[key] = values
    return axes


def split_values(text: str) -> list[str]:
    """The values between the commas that stand outside of brackets and quotes.

    >>> split_values("0.1,1.0"), split_values("[64],[128,64]"), split_values('{cnn = 0.5, mlp = 0.5},"a,b"')
    (['0.1', '1.0'], ['[64]', '[128,64]'], ['{cnn = 0.5, mlp = 0.5}', '"a,b"'])
    """
    return [part.strip() for part in re.findall(r"""(?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,])+|(?<=,)(?=,|$)|^$""", text)]


def cells_of_grid(
    file: Path, overrides: Mapping[str, str], axes: Mapping[str, Sequence[str]], seeds: Sequence[int] | None, out: Path
) -> list[Cell]:
    """The cells of a grid, in the order of its axes, the seeds last: ``out/strategy=fedmd,alpha=0.1/seed-0``.

    Every one is checked, with its data, before this returns. Without ``seeds`` the file's own seed is taken.

    Raises:
        InputError: the first cell that cannot be run, or whose directory holds something else. It is named.
    """
    if twice := sorted(axes.keys() & {STRATEGY if key == "strategy.name" else key for key in overrides}):
        raise InputError(f"{twice[0]} is an axis of the grid and is set too: leave one of them out")
    own = own_strategy(file)
    cells: dict[Path, Cell] = {}
    names = short_names(axes)
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        place = ",".join(f"{names[key]}={as_file_name(value)}" for key, value in chosen.items())
        try:
            if chosen.get(STRATEGY) == own:
                del chosen[STRATEGY]
            experiment = _experiment(file, {**_first(chosen, STRATEGY), **overrides, **chosen})
            for cell in cells_of_seeds(experiment, seeds or [experiment.seed], out / place):
                cell.check()
                _check_data(cell.experiment)
                if cell.out in cells:
                    raise InputError(f"two cells would lie in {cell.out}: give values that differ in letters and digits")
                cells[cell.out] = cell
        except InputError as error:
            raise InputError(f"{place}: {error}" if place else str(error)) from None
    return list(cells.values())


def own_strategy(file: Path) -> str:
    """The name of the strategy that a file gives, as typed there."""
    given = tables_of_file(read_toml(file)[1]).get("strategy", "fedavg")
    return str(given.get("name", "fedavg") if isinstance(given, Mapping) else given)


def _first(chosen: Mapping[str, str], key: str) -> dict[str, str]:
    """The key alone, if it was chosen: laid below the others, it replaces a table before they go into it."""
    return {key: chosen[key]} if key in chosen else {}


def _experiment(file: Path, overrides: Mapping[str, str]) -> Experiment:
    experiment = Experiment.from_toml(file, overrides)
    with located(file.name, read_toml(file)[0], besides=overrides):
        tell_what_is_idle(experiment, overrides.get("engine.name"))
    return experiment


def _check_data(experiment: Experiment) -> None:
    """Cut the data, which a seed may not be able to."""
    if experiment.clients_are_here:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # the run says it again
            experiment.run_federation.partition_table()


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """What each key is called in a path: its last word, or, where two end in the same, all of it.

    >>> short_names(["strategy", "data.alpha", "strategy.temperature"])
    {'strategy': 'strategy', 'data.alpha': 'alpha', 'strategy.temperature': 'temperature'}
    >>> short_names(["train.lr", "server.lr"])
    {'train.lr': 'train.lr', 'server.lr': 'server.lr'}
    """
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def as_file_name(value: str) -> str:
    """A value as a file may be called.

    >>> as_file_name("0.1"), as_file_name("-1"), as_file_name("my_module:net"), as_file_name("[128, 64]")
    ('0.1', '-1', 'my_module_net', '128_64')
    """
    return re.sub(r"[^\w.+-]+", "_", value).strip("_.") or "none"
