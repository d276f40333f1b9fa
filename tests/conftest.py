"""What all tests share. Tests may import each other's examples: every folder of tests stands on the path."""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:  # pytest-xdist's first process reads this file and runs no test: nothing heavy is imported for it
    from fedkd import Experiment
    from fedkd.grids import JobGrid

FOLDERS = sorted({str(path.parent) for path in Path(__file__).parent.rglob("*.py")})
sys.path[:0] = FOLDERS
os.environ["OMP_NUM_THREADS"] = "1"  # the nets are small and the cores shared
settings.register_profile("fedkd", derandomize=True, deadline=None, max_examples=25)  # the same examples in every run
settings.load_profile("fedkd")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests, with a logical GPU; a RayGrid uses it and leaves it running."""
    import ray

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", FutureWarning)
        patch.setenv("PYTHONPATH", os.pathsep.join(FOLDERS))  # where its workers find the tests' examples
        ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever runs in other processes is slow: starting Ray, or an interpreter for each call, costs seconds."""
    for item in items:
        of_ray = {"ray_session", "hired"}.intersection(getattr(item, "fixturenames", ()))
        if of_ray or "RayGrid" in item.name or "ForgetfulGrid" in item.name:
            item.add_marker(pytest.mark.slow)


#: Files whose tests go on from the same runs.
SHARED = ("test_damaged.py", "test_going_on.py", "test_representations.py", "test_saved_nets.py")
#: Files whose tests share servers, whatever strategy each is about.
SERVED = ("test_secure_deployment.py",)
STRATEGIES = {file.stem for file in Path(__file__).parents[1].glob("strategies/*.py")}


def company(test: str) -> str:
    """What a test has in common with those that had better run in its process: Ray, a strategy's usual run, or its file's.

    >>> company("tests/contract/test_every_strategy.py::test_a_bad_upload[turns_nan-fedavg]")
    'fedavg'
    """
    if re.search(r"(?<![a-z])ray(?![a-z])|RayGrid", test):
        return "ray"
    file, _, name = test.partition("::")
    if Path(file).name in SERVED:
        return file
    strategies = STRATEGIES.intersection(re.split(r"[\[\]-]", name))
    return min(strategies, default=file if Path(file).name in SHARED else test)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, whose own xdist_group does nothing beside pytest 9.2
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side, one process runs all tests that share what takes long to make."""
    from xdist.scheduler import LoadScopeScheduling

    class InCompany(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return company(nodeid)

    return InCompany(config, log)


def every_grid() -> list[type[JobGrid]]:
    """Every grid that fedkd exports, found by looking, and the one that forgets all between calls."""
    from grids.forgetful import ForgetfulGrid

    from fedkd import grids

    exported = [value for value in map(grids.__getattr__, grids.__all__) if inspect.isclass(value)]
    return [*(g for g in exported if issubclass(g, grids.JobGrid) and not inspect.isabstract(g)), ForgetfulGrid]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that makes a grid is a test of every grid."""
    if "make_grid" in metafunc.fixturenames:
        metafunc.parametrize("make_grid", every_grid(), ids=lambda grid: grid.__name__, indirect=True)


@pytest.fixture(scope="session")
def hired(ray_session: None) -> Iterator[Callable[[], JobGrid]]:
    """A factory of grids that run on the same two Ray workers."""
    from grids.hired import AnyApp, HiredGrid

    from fedkd.grids import RayGrid

    with RayGrid(actors=2).open(AnyApp(), 4) as workers:
        yield lambda: HiredGrid(workers)


@pytest.fixture
def make_grid(request: pytest.FixtureRequest) -> Callable[[], JobGrid]:
    """A factory of each kind of grid. Tests of grids themselves get Ray workers of their own, all others the hired ones."""
    if request.param.__name__ != "RayGrid":
        return request.param
    return request.getfixturevalue("ray_session" if "grids" in request.path.parts else "hired") or request.param


@pytest.fixture
def drawn() -> None:
    """Asks for figures as a user sees them."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere figures stay empty: drawing them takes three times as long as a short run."""
    if "drawn" in request.fixturenames:
        return
    from matplotlib.figure import Figure

    def save(figure: Any, file: Path, **how: object) -> None:
        Path(file).write_text("<svg/>")

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Experiment]:
    """Reads the text of an experiment file."""

    from fedkd import Experiment

    def from_text(text: str, **overrides: str) -> Experiment:
        (tmp_path / "mine.toml").write_text(text)
        return Experiment.from_toml(tmp_path / "mine.toml", overrides)

    return from_text
