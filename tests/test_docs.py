"""The docs: what they print runs, and nothing that has a name is missing from the generated pages."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from printed import PAGES, ROOT, blocks, name_of

from fedkd import cli
from fedkd.data.partition import partition_names
from fedkd.experiment.keys import experiment_keys, strategy_keys
from fedkd.experiment.registry import strategies
from fedkd.knowledge.attacks import ATTACKS
from fedkd.knowledge.codecs import CODECS
from fedkd.losses.distillers import DISTILLERS
from fedkd.nets import ZOO
from fedkd.results.row_keys import ROW_KEYS
from fedkd.targets import RULES

FLOWER_APP = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message, context):
    return Message(RecordDict({"answer": ConfigRecord({"lr": context.run_config["lr"]})}), reply_to=message)


@server_app.main()
def main(grid, context):
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    assert [reply.content["answer"]["lr"] for reply in grid.send_and_receive(messages)] == [0.1] * 10
"""
PATIENTS = "".join(f"{20 + row % 61},{'abo'[row % 3]},{row % 10},{'yes' if row % 61 > 30 else 'no'}\n" for row in range(400))
#: What makes a printed experiment short: a page is about its keys.
SHORT = (
    "rounds=1",
    "train.epochs=1",
    "evaluate_clients=2",
    "data.train_limit=700",
    "data.test_limit=100",
    "engine.name=in-process",
)
PRINTING = [page for page in PAGES if blocks(page)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory as a user has it beside the repository's experiments; codecs that a page adds are gone afterwards."""
    (tmp_path / "simulations").symlink_to(ROOT / "simulations")
    (tmp_path / "my_flower_app.py").write_text(FLOWER_APP)
    (tmp_path / "patients.csv").write_text("age,blood,clinic,ill\n" + PATIENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    codecs = dict(CODECS)
    yield tmp_path
    CODECS.clear()
    CODECS.update(codecs)
    for name in [
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(tmp_path))
    ]:
        del sys.modules[name]


def fedkd(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    if words[1] in ("run", "sweep"):
        own = any('partition = "own"' in Path(word).read_text() for word in words if word.endswith(".toml"))
        short = [change for change in SHORT if not (own and "train_limit" in change)]  # each client's data are used whole
        words += [word for change in short for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, command


@pytest.mark.slow
@pytest.mark.parametrize("page", PRINTING, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (language, text) in enumerate(blocks(page)):
        if language == "console":
            for command in text.splitlines():
                fedkd(command, monkeypatch)
        elif language == "toml":
            Path(f"block_{number}.toml").write_text(text)
            fedkd(f"fedkd run block_{number}.toml --quiet --out runs/block_{number}", monkeypatch)
        else:
            Path(name_of(text, number)).write_text(text)
            runpy.run_path(name_of(text, number), run_name="__main__")


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_one_after_the_other(place: Path) -> None:
    """What the build of the docs does too, with a kernel."""
    cells = re.findall(
        r"^```{code-cell} python\n(.*?)^```", (ROOT / "docs" / "notebook.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(cells) > 4
    (place / "notebook.py").write_text("\n".join(cells).replace("rounds=6", "rounds=2"))
    found = runpy.run_path("notebook.py")
    assert list(found["groups"]) == ["FedMD", "alone"] and found["last"].shape == (3, 3)


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    """docs/reference.py, which makes the generated pages."""
    sys.path.insert(0, str(ROOT / "docs"))
    import reference

    yield reference
    sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    """Every generated page."""
    return dict(reference.pages())


@pytest.mark.slow
def test_every_name_has_its_words_on_a_generated_page(pages: dict[str, str]) -> None:
    for page, names in {
        "losses": DISTILLERS,
        "targets": RULES,
        "codecs": CODECS,
        "partitions": partition_names(),
        "nets": ZOO,
        "attacks": ATTACKS,
        "keys": [key.name for key in experiment_keys()],
    }.items():
        assert {name for name in names if f"`{name}`" not in pages[page]} == set(), page
    for key in experiment_keys():
        assert key.meaning and key.meaning.replace("|", "\\|") in pages["keys"]
    for each in ROW_KEYS:
        assert f"| `{each.key}` |" in pages["metrics"] and each.meaning in pages["metrics"]
    for name, cls in strategies().items():
        assert cls.paper in pages[f"strategies/{name}"] and cls.sends in pages[f"strategies/{name}"]
        assert all(f"`{key.name}`" in pages[f"strategies/{name}"] for key in strategy_keys(cls))
        assert (ROOT / "simulations" / f"digits_{name}.toml").is_file()


def test_every_strategy_is_in_one_family_and_the_readme_has_the_same_families(reference: ModuleType) -> None:
    families = reference.FAMILIES
    assert sorted(name for _, _, names in families.values() for name in names) == sorted(strategies())
    readme = (ROOT / "README.md").read_text()
    for family, (_, guide, names) in families.items():
        assert f"| [{family}](docs/{guide}.md) | {' '.join(f'`{name}`' for name in names)} |" in readme


@pytest.mark.slow
def test_generated_pages_follow_the_package(
    reference: ModuleType, pages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "gone.md").write_text("# A strategy that is no more")
    monkeypatch.setattr(reference, "pages", lambda: pages)
    reference.write(tmp_path)
    assert {page.stem for page in (tmp_path / "strategies").iterdir()} == set(strategies())
    assert (tmp_path / "keys.md").read_text(encoding="utf-8") == pages["keys"]
