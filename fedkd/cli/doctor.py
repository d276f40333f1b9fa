"""What a machine has of what fedkd needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

from fedkd.results.environment import cores, cpu_model, gpus, memory, versions
from fedkd.results.statistics import size


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, whether it is as it must be, and what was found."""

    name: str
    ok: bool
    text: str


def findings() -> list[Finding]:
    """Look at everything; nothing is downloaded and nothing is sent."""
    return [*_packages(), *_machine(), *_data(), _telemetry()]


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = {r.name: r.specifier for r in map(Requirement, requires("fedkd") or ()) if r.marker is None}
    except PackageNotFoundError:
        wanted = {}
    for name, version in versions().items():
        if version is None:
            yield Finding(name, name == "fedkd", "not installed" if name != "fedkd" else "used from a plain checkout")
        elif name in wanted and not wanted[name].contains(version, prereleases=True):
            yield Finding(name, False, f"{version}, but fedkd needs {wanted[name]}")
        else:
            yield Finding(name, True, version)


def _machine() -> Iterator[Finding]:
    names = gpus()
    yield Finding("cores", True, f"{cores()} ({cpu_model()})")
    yield Finding("memory", True, f"{size(memory())}, this control group's limit included")
    yield Finding("gpu", True, ", ".join(names) or "none: everything runs on the CPU")


def _data() -> Iterator[Finding]:
    from fedkd.data.idx import DEBIAN_FASHION_MNIST

    has_digits = find_spec("sklearn") is not None
    yield Finding("digits", has_digits, "comes with scikit-learn" if has_digits else "install scikit-learn")
    there = DEBIAN_FASHION_MNIST.is_dir()
    elsewhere = "not here: apt-get install dataset-fashion-mnist, or set data.path, or it is downloaded when asked for"
    yield Finding("fashion_mnist", True, str(DEBIAN_FASHION_MNIST) if there else elsewhere)


def _telemetry() -> Finding:
    return Finding(
        "telemetry",
        True,
        "none: fedkd has none and starts Ray without; where you start Flower's own programs, set FLWR_TELEMETRY_ENABLED=0",
    )
