"""The page: one self-contained file about a run, or about several runs side by side."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from fedkd.results.files import write_atomically
from fedkd.results.recorded import RecordedRun, Seeds, check_runs, group_seeds
from fedkd.results.report.adversity import adversity, conditions
from fedkd.results.report.citations import citations
from fedkd.results.report.classes import classes
from fedkd.results.report.clients import clients
from fedkd.results.report.comparison import comparison
from fedkd.results.report.convergence import convergence
from fedkd.results.report.losses import losses
from fedkd.results.report.names import DETAILED
from fedkd.results.report.partition import partition
from fedkd.results.report.parts import Section
from fedkd.results.report.peers import peers
from fedkd.results.report.protocol import protocol
from fedkd.results.report.representations import representations
from fedkd.results.report.rounds import rounds
from fedkd.results.report.summary import heading, lead, state, tiles
from fedkd.results.report.teaching import flow, teacher
from fedkd.results.report.traffic import traffic

#: In the order of the page.
SECTIONS: tuple[Callable[[Sequence[Seeds]], Section], ...] = (
    comparison,
    convergence,
    clients,
    classes,
    teacher,
    flow,
    peers,
    representations,
    traffic,
    losses,
    adversity,
    partition,
    rounds,
    protocol,
    citations,
)


def write_report(runs: RecordedRun | Sequence[RecordedRun], path: str | Path) -> None:
    """Write the page for one run, finished or not, or for several: seeds of one experiment count as one group."""
    write_atomically(Path(path), render(runs))


def render(runs: RecordedRun | Sequence[RecordedRun], *, refresh: int = 0) -> str:
    """The page as HTML. It loads nothing; its script is known to it by its hash, so that no other could run.

    Args:
        runs: what it is about.
        refresh: for a page that is served: seconds until it asks for a newer one; 0 never.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    several = [runs] if isinstance(runs, RecordedRun) else list(runs)
    check_runs(several)
    groups = group_seeds(several)
    sections = [section for make in SECTIONS if not (section := make(groups)).empty]
    script, style = (
        files("fedkd.results.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.css")
    )
    templates = Environment(loader=PackageLoader("fedkd.results.report", ""), autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True
    return templates.get_template("page.html").render(
        title=heading(groups),
        lead=lead(groups),
        state=state(several),
        warnings=[(group.label, conditions(group.runs[0])) for group in groups if conditions(group.runs[0])],
        several=len(groups) > 1,
        left_out=max(0, len(groups) - DETAILED),
        tiles=tiles(groups[0]) if len(groups) == 1 else [],
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        refresh=refresh,
    )
