"""Flower's SuperExec with an executor of ours: an app's tasks all go to one process, which was started ahead of the first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, final

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

from fedkd.grids.supernode.patience import Patience


@final
class WarmExecutor(SubprocessExecutor):
    """Gives client tasks to a process that stays. All else, and apps whose packages are installed for them, is Flower's.

    Another app gets another process: what one app's modules leave behind is not there for the next one.
    """

    def __init__(self, preload: Sequence[str], patience: Patience) -> None:
        self._preload, self._patience = preload, patience
        self._app: str | None = None
        self._worker = self._start()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Flower's hook: have a task carried out."""
        self._patience.reset()
        if spec.task_type != TaskType.CLIENT_APP or spec.runtime_dependency_install:
            return super().launch(spec)
        if self._worker.poll() is not None or self._app not in (None, spec.fab_hash):
            self._stop()
            self._worker = self._start()
        self._app = spec.fab_hash
        task = {
            "address": spec.runtime_api_address,
            "token": spec.token,
            "insecure": spec.insecure,
            "certificates": spec.root_certificates_path,
        }
        try:
            self._tell(json.dumps(task))
        except OSError as error:  # it has just died; the next task gets a new one
            return LaunchResult.failed(f"the process that answers has ended: {error}")
        return LaunchResult.accepted()

    def close(self) -> None:
        """Flower's hook: SuperExec ends."""
        self._stop()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fedkd.grids.supernode.worker", *self._preload]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def _stop(self) -> None:
        """End of input ends it after the task that it has begun."""
        with suppress(OSError):
            self._pipe().close()

    def _tell(self, line: str) -> None:
        self._pipe().write(f"{line}\n")
        self._pipe().flush()

    def _pipe(self) -> Any:
        return self._worker.stdin


def main() -> None:
    """``python -m fedkd.grids.supernode.executor PRELOAD`` and then what ``flower-superexec`` takes."""
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.superexec import run_superexec as loop

    preload, *arguments = sys.argv[1:]
    patience = Patience()
    executor = WarmExecutor(preload.split(",") if preload else [], patience)
    vars(loop)["get_executor"] = lambda *_, **__: executor
    vars(loop)["time"] = SimpleNamespace(sleep=patience.sleep)
    sys.argv = ["flower-superexec", *arguments]
    flower_superexec()


if __name__ == "__main__":
    main()
