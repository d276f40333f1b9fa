"""Joules that the processors of this machine have taken, by the counters of Linux' kernel; or why nobody can tell.

Each processor package of Intel's and AMD's counts its energy (RAPL) in a file, which begins again at 0 where it is full. There
are libraries that read it. pyRAPL and pyJoules take the difference of two readings, negative where the counter has begun
again between them; zeus starts a process for each counter; codecarbon brings 37 packages and, unless told otherwise, asks the
network where the machine stands. So the two files are read here.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self, final

#: Where the kernel shows its counters.
POWERCAP = Path("/sys/class/powercap")
#: Seconds between two looks. A full counter of an Intel server lasts for minutes at least, whatever it is at work on.
LOOK_EVERY = 30.0


@final
class Energy:
    """The counters of all processor packages. Inside ``with`` they are looked at often enough that none begins again unseen.

    ``why_not`` says in words why nothing is measured; empty where something is. The whole package counts, whoever made it work.
    """

    def __init__(self, powercap: Path | None = None) -> None:
        powercap = powercap or POWERCAP
        self._joules, self._lock, self._over = 0.0, threading.Lock(), threading.Event()
        self._counters: dict[Path, tuple[int, int]] = {}  # of each package -> its last reading, and where it begins again
        self._looks = threading.Thread(target=self._look, daemon=True, name="fedkd energy")
        self.why_not = ""
        try:
            for zone in packages(powercap):
                self._counters[zone] = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
        except PermissionError as error:
            self.why_not = f"{error.filename} may not be read: the system keeps it for root"
        except (OSError, ValueError) as error:
            self.why_not = f"a counter of the processor cannot be read: {error}"
        if not self._counters:
            self.why_not = self.why_not or f"this system counts no energy of processor packages (in {powercap})"

    def joules(self) -> float | None:
        """All packages together, since this object was made; None where it is not measured, or no more."""
        with self._lock:
            if self.why_not:
                return None
            try:
                for zone, (before, full) in self._counters.items():
                    now = _number(zone / "energy_uj")
                    self._joules += (now - before if now >= before else now + full - before) / 1e6
                    self._counters[zone] = now, full
            except (OSError, ValueError) as error:
                self.why_not = f"a counter of the processor could be read no more: {error}"
                return None
            return self._joules

    def __enter__(self) -> Self:
        if not self.why_not:
            self._looks.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self.joules()


def packages(powercap: Path) -> list[Path]:
    """The folders of the packages' counters, each package once: two drivers may show it, and its parts stand beside it."""
    found: dict[str, Path] = {}
    for file in sorted(powercap.glob("*rapl*/name"), key=lambda file: ("mmio" in file.parent.name, file.parent.name)):
        if (name := file.read_text().strip()).startswith("package-"):
            found.setdefault(name, file.parent)
    return list(found.values())


def _number(file: Path) -> int:
    return int(file.read_text())
