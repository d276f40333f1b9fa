"""The report is one page: whole without a script or a network, readable by eye, by keyboard and by a screen reader."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_rows import MakeRun, rows_of

from fedkd.base.errors import InputError
from fedkd.results.files import append_lines, write_atomically
from fedkd.results.logs import CLIENTS
from fedkd.results.recorded import RecordedRun, find_runs
from fedkd.results.report import render, write_report
from fedkd.results.report.adversity import kind_of
from fedkd.results.report.sources import refuse_finishing, refuse_mixed


class Page(HTMLParser):
    """What a page is made of: (tag, attributes) in order, and which tags are open around each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def many(rounds: int, clients: int, classes: int = 3) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and lines of a run in which something is different everywhere."""
    rows = rows_of(*((round + 1) / (rounds + 2) for round in range(rounds + 1)))
    for row in rows:
        share = row["accuracy"]
        row |= {
            "client_accuracy": share,
            "worst_tenth_accuracy": share / 2,
            "class_accuracy": [share / (k + 1) for k in range(classes)],
        }
        row |= {"loss": 2 - share, "cross_entropy": 1.5 - share, "distillation": 0.5, "bytes_down": 3 * row["bytes_up"]}
        row |= {"clients_ok": clients - 1, "clients_late": 0, "clients_failed": 1, "evaluation_bytes": 9}
    lines = [{"client": k, "status": "ok", "accuracy": round(k / clients, 4), "bytes_up": 10} for k in range(clients)]
    lines[-1] |= {"status": "failed", "reason": "ValueError: client 7: loss is nan\n  File somewhere"}
    return rows, lines


@pytest.fixture
def eventful(make_run: MakeRun) -> RecordedRun:
    """A run of which every section has something to show but those of special methods."""
    rows, lines = many(3, 4)
    return RecordedRun.read(make_run(rows=rows, clients=lines, finish=True).path)


def test_every_region_has_a_name_and_every_figure_its_words_and_its_numbers(eventful: RecordedRun) -> None:
    page = Page(render(eventful))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    sections = page.all("section")
    assert {
        "convergence",
        "clients",
        "classes",
        "bytes",
        "losses",
        "adversity",
        "partition",
        "rounds",
        "protocol",
        "citations",
    } == {each["id"] for each in sections}
    assert all(each["aria-labelledby"] in ids for each in sections)
    assert {tag for tag, _ in page.tags} >= {"header", "nav", "main", "footer", "h1"} and page.all("nav")[0]["aria-label"]
    assert {f"#{each['id']}" for each in sections} <= {each.get("href") for each in page.all("a")}
    drawings = [each for each in page.all("svg") if "aria-hidden" not in each]
    assert drawings and all(each["role"] == "img" and len(each["aria-label"]) > 20 for each in drawings)
    assert "to 80.0 % in round 3" in drawings[0]["aria-label"]
    figures = render(eventful).split("<figure")[1:]
    assert figures and all("<details>" in each and "<table>" in each.partition("</figure>")[0] for each in figures)
    assert all(each["aria-label"] for each in [tag for _, tag in page.tags if tag.get("role") == "region"])


def test_nothing_is_loaded_and_no_other_script_could_run(eventful: RecordedRun) -> None:
    page = Page(render(eventful))
    links = [
        value for _, tag in page.tags for name, value in tag.items() if name in ("src", "href", "srcset", "action", "data")
    ]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "form", "base"}
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "script-src 'sha256-" in policy and "connect-src" not in policy


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "clients"), [(100, 20), (100, 100), (20, 600)])
def test_a_long_run_of_many_clients_is_a_small_file(rounds: int, clients: int, tmp_path: Path, make_run: MakeRun) -> None:
    rows, lines = many(rounds, clients)
    path = make_run(rows=rows[:1]).path
    for row in rows[1:]:
        append_lines(path / "metrics.jsonl", [row])
    append_lines(path / CLIENTS, [{"round": row["round"], **line} for row in rows for line in lines])
    write_report(RecordedRun.read(path), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_000_000


def test_seeds_are_a_line_with_a_band_and_other_experiments_other_lines(make_run: MakeRun) -> None:
    for seed in range(2):
        make_run(f"a-{seed}", strategy="fedavg", seed=seed, rows=rows_of(0.1, 0.5 + 0.1 * seed))
        path = make_run(f"b-{seed}", strategy="fedprox", seed=seed, rows=rows_of(0.1, 0.3)).path
    text = render(find_runs([path.parent]))
    page = Page(text)
    assert page.all("h1") and "fedavg, fedprox on digits" in page.text and "2 experiments, 4 runs" in page.text
    names = [each["data-name"] for each in page.all("g") if "data-name" in each]
    assert names[:2] == ["fedavg", "fedprox"]
    assert "55.0 ± 63.5 %" in page.text  # t(0.975, 1) = 12.706, times 0.0707 / sqrt(2)
    assert text.count('class="band"') >= 2 and "In what the experiments differ" in page.text


def test_cost_is_said_and_energy_or_why_there_is_none(make_run: MakeRun) -> None:
    timed = [{**row, "cpu_seconds": 1.25} for row in rows_of(0.1, 0.3, 0.5)]
    metered = [{**row, "joules": 500.0} for row in timed]
    directory = make_run("metered", rows=metered).path
    page = Page(render(RecordedRun.read(directory))).text
    assert "Accuracy against rounds, uploaded bytes, time, CPU time and energy" in page
    assert "3.8 s" in page and "1.5 kJ" in page
    assert "1.5 kJ of the machine's processor packages, of whatever ran on them; memory and GPUs not counted" in page
    directory = make_run("timed", rows=timed).path
    for why_not, said in (("nobody may read it", "nobody may read it"), ("", "clients were at work on other machines too")):
        environment = json.loads((directory / "env.json").read_text())
        write_atomically(directory / "env.json", json.dumps({**environment, "energy": why_not}))
        page = Page(render(RecordedRun.read(directory))).text
        assert f"not measured: {said}" in page and "CPU time and energy" not in page
    write_atomically(directory / "env.json", "{}")  # of a fedkd that knew of no energy
    assert "not measured" not in Page(render(RecordedRun.read(directory))).text


def test_a_run_that_goes_on_or_failed_says_so(make_run: MakeRun) -> None:
    unfinished = make_run("unfinished", rows=rows_of(0.1, 0.2, 0.3)).path
    text = (unfinished / "experiment.toml").read_text().replace("rounds = 2", "rounds = 9")
    write_atomically(unfinished / "experiment.toml", text)
    assert (
        "The run is not finished: round 2 of 9. These are not its last numbers."
        in Page(render(RecordedRun.read(unfinished))).text
    )
    begun = RecordedRun.read(make_run("begun").path)
    assert "not finished: no round yet" in Page(render(begun)).text
    row = {"round": 1, "clients_ok": 0, "failures": {"0": "OSError: disk"}, "seconds": 1.0}
    failed = RecordedRun.read(make_run("failed", rows=[{"round": 0, "seconds": 1.0}, row]).path)
    assert "nothing to show: no client's upload counted" in Page(render(failed)).text


def test_what_acts_on_clients_stands_in_the_heading(make_run: MakeRun) -> None:
    path = make_run(rows=rows_of(0.1, 0.2)).path
    more = (
        '[faults]\ndropout = 0.25\n[attack]\nname = "label_flip"\nshare = 0.5\n[privacy]\nnoise_multiplier = 2.0\nclip = 3.0\n'
    )
    write_atomically(path / "experiment.toml", (path / "experiment.toml").read_text() + more)
    page = Page(render(RecordedRun.read(path)))
    assert "with simulated faults, an attack and privacy" in page.text
    for words in ("does not answer at all with probability 0.25", "label_flip by 50 % of the clients", "noise of 2 x 3"):
        assert words in page.text


def test_replies_are_counted_by_reason_and_numbers_do_not_tell_reasons_apart(eventful: RecordedRun) -> None:
    text = Page(render(eventful)).text
    assert "ValueError: client #: loss is nan" in text and "ValueError: client 7: loss is nan\n  File somewhere" in text
    assert kind_of("client 3: 1.5e-3 is too far") == "client #: # is too far"


def test_the_code_of_a_user_is_read_and_never_run(make_run: MakeRun) -> None:
    path = make_run(strategy="my_module:Mine", rows=rows_of(0.1, 0.2)).path
    (path / "code").mkdir()
    code = (
        'class Mine:\n    """Clients guess.\n\n    Paper: none, ours.\n    Deviations: it has no maths.\n    """\n\n'
        '    def server_update(self, server, uploads):\n        """The loudest guess <wins>."""\n\nraise SystemExit\n'
    )
    (path / "code" / "strategy.py").write_text(code)
    text = Page(render(RecordedRun.read(path))).text
    for words in (
        "Clients guess.",
        "it has no maths.",
        "The loudest guess <wins>.",
        "raise SystemExit",
        "knows of no paper of my_module:Mine",
    ):
        assert words in text


def test_runs_of_other_data_are_not_put_side_by_side(make_run: MakeRun) -> None:
    one, other = make_run("one", rows=rows_of(0.1, 0.2)).path, make_run("other", rows=rows_of(0.1, 0.2)).path
    data = (other / "data.json").read_text()
    write_atomically(other / "data.json", data.replace('"source": "insects"', '"source": "wine"'))
    with pytest.raises(
        InputError, match=r"one and .*other are on other data \(insects and wine\): write a report for each data set"
    ):
        refuse_mixed([RecordedRun.read(one), RecordedRun.read(other)])
    write_atomically(other / "data.json", data.replace('"ant"', '"emu"'))
    with pytest.raises(InputError, match=r"are on other data \(two versions of insects\): write a report for each"):
        refuse_mixed([RecordedRun.read(one), RecordedRun.read(other)])


def test_a_page_is_not_written_where_it_would_say_that_a_run_has_ended(make_run: MakeRun) -> None:
    path = make_run(rows=rows_of(0.1, 0.2)).path
    with pytest.raises(InputError, match=r"report.html is written when the run has ended, and it has not"):
        refuse_finishing([RecordedRun.read(path)], path / "report.html")
    refuse_finishing([RecordedRun.read(path)], path / "page.html")
