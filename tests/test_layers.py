"""Who may import whom, and what no file may do: held over the syntax trees of the package and of every strategy."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import networkx
import pytest

import fedkd

ROOT = Path(__file__).parents[1]
FILES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("fedkd", "strategies")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
STRATEGIES = sorted(name for name in FILES if name.startswith("strategies/"))
#: Rooms in order, the lowest first -> the rooms below that they may import. A name with a dot is a room within a room.
ROOMS: dict[str, tuple[str, ...]] = {
    "base": (),
    "knowledge": ("base",),
    "data": ("base",),
    "nets": ("base",),
    "losses": ("base",),
    "losses.distillers": ("base", "losses", "nets"),
    "targets": ("base", "losses"),
    "aggregate": ("base", "knowledge"),
    "experiment.algorithm": ("base", "knowledge", "data", "nets", "losses.distillers", "aggregate"),
    "experiment": ("base", "knowledge", "data", "nets", "losses.distillers", "aggregate", "experiment.algorithm"),
    "results": ("base", "data", "losses.distillers", "experiment.algorithm", "experiment"),
    "grids": ("base",),
    "engine.evaluation": ("base", "knowledge", "data", "nets", "losses", "experiment.algorithm"),
    "engine": (
        *("base", "knowledge", "data", "nets", "experiment.algorithm", "experiment", "results", "grids", "engine.evaluation"),
    ),
    "engine.replay": (
        *("base", "knowledge", "data", "targets", "aggregate", "experiment.algorithm", "experiment", "results"),
        *("engine.evaluation", "engine"),
    ),
    "app": ("engine",),
    "client": ("engine",),
    "methods": (
        *("base", "knowledge", "data", "nets", "losses", "losses.distillers", "targets", "aggregate"),
        *("experiment.algorithm", "experiment", "results", "engine.evaluation", "engine"),
    ),
    "cli": ("base", "data", "losses.distillers", "targets", "experiment", "results", "grids", "engine", "engine.replay"),
    "strategies": (
        *("base", "knowledge", "nets", "losses", "losses.distillers", "targets", "aggregate"),
        *("experiment.algorithm", "engine.evaluation", "engine", "methods"),
    ),
    "testing": (
        *("base", "knowledge", "data", "nets", "experiment.algorithm", "experiment", "results", "grids", "engine", "methods"),
    ),
}
#: Rooms whose every file is maths -> all that they may import beside the standard library and fedkd.
MATHS = {
    "losses": ("torch",),
    "losses.distillers": ("torch", "pydantic"),
    "targets": ("torch",),
    "nets": ("torch",),
    "aggregate": ("torch", "networkx"),
    "knowledge": ("torch", "numpy", "dp_accounting", "flwr.app"),
    "engine.evaluation": ("torch", "sklearn"),
    "grids": ("flwr", "grpc", "ray", "numpy"),
}
#: What a strategy may import of fedkd: its public names, and these.
FOR_STRATEGIES = (
    *(
        "aggregate",
        "base.class_files",
        "base.errors",
        "base.inputs",
        "knowledge.codecs",
        "knowledge.knowledge.NEVER_NEGATIVE",
        "knowledge.privacy",
        "losses",
    ),
    *("methods", "nets", "targets", "experiment.algorithm.conditions", "experiment.algorithm.optimizer_state.trainable"),
    *("experiment.algorithm.batches", "experiment.algorithm.step.make_optimizer", "experiment.algorithm.train"),
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


def module_of(file: str) -> str:
    """``fedkd/nets/cnn.py`` -> ``fedkd.nets.cnn``; strategies are ``fedkd.strategies.<name>``."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("fedkd") else f"fedkd.{name}"


def room_of(module: str) -> str:
    """The innermost room of a module; empty for the root itself."""
    return max((room for room in ROOMS if within(module, f"fedkd.{room}")), key=len, default="")


MODULES = {module_of(file): file for file in FILES}


