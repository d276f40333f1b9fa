"""report.html: one self-contained page that says what was run, how it was measured and what came out."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkd.results.changes import read_changes
from fedkd.results.curves import headline
from fedkd.results.data import RecordedData
from fedkd.results.environment import read_environment
from fedkd.results.figures.peers import has_peers
from fedkd.results.figures.representation import has_representations
from fedkd.results.files import write_atomically
from fedkd.results.imbalance import imbalance
from fedkd.results.recorded import RecordedRun
from fedkd.results.row_keys import BYTES, OF_ROUNDS, SECONDS, SHARE, describe_key, find_entry, with_test_set
from fedkd.results.statistics import duration, last_measured, size, summary

if TYPE_CHECKING:
    from markupsafe import Markup


def write_report(run: RecordedRun, path: str | Path) -> None:
    """Write the page for a finished (or stopped) run whose figures lie in its directory."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(loader=PackageLoader("fedkd.results", ""), autoescape=True, undefined=StrictUndefined)
    picture, data = run.path / "partition.png", RecordedData.read(run.path)
    run_summary = summary(run.rows)
    page = templates.get_template("report.html").render(
        run=run,
        title=f"{run.strategy} on {run.experiment.get('data.source', 'data')}, seed {run.seed}",
        summary=run_summary,
        averaged=last_measured([run_summary.averaged]) if run_summary else "",
        protocol=protocol(run),
        totals={
            "uploaded": travelled(run, "up"),
            "downloaded": travelled(run, "down"),
            "time": duration(sum(row.get("seconds") or 0 for row in run.rows)),
        },
        columns=list(columns(run)),
        headings=headings(run),
        cell=cell,
        convergence=_inline_svg(run.path / "convergence.svg"),
        peers=_inline_svg(run.path / "peers.svg") if has_peers(run) else "",
        representation=_inline_svg(run.path / "representation.svg") if has_representations(run) else "",
        partition=base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else "",
        imbalance=imbalance(data.client_classes, data.classes) if data else "",
        failures=list(failures(run)),
        environment=dict(_flat(read_environment(run.path))),
    )
    write_atomically(Path(path), page)


def travelled(run: RecordedRun, direction: str) -> str:
    """The bytes of a direction over all rounds; where they were coded, so and raw."""
    raw, coded = (sum(row.get(f"{kind}bytes_{direction}") or 0 for row in run.rows) for kind in ("", "coded_"))
    return f"{size(coded)} coded, {size(raw)} raw" if coded and coded != raw else size(raw)


def headings(run: RecordedRun) -> dict[str, str]:
    """The columns of the table of rounds, metrics key -> heading, in the order of ``OF_ROUNDS``."""
    order = {entry.key: place for place, entry in enumerate(OF_ROUNDS)}
    written = dict.fromkeys(key for row in run.rows for key in row if key != "round")
    places = {key: order[entry.key] for key in written if (entry := find_entry(key)) and entry.key in order}
    return {key: describe_key(key).short for key in sorted(places, key=lambda key: places[key])}


def columns(run: RecordedRun) -> Iterator[str]:
    """The keys to show: those some round has, without one that only repeats the headline accuracy, or the raw bytes."""
    for key in headings(run):
        present = any(row.get(key) is not None and (key != "epsilon" or "epsilon_of" in row) for row in run.rows)
        like = key.removeprefix("coded_") if key.startswith("coded_") else "accuracy"
        repeats = key != like and all(_equal(row.get(key), row.get(like)) for row in run.rows)
        if present and not repeats:
            yield key


def _equal(one: float | None, other: float | None) -> bool:
    """Whether two readings are the same number, summed in whatever order and precision."""
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-6)


