"""What a run cites: an entry for each strategy with a paper, and for the data and libraries that it used."""

from __future__ import annotations

import re

import pytest
from run_rows import MakeRun, rows_of

from fedkd.experiment.registry import strategies
from fedkd.results.recorded import RecordedRun
from fedkd.results.report.citations import cited_by, entries


def test_entries_are_whole_and_each_is_for_something() -> None:
    assert len({each.key for each in entries()}) == len(entries()) > 40
    for each in entries():
        assert {"author", "title"} <= each.fields.keys(), each.key
        assert each.kind == "software" or re.fullmatch(r"(19|20)\d\d", each.fields["year"]), each.key
        assert each.fields.keys() & {"strategies", "data", "software", "engine"}, each.key


@pytest.mark.slow
def test_every_strategy_with_a_paper_has_an_entry_of_the_same_number() -> None:
    for name, cls in strategies().items():
        cited = [each for each in entries() if each.serves("strategies", name)]
        assert cls.paper.startswith("none") or cited, name
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", cls.paper):
            assert any(each.fields.get("eprint") == number for each in cited), (name, number)
        for surname, year in re.findall(r"(\w+)(?: and \w+| et al\.)[^;]*? (\d{4})\b", cls.paper.partition("arXiv")[0]):
            found = [each for each in cited if f"{surname}," in each.fields["author"] and each.fields["year"] == year]
            assert found, (name, surname, year)


def test_a_run_cites_its_strategy_its_data_and_what_it_ran_on(make_run: MakeRun) -> None:
    run = RecordedRun.read(make_run(strategy="feddistill", rows=rows_of(0.1, 0.2)).path)
    kinds = [re.match(r"@(\w+)\{(\w+),", text) for text in cited_by(run)]
    assert [kind[2] for kind in kinds if kind] == [
        *("jeong2018fd", "zhu2021fedgen", "alpaydin1998digits", "paszke2019pytorch", "beutel2020flower", "fedkd")
    ]
    assert all(text.count("{") == text.count("}") and "strategies =" not in text for text in cited_by(run))