def targets_of(file: str) -> set[str]:
    """The modules of fedkd that a file imports, wherever in it; a public name stands for the module that it comes from."""
    found = set()
    for name in imports(FILES[file]):
        if within(name, "fedkd"):
            public = name.removeprefix("fedkd.")
            name = f"fedkd.{fedkd._HOME[public]}" if public in fedkd._HOME else name
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found - {module_of(file), "fedkd"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    mine = {file for module, file in MODULES.items() if room_of(module) == room}
    arrows = {(file, target) for file in mine for target in targets_of(file) if room_of(target) not in (room, *ROOMS[room])}
    assert not arrows
    assert all([*ROOMS].index(below) < [*ROOMS].index(room) for below in ROOMS[room])


@pytest.mark.slow
def test_no_two_files_import_each_other_by_whatever_way() -> None:
    graph = networkx.DiGraph((module_of(file), target) for file in FILES for target in targets_of(file))
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_the_root_holds_rooms_and_little_else() -> None:
    entries = {path.name for path in (ROOT / "fedkd").iterdir() if not path.name.startswith(("__pycache__", "py.typed"))}
    assert len(entries) <= 18
    assert entries >= {room for room in ROOMS if "." not in room and room not in ("app", "client")}


@pytest.mark.parametrize("room", MATHS)
def test_maths_imports_no_more_than_maths_needs(room: str) -> None:
    names = {name for module, file in MODULES.items() if room_of(module) == room for name in imports(FILES[file])}
    assert {name for name in names if not within(name, "fedkd", *MATHS[room])} == set()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_nothing_imports_what_stands_around_the_package_nor_pickles() -> None:
    banned = ("simulations", "benchmarks", "tests", "strategies", "pickle", "cloudpickle", "dill", "joblib")
    assert {file: bad for file, tree in FILES.items() if (bad := {name for name in every(tree) if within(name, *banned)})} == {}


def every(tree: ast.AST) -> set[str]:
    """Every imported module, those of the standard library too."""
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.slow
def test_flowers_private_modules_are_known_to_few_files() -> None:
    users = {file for file, tree in FILES.items() if any(within(m, "flwr") and m not in FLOWER for m in every(tree))}
    grids = ("flower", "backoff", "supernode/node", "supernode/executor", "supernode/worker")
    assert users == {f"fedkd/grids/{name}.py" for name in grids}


@pytest.mark.slow
def test_ray_is_known_to_grids_only() -> None:
    users = {file for file, tree in FILES.items() if any(within(module, "ray") for module in every(tree))}
    assert users and all(file.startswith("fedkd/grids/") for file in users)


@pytest.mark.slow
def test_no_error_is_caught_without_naming_it() -> None:
    bare = [
        f"{file}:{node.lineno}"
        for file, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


@pytest.mark.slow
def test_only_one_file_seeds() -> None:
    seeding = {"manual_seed", "manual_seed_all", "set_rng_state", "seed", "seed_all"}
    users = {
        file
        for file, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in seeding
    }
    assert users == {"fedkd/base/randomness.py"}


@pytest.mark.slow
def test_no_module_is_long_and_none_is_a_drawer_of_odds_and_ends() -> None:
    long = {
        file: lines
        for file in FILES
        if file not in STRATEGIES and (lines := len((ROOT / file).read_text().splitlines())) > LONGEST
    }
    assert long == {}
    assert {file for file in FILES if Path(file).stem in ("utils", "util", "helpers", "common", "misc")} == set()


#: What takes long to import, and stands where it is used.
HEAVY = (
    *("datasets", "dp_accounting", "flwr_datasets", "jinja2", "kornia", "matplotlib", "pandas", "pyarrow", "ray"),
    *("safetensors", "scipy", "seaborn", "sklearn", "torch._dynamo", "torch._inductor"),
)
BUILD = "Experiment(strategy='fedavg', rounds=3, data={'clients': 5, 'partition': 'dirichlet', 'alpha': 0.5}, uplink='int8')"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import fedkd", (*HEAVY, "flwr", "numpy", "pydantic", "rich", "torch")),
        ("import fedkd.cli", (*HEAVY, "flwr", "numpy", "pydantic", "torch")),
        ("from fedkd import Experiment", (*HEAVY, "flwr", "grpc", "networkx", "rich")),
        (f"from fedkd import Experiment; {BUILD}", HEAVY),
        ("from fedkd import simulate", HEAVY),
        ("import fedkd.app, fedkd.client", HEAVY),  # what a process that Flower starts for one message waits for
    ],
)
def test_what_takes_long_to_import_is_imported_where_it_is_used(code: str, absent: tuple[str, ...]) -> None:
    code = f"{code}\nimport sys; print(sorted({set(absent)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(fedkd, name) is not None for name in fedkd.__all__)
