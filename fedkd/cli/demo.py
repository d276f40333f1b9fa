"""`fedkd demo`: what the package is for, in a minute and without a network."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

#: Each alone, all together by their logits of public samples, and everybody's samples at one place.
GRID = "strategy=local,fedmd,centralised"


def demo(out: Annotated[Path, typer.Option(help="The directory of its nine runs.")] = Path("runs/demo")) -> None:
    """Let nets of two kinds teach each other, beside each alone and all data at one place: three seeds, a report.

    Six clients hold unequal shares of scikit-learn's digits. In FedMD only their logits of 400 public digits travel.
    """
    from fedkd.cli.sweep import sweep

    with as_file(files("fedkd.cli.templates") / "demo.toml") as file:
        sweep(file, grid=[GRID], seeds="0-2", jobs=2, out=out)
    print("local: each client alone; fedmd: their logits travel, their nets differ; centralised: all samples at one place")
    print("next:   fedkd new my-app, or fedkd strategies")
