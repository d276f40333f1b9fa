"""BibTeX of what a run used: the strategy's papers, the data set, and the libraries that it ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import final

from fedkd.results.environment import read_environment
from fedkd.results.recorded import RecordedRun, Seeds
from fedkd.results.report.parts import Section

#: Fields that say what an entry is for; they are left out of what is shown.
PURPOSES = ("strategies", "data", "software", "engine")


@final
@dataclass(frozen=True)
class Entry:
    """One entry of references.bib."""

    kind: str
    key: str
    fields: Mapping[str, str]

    def serves(self, purpose: str, name: str) -> bool:
        """Whether this is what a strategy, a data set, a library or an engine of this name cites."""
        return bool(name) and name in re.split(r",\s*", self.fields.get(purpose, ""))

    def text(self, **more: str) -> str:
        """As BibTeX has it; an arXiv number says that it is one."""
        shown = {name: value for name, value in self.fields.items() if name not in PURPOSES} | more
        shown |= {"archiveprefix": "arXiv"} if "eprint" in shown else {}
        return f"@{self.kind}{{{self.key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in shown.items()) + "}"


@cache
def entries() -> tuple[Entry, ...]:
    """All entries of references.bib, which has one field a line."""
    text = files("fedkd.results.report").joinpath("references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@(\w+)\{(\S+),\n((?:  .+\n)*)\}$", text, flags=re.MULTILINE)
    return tuple(
        Entry(kind, key, dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, flags=re.MULTILINE))) for kind, key, body in found
    )


def cited_by(run: RecordedRun) -> list[str]:
    """The BibTeX of what this run used, in the order strategy, data, libraries."""
    engine = str(run.experiment.get("engine.name", ""))
    wanted = [("strategies", run.strategy), ("data", str(run.experiment.get("data.source", "")))]
    wanted += [("software", name) for name in ("torch", "flwr", "fedkd")] + [("engine", engine)]
    versions = read_environment(run.path).get("versions") or {}
    texts = []
    for purpose, name in wanted:
        version = {"version": str(versions[name])} if purpose == "software" and versions.get(name) else {}
        texts += [entry.text(**version) for entry in entries() if entry.serves(purpose, name)]
    return texts


def citations(groups: Sequence[Seeds]) -> Section:
    """The section: each entry once."""
    texts = dict.fromkeys(text for group in groups for text in cited_by(group.runs[0]))
    missing = sorted(
        {
            group.runs[0].strategy
            for group in groups
            if not any(e.serves("strategies", group.runs[0].strategy) for e in entries())
        }
    )
    intro = "What these runs used." + (f" fedkd knows of no paper of {', '.join(missing)}." if missing else "")
    return Section("citations", "To cite", intro, texts=[("BibTeX", "\n\n".join(texts))])
