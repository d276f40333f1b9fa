"""Who may import whom, and what no file may do: held over the syntax trees of the package and of every strategy."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import fedkd

ROOT = Path(__file__).parents[1]
FILES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("fedkd", "strategies")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
STRATEGIES = sorted(name for name in FILES if name.startswith("strategies/"))
LEAVES = ("fedkd.base.errors", "fedkd.base.user_code")

#: Files whose name starts so -> all that they may import beside the standard library.
LAYERS = {
    "fedkd/base/errors.py": (),
    "fedkd/base/user_code.py": ("fedkd.base.errors",),
    "fedkd/base/randomness.py": ("torch", "numpy"),
    "fedkd/losses/": ("torch", "fedkd.losses", *LEAVES),
    "fedkd/nets/": ("torch", "fedkd.nets", *LEAVES),
    "fedkd/targets/": ("torch", "fedkd.targets", *LEAVES),
    "fedkd/losses/distillers/": ("torch", "pydantic", "fedkd.losses.distillers", "fedkd.losses", "fedkd.nets", *LEAVES),
    "fedkd/knowledge/knowledge.py": ("torch", *LEAVES),
    "fedkd/experiment/algorithm/net_supply.py": (
        "torch",
        "fedkd.knowledge.knowledge",
        "fedkd.nets",
        "fedkd.base.randomness",
        *LEAVES,
    ),
    "fedkd/engine/evaluation/probe.py": ("torch", *LEAVES),
    "fedkd/aggregate/": ("torch", "fedkd.aggregate", "fedkd.knowledge.knowledge", *LEAVES),
    "fedkd/knowledge/attacks.py": ("torch", "fedkd.knowledge.knowledge", *LEAVES),
    "fedkd/knowledge/codecs/": (
        "torch",
        "numpy",
        "fedkd.knowledge.codecs",
        "fedkd.knowledge.knowledge",
        "fedkd.knowledge.codecs.lowrank",
        *LEAVES,
    ),
    "fedkd/knowledge/codecs/lowrank.py": ("torch", *LEAVES),
    "fedkd/knowledge/privacy.py": ("torch", "dp_accounting", *LEAVES),
    "fedkd/experiment/protection.py": (
        *(
            "torch",
            "fedkd.aggregate.nearest_on_simplex",
            "fedkd.knowledge.knowledge",
            "fedkd.knowledge.privacy",
            "fedkd.experiment.algorithm.sections.Privacy",
            *LEAVES,
        ),
    ),
    "fedkd/engine/evaluation/peers.py": ("torch", *LEAVES),
    "fedkd/engine/evaluation/representations.py": ("torch",),
    "fedkd/engine/evaluation/few_labels.py": ("torch",),
    "fedkd/engine/evaluation/score.py": ("torch",),
    "fedkd/knowledge/table.py": ("torch", *LEAVES),
    "fedkd/aggregate/topology.py": ("torch", "networkx", *LEAVES),
    "fedkd/methods/": (
        *(
            "torch",
            "pydantic",
            "fedkd.aggregate",
            "fedkd.losses.distillers",
            "fedkd.engine.evaluation.evaluate",
            "fedkd.experiment.experiment",
            "fedkd.knowledge.knowledge",
        ),
        *(
            "fedkd.knowledge.codecs",
            "fedkd.methods.contrastive",
            "fedkd.engine.evaluation.encoders",
            "fedkd.losses",
            "fedkd.knowledge.codecs.lowrank",
            "fedkd.knowledge.memory",
            "fedkd.methods",
            "fedkd.experiment.algorithm.client",
            "fedkd.nets",
            "fedkd.experiment.algorithm.node",
            "fedkd.experiment.algorithm.optimizer_state",
        ),
        *(
            "fedkd.base.randomness",
            "fedkd.engine.evaluation.representations",
            "fedkd.experiment.algorithm.server",
            "fedkd.engine.strategy",
            "fedkd.knowledge.table",
            "fedkd.targets",
            "fedkd.aggregate.topology",
            "fedkd.experiment.algorithm.train",
            *LEAVES,
        ),
    ),
    "fedkd/results/lost_rounds.py": LEAVES,
    "fedkd/engine/rehearsal.py": (
        *(
            "torch",
            "fedkd.data",
            "fedkd.experiment.named_nets",
            "fedkd.nets",
            "fedkd.experiment.algorithm.node",
            "fedkd.base.randomness",
            "fedkd.experiment.registry",
        ),
        *("fedkd.experiment.algorithm.train", *LEAVES),
    ),
    "fedkd/knowledge/records.py": ("torch", "numpy", "flwr.app", "fedkd.knowledge.knowledge", *LEAVES),
    "fedkd/grids/": ("flwr", "grpc", "ray", "numpy", "fedkd.grids", "fedkd.base.errors"),
}
#: What a strategy may import of fedkd: its public names, and these.
FOR_STRATEGIES = (
    *("aggregate", "base.errors", "knowledge.codecs", "knowledge.knowledge.NEVER_NEGATIVE", "knowledge.privacy", "losses"),
    *("methods", "nets", "targets", "experiment.algorithm.conditions", "experiment.algorithm.optimizer_state.trainable"),
    "experiment.algorithm.train",
)
#: Flower's public modules. What lies elsewhere in flwr may change with any release.
FLOWER = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")
LONGEST = 250


def imports(tree: ast.AST) -> set[str]:
    """Every imported name with its module, e.g. ``fedkd.base.errors.InputError``; inside functions and TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}