def protocol(run: RecordedRun) -> list[tuple[str, str]]:
    """How the numbers came about, as (term, description) pairs."""
    experiment = run.experiment
    every = int(experiment.get("evaluate_every", 1))
    clients = experiment.get("data.clients", "?")
    share = float(experiment.get("participation", 1.0))
    split = float(experiment.get("data.client_test", 0.0))
    peers = ("ensemble_accuracy", "agreement", "peer_divergence") if has_peers(run) else ()
    encoders = ("probe_accuracy", "client_probe_accuracy", "alignment", "uniformity", "client_cka")
    return [
        ("Accuracy", f"of: {with_test_set(headline(run))}, measured {_every(every)}"),
        *map(explained, peers),
        *(explained(key) for key in encoders if any(key in row for row in run.rows)),
        *privacy(run),
        ("Last", "after the last round: the number to quote"),
        ("Best", "the highest of all rounds; it was chosen on the test set and so flatters"),
        explained("client_accuracy", f" ({split:.0%} of each client's samples)"),
        explained("worst_tenth_accuracy"),
        ("Clients", f"{clients}, of which {share:.0%} take part in a round"),
        (
            "Bytes",
            "of training exchanges, summed over clients: raw, as the tensors are; coded, as codecs made them smaller and as "
            "the figure has them; evaluation is counted apart",
        ),
        *changes(run),
        ("Seed", f"{run.seed}; one run is one draw: compare methods over several seeds"),
    ]


def explained(key: str, more: str = "") -> tuple[str, str]:
    """A key as (term, description).

    >>> explained("agreement")[0], explained("client_cka")[0]
    ('Agreement', 'Client CKA')
    """
    heading = describe_key(key).short
    return f"{heading[0].upper()}{heading[1:]}", f"{describe_key(key).meaning}{more}"


def privacy(run: RecordedRun) -> list[tuple[str, str]]:
    """What the noise of a run guarantees, and what it does not cover; nothing where none was drawn."""
    noised = [row for row in run.rows if "epsilon_of" in row]
    if not noised:
        return []
    last = noised[-1]
    spent = f"{last['epsilon']:.4g}" if last["epsilon"] is not None else "without bound"  # infinity is no JSON
    return [
        (
            "Epsilon",
            f"{spent} at delta {last['delta']:g} after the last round, of {last['epsilon_of']}; towards all, the server too",
        ),
        (
            "Not covered by epsilon",
            "whoever knows the seed, from which a simulation draws its noise; that and when a client answers; class names, the "
            "pixels' mean and public samples; clients' accuracies here, which were measured by the experimenter, who has all "
            "data: where clients run elsewhere they are not sent",
        ),
    ]


def changes(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """What was changed when the run was gone on with, as (term, description) pairs."""
    for line in read_changes(run.path):
        changed = {**line.get("keys", {}), **line.get("packages", {})}
        yield (
            f"After round {line['after_round']}",
            "; ".join(f"{k} from {v.get('was')} to {v['is']}" for k, v in changed.items()),
        )


def cell(key: str, value: object) -> str:
    """One entry of the table of rounds.

    >>> cell("accuracy", 0.5), cell("bytes_up", 1500), cell("loss", None)
    ('50.0 %', '1.5 kB', '')
    """
    if not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    unit = describe_key(key).unit
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit == BYTES:
        return size(value)
    return duration(value) if unit == SECONDS else f"{value:.4g}"


def failures(run: RecordedRun) -> Iterator[tuple[int, Any, str]]:
    """(round, client, reason) of every client that gave no usable reply."""
    for row in run.clients:
        if row.get("status", "ok") != "ok":
            yield row["round"], row["client"], str(row.get("reason") or row["status"])
    for measured in run.rows:
        for client, reason in (measured.get("evaluation_failures") or {}).items():
            yield measured["round"], client, f"evaluation: {reason}"


def _every(rounds: int) -> str:
    return "every round" if rounds == 1 else f"every {rounds} rounds"


def _inline_svg(path: Path) -> Markup:
    """The drawing without the XML prologue, which has no place inside HTML; nothing where there is no drawing."""
    from markupsafe import Markup

    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    start = text.find("<svg")
    return Markup(text[start:] if start >= 0 else "")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield prefix + key, "none" if value in (None, []) else size(value) if key == "memory" else text
