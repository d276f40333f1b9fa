"""The kernel's counters of energy, in a folder that looks like Linux' own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fedkd.base.energy import Energy


def counter(powercap: Path, zone: str, name: str, microjoules: int, full: int = 1_000_000_000) -> Path:
    """One zone; gives the file that counts."""
    folder = powercap / zone
    folder.mkdir(parents=True)
    for file, content in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": full}.items():
        (folder / file).write_text(f"{content}\n")
    return folder / "energy_uj"


def test_packages_are_summed_and_neither_their_parts_nor_a_second_driver_counts(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl-mmio:0", "package-0", 7)
    first, second = (counter(tmp_path, f"intel-rapl:{number}", f"package-{number}", 5_000_000) for number in (0, 1))
    others = {"0:0": "core", "1:0": "dram", "2": "psys"}
    parts = [counter(tmp_path, f"intel-rapl:{zone}", name, 0) for zone, name in others.items()]
    measured = Energy(tmp_path)
    assert (measured.why_not, measured.joules()) == ("", 0.0)
    for file in (first, second, *parts):
        file.write_text("6500000")
    assert measured.joules() == pytest.approx(3.0)
    second.write_text("7000000")
    assert measured.joules() == pytest.approx(3.5)


def test_a_full_counter_begins_again(tmp_path: Path) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 9_000_000, full=10_000_000)
    measured = Energy(tmp_path)
    for reading, joules in ((1_000_000, 2.0), (9_500_000, 10.5), (500_000, 11.5)):
        file.write_text(str(reading))
        assert measured.joules() == pytest.approx(joules)


def test_a_counter_that_is_full_twice_within_a_round_is_looked_at_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 9_000_000, full=10_000_000)
    readings = [5_000_000, 2_000_000]
    threads = set[str]()

    class Waits(threading.Event):
        """Time passes without any: at each look the counter is farther, at last nobody looks any more."""

        def wait(self, timeout: float | None = None) -> bool:
            threads.add(threading.current_thread().name)
            if readings:
                file.write_text(str(readings.pop(0)))
                return False
            ended.set()
            return True

    ended = threading.Event()
    measured = Energy(tmp_path)
    monkeypatch.setattr(measured, "_over", Waits())
    with measured:
        assert ended.wait(60)
    assert measured.joules() == pytest.approx(6.0 + 7.0)
    assert threads == {"fedkd energy"}


def test_a_system_without_counters_measures_nothing_and_says_so(tmp_path: Path) -> None:
    for powercap in (tmp_path, tmp_path / "missing"):
        measured = Energy(powercap)
        assert measured.why_not == f"this system counts no energy of processor packages (in {powercap})"
        assert measured.joules() is None


def test_counters_for_root_only_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two packages one may be read: a part of the energy would pass for all of it."""
    for number in (0, 1):
        file = counter(tmp_path, f"intel-rapl:{number}", f"package-{number}", 1)
    read_text = Path.read_text

    def refused(self: Path, *args: object, **kwargs: object) -> str:
        if self == file:
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self)

    monkeypatch.setattr(Path, "read_text", refused)
    measured = Energy(tmp_path)
    assert measured.why_not == f"{file} may not be read: the system keeps it for root"
    assert measured.joules() is None


def test_a_counter_that_fails_ends_the_measurement_and_not_the_run(tmp_path: Path) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 1)
    measured = Energy(tmp_path)
    file.unlink()
    assert measured.joules() is None
    assert measured.why_not.startswith("a counter of the processor could be read no more: ")