def within(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    outside = {
        f"{file}: {name}"
        for file, tree in FILES.items()
        if file.startswith(layer)
        for name in imports(tree)
        if not within(name, *LAYERS[layer])
    }
    assert not outside


@pytest.mark.parametrize("file", STRATEGIES)
def test_a_strategy_imports_public_names_and_no_engine(file: str) -> None:
    names = imports(FILES[file])
    of_fedkd = {name.removeprefix("fedkd.") for name in names if within(name, "fedkd")}
    assert {name for name in of_fedkd if name not in fedkd.__all__ and not within(name, *FOR_STRATEGIES)} == set()
    assert {name for name in names if within(name, "flwr", "ray", "strategies")} == set()


@pytest.mark.parametrize("file", STRATEGIES)
def test_a_strategy_is_read_at_one_go(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines), default=0) <= 120


def test_what_one_strategy_alone_uses_is_in_its_own_file() -> None:
    """Each file of methods/ is used by two strategies or more, straight or through another file there."""
    shared = [file for file in FILES if file.startswith("fedkd/methods/")]
    users = {file: [strategy for strategy in STRATEGIES if file in used_of_methods(strategy)] for file in shared}
    alone = {file: names for file, names in users.items() if len(names) < 2}
    assert {file: names for file, names in alone.items() if not file.endswith("__init__.py")} == {}


@cache
def used_of_methods(file: str) -> frozenset[str]:
    """The files of methods/ that this file imports, those that these import, and so on."""
    used: set[str] = set()
    new = {file}
    while new:
        parts = {name.replace(".", "/") for each in new for name in imports(FILES[each])}
        paths = {place for part in parts for place in (part, part.rpartition("/")[0])}
        files = {
            f"{path}{end}"
            for path in paths
            if within(path.replace("/", "."), "fedkd.methods")
            for end in (".py", "/__init__.py")
        }
        new = files & FILES.keys() - used
        used |= new
    return frozenset(used)


def test_nothing_imports_what_stands_around_the_package_nor_pickles() -> None:
    banned = ("simulations", "benchmarks", "tests", "strategies", "pickle", "cloudpickle", "dill", "joblib")
    assert {file: bad for file, tree in FILES.items() if (bad := {name for name in every(tree) if within(name, *banned)})} == {}


def every(tree: ast.AST) -> set[str]:
    """Every imported module, those of the standard library too."""
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_flowers_private_modules_are_known_to_one_file() -> None:
    users = {file for file, tree in FILES.items() if any(within(m, "flwr") and m not in FLOWER for m in every(tree))}
    assert users == {"fedkd/grids/flower.py"}


def test_ray_is_known_to_grids_only() -> None:
    users = {file for file, tree in FILES.items() if any(within(module, "ray") for module in every(tree))}
    assert users and all(file.startswith("fedkd/grids/") for file in users)


def test_no_error_is_caught_without_naming_it() -> None:
    bare = [
        f"{file}:{node.lineno}"
        for file, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_only_one_file_seeds() -> None:
    seeding = {"manual_seed", "manual_seed_all", "set_rng_state", "seed", "seed_all"}
    users = {
        file
        for file, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in seeding
    }
    assert users == {"fedkd/base/randomness.py"}


def test_no_module_is_long_and_none_is_a_drawer_of_odds_and_ends() -> None:
    long = {file: lines for file in FILES if (lines := len((ROOT / file).read_text().splitlines())) > LONGEST}
    assert long == {}
    assert {file for file in FILES if Path(file).stem in ("utils", "util", "helpers", "common", "misc")} == set()


def test_importing_fedkd_imports_nothing_heavy() -> None:
    code = "import fedkd, sys; print(sorted({'torch', 'numpy', 'flwr', 'ray', 'datasets', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(fedkd, name) is not None for name in fedkd.__all__)
