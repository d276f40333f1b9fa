"""What may stand in one column: the same measure, on the same test samples, of runs that came to their end."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence

from fedkd.base.errors import InputError, Notice
from fedkd.results.curves import headline
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.row_keys import OWN_TEST

#: Sections and keys that groups share where a difference is to be that of their strategies.
SHARED = ("data", "train", "rounds", "participation")


def only_complete(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """The runs that have all their rounds and something to show; a Notice names each of the others, and what to do.

    A mean over seeds of which some have trained for fewer rounds would say nothing. Raises InputError where none is left.
    """
    good = []
    for run in runs:
        if run.failure:
            reason = f"failed and is left out: {run.failure}"
        elif not run.complete:
            of = run.experiment["rounds"]
            reason = f"is unfinished ({max(run.rounds_done, 0)} of {of} rounds) and is left out: go on with `{_resume(run)}`"
        else:
            good.append(run)
            continue
        warnings.warn(f"{run.path} {reason}", Notice, stacklevel=2)
    if not good:
        raise InputError(f"none of the {len(runs)} runs, {runs[0].path} first, came to its end: there is nothing to compare")
    return good


def _resume(run: RecordedRun) -> str:
    return f"fedkd resume {shlex.quote(str(run.path))}"


def check_comparable(groups: Sequence[Seeds], metric: str) -> None:
    """Raise InputError where these groups may not stand in one column: it names the first that differs from the first group.

    Refused are a linear probe beside a classifier, clients' own test samples beside the global test set, and other data. Who
    the accuracy is of may differ: a global net and the mean of clients' own nets are what methods are compared by.
    """
    first = groups[0]
    for group in groups:
        _refuse_twice(group)
        if metric == "accuracy":
            for of, what in ((_kind, "another measure"), (_test_set, "other test samples")):
                if (one := of(first.runs[0])) != (other := of(group.runs[0])):
                    cure = "compare them apart, or another --metric that both have"
                    raise InputError(
                        f"{first.label} ({one}) and {group.label} ({other}) have {what} in the column of accuracy: {cure}"
                    )
        if difference := other_data(first.runs[0], group.runs[0]):
            raise InputError(f"{first.label} and {group.label} are on other data ({difference}): compare them apart")


def tell_incomparable(groups: Sequence[Seeds], metric: str) -> None:
    """A Notice where groups stand in one figure that may not stand in one column."""
    try:
        check_comparable(groups, metric)
    except InputError as error:
        warnings.warn(f"these numbers must not be held against each other: {error}", Notice, stacklevel=2)


def _refuse_twice(group: Seeds) -> None:
    paths: dict[int, RecordedRun] = {}
    for run in group.runs:
        if run.seed in paths:
            both = f"{paths[run.seed].path} and {run.path}"
            raise InputError(f"{group.label}: seed {run.seed} is there twice, in {both}: leave one of them out")
        paths[run.seed] = run


def _kind(run: RecordedRun) -> str:
    """Whether the headline is a probe's, which is fitted with labels after training, or a net's own."""
    return "a linear probe" if "probe" in headline(run) else "a classifier"


def _test_set(run: RecordedRun) -> str:
    return "each client's own test samples" if OWN_TEST in headline(run) else "the global test set"


def other_data(one: RecordedRun, other: RecordedRun) -> str:
    """Whereby the data of two runs differ, in words; empty where they are the same. Who holds which samples may differ."""
    if one.data is None or other.data is None:
        sources = [str(run.experiment.get("data.source", "")) for run in (one, other)]
        return f"{sources[0]} and {sources[1]}" if sources[0] != sources[1] else ""
    if one.data.source != other.data.source:
        return f"{one.data.source} and {other.data.source}"
    if (one.data.content_hash, one.data.classes) != (other.data.content_hash, other.data.classes):
        return f"two versions of {one.data.source}"
    if one.data.test != other.data.test:
        return f"{one.data.test} and {other.data.test} test samples"
    return ""


def tell_missing_seeds(groups: Sequence[Seeds]) -> None:
    """A Notice for each group that lacks seeds which another one has: what is paired is paired on shared seeds alone."""
    seeds = [{run.seed for run in group.runs} for group in groups]
    for group, own in zip(groups, seeds, strict=True):
        if missing := sorted(set().union(*seeds) - own):
            named = f"seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            text = f"{group.label} has no {named}, which others have: differences are taken on the seeds that both have"
            warnings.warn(text, Notice, stacklevel=2)


def tell_other_settings(groups: Sequence[Seeds]) -> None:
    """A Notice of keys of data and training that strategies do not share: labels name them within one strategy alone."""
    runs = [group.runs[0] for group in groups]
    differing = []
    for key in dict.fromkeys(key for run in runs for key in run.identity):
        values: dict[str, set[str]] = {}
        for run in runs:
            values.setdefault(run.strategy, set()).add(repr(run.identity.get(key)))
        if key.partition(".")[0] in SHARED and len(set(map(frozenset, values.values()))) > 1:
            differing.append(key)
    if differing:
        text = (
            f"the groups differ in more than their strategy: {', '.join(differing)}: differences may be those of the settings"
        )
        warnings.warn(text, Notice, stacklevel=2)
