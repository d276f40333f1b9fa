"""fedkd audit: what a run's uploads tell of its clients' data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedkd.engine.audit.audit import Audit
    from fedkd.engine.audit.membership import Estimate


def audit(
    run: Annotated[Path, typer.Argument(help="The directory of a run with record.uploads = true.", show_default=False)],
    shadows: Annotated[int, typer.Option(help="Runs for the attacker, each with as many clients as the run.")] = 16,
    out: Annotated[Path | None, typer.Option(help="The file of all figures [default: RUN/audit.json].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Attack RUN's last uploads: who trained on which sample, and which labels each client holds."""
    from fedkd.base.errors import InputError
    from fedkd.cli.tables import print_table
    from fedkd.engine.audit.audit import audit as attack
    from fedkd.results.files import write_atomically, writing

    found = attack(run, shadow_runs=shadows, on_shadow=lambda done: _progress(done, shadows))
    text = json.dumps(found.to_json(), indent=1) + "\n"
    with writing(file := out or run / "audit.json", InputError):
        write_atomically(file, text)
    if as_json:
        print(text, end="")
        return
    print_table(membership_rows(found), sys.stdout)
    print_table(label_rows(found), sys.stdout)
    print(f"round {found.round}, {found.clients} clients, {found.shadows} shadow clients of {found.shadow_runs} runs: {file}")


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\rshadow run {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def membership_rows(found: Audit) -> list[dict[str, str]]:
    """The table of membership inference: a row for each thing that the attacker is given."""
    return [
        {
            "members told from others by": name,
            "AUC": _shown(each.auc, "{:.3f}"),
            "found at 0.1 % false": _percent(each.true_positives[0.001]),
            "found at 1 % false": _percent(each.true_positives[0.01]),
            "members / others": f"{each.members} / {each.non_members}",
        }
        for name, each in found.membership.items()
    ]


def label_rows(found: Audit) -> list[dict[str, str]]:
    """The table of label shares: how far a guess is from the truth."""
    first = next(iter(found.label_shares.values()))
    guesses = {name: (each.total_variation, each.kl) for name, each in found.label_shares.items()}
    guesses["no upload: what all hold together"] = (first.prior_total_variation, first.prior_kl)
    guesses["no upload: all labels alike"] = (first.uniform_total_variation, first.uniform_kl)
    return [
        {"label shares guessed from": name, "total variation": f"{distance:.3f}", "KL (nats)": f"{divergence:.3f}"}
        for name, (distance, divergence) in guesses.items()
    ]


def _shown(estimate: Estimate, form: str, times: float = 1.0) -> str:
    value, low, high = (form.format(times * number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _percent(estimate: Estimate | None) -> str:
    return "too few others" if estimate is None else _shown(estimate, "{:.1f}", 100) + " %"
