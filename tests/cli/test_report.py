"""fedkd report: a page about runs; what it cannot do it says in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import Fedkd, fedkd  # noqa: F401 - a fixture

from fedkd import Experiment, simulate

DATA = {"clients": 2, "partition": "iid", "train_limit": 40, "test_limit": 20}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one experiment, and a run on other data."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        place = folder / "seeds" / f"seed-{seed}"
        simulate(Experiment(strategy="local", nets="mlp", rounds=1, seed=seed, data=DATA), out=place)
    simulate(Experiment(strategy="local", nets="mlp", rounds=1, data={**DATA, "source": "wine"}), out=folder / "wine")
    return folder


@pytest.mark.slow
def test_a_page_of_seeds_says_what_was_typed_and_on_what_it_ran(fedkd: Fedkd, runs: Path, tmp_path: Path) -> None:  # noqa: F811
    done = fedkd(f"fedkd report {runs / 'seeds'} --out {tmp_path / 'new' / 'page.html'}")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "new" / "page.html"))
    page = (tmp_path / "new" / "page.html").read_text()
    assert "local on digits, 2 seeds" in page and "Command line" in page and "±" in page and "@misc{alpaydin1998digits," in page
    assert str(runs) not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("{empty}", "is no run and holds none: give directories that `fedkd run` wrote"),
        ("{runs}/wine {runs}/seeds", "/seed-0 are on other data (wine and digits): write a report for each data set"),
        ("{runs}/wine --out {runs}/wine/env.json/page.html", "cannot write"),
        ("{runs}/nowhere", "is no run and holds none"),
        ("{runs}/wine --port 99999999", "port"),
        ("{empty} --serve", "is no run and holds none"),
    ],
)
def test_bad_input_is_one_line(fedkd: Fedkd, runs: Path, tmp_path: Path, words: str, told: str) -> None:  # noqa: F811
    done = fedkd(f"fedkd report {words.format(runs=runs, empty=tmp_path)}")
    assert done.code == 2 and told in done.err and len(done.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_it_is_served_until_it_is_interrupted(runs: Path) -> None:
    command = [str(Path(sys.executable).with_name("fedkd")), "report", str(runs / "wine"), "--serve"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and line.endswith("(Ctrl-C ends it)\n")
        server.send_signal(2)
        out, err = server.communicate(timeout=60)
        assert (server.returncode, out, err) == (0, "", "")
    finally:
        server.kill()
        server.communicate()
