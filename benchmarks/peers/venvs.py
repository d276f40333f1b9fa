"""Other libraries, each in a virtual environment of its own, which is made once, in ``CACHE`` or a folder given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "fedkd" / "benchmarks"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """A library, by the script that trains with it.

    Args:
        script: in this folder.
        packages: what pip installs, torch first.
        python: "3.13", or "" for the one that runs this.
        processes: more than one are started by ``torchrun``.
    """

    script: str
    packages: tuple[str, ...]
    python: str = ""
    processes: int = 1

    def command(self, cache: Path) -> list[str]:
        """The start of the command line; data, clients and rounds follow. Installs what isn't there."""
        binaries = _made(self, cache) / "bin"
        start = (
            [f"{binaries}/torchrun", "--nproc_per_node", str(self.processes)] if self.processes > 1 else [f"{binaries}/python"]
        )
        return [*start, str(HERE / self.script)]


PFL = ("with_pfl.py", (TORCH, "pfl==0.6.0"))
#: pfl's own benchmark of CIFAR-10, whose its images are, and the same as a loop that uses none of pfl but its torch.
PFL_CIFAR10 = Peer("with_pfl_cifar10.py", PFL[1])
PFL_CIFAR10_USERS = Peer("pfl_cifar10_users.py", PFL[1])
PFL_CIFAR10_LOOP = Peer("loop_pfl_cifar10.py", PFL[1])
#: What the official code of FedX needs; the code itself is no package.
FEDX = Peer("with_fedx.py", (TORCH, "torchvision==0.28.0"), python="3.13")
#: What EasyFL's package asks for, at versions that Python 3.13 has; its code is a copy of the user's.
EASYFL_NEEDS = (
    "protobuf==3.20.3",
    "omegaconf==2.3.0",
    "grpcio==1.80.0",
    "requests==2.34.2",
    "tqdm==4.70.1",
    "kubernetes==37.0.2",
    "etcd3==0.12.0",
)
EASYFL = Peer("with_easyfl.py", (TORCH, "torchvision==0.28.0", *EASYFL_NEEDS), python="3.13")
#: Name in the results -> how to run it. torchvision fits only the torch of the same index, whatever build of it is here.
PEERS = {
    "fluke 0.8.1": Peer("with_fluke.py", (TORCH, "torchvision", "fluke-fl==0.8.1"), python="3.13"),
    "pfl 0.6.0": Peer(*PFL),
    "pfl 0.6.0, two processes": Peer(*PFL, processes=2),
    "FedLab 1.3.0": Peer("with_fedlab.py", (TORCH, "torchvision", "fedlab==1.3.0"), python="3.13"),
    "BlazeFL 2.0.3": Peer("with_blazefl.py", (TORCH, "numpy", "tqdm", "blazefl==2.0.3"), python="3.13"),
}


def _made(peer: Peer, cache: Path) -> Path:
    """Its environment, made if it isn't there; one whose making was cut short is made anew."""
    folder = cache / peer.packages[-1].replace("==", "-")
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"  {peer.packages[-1]}: installing into {folder}, once", flush=True)
        subprocess.run([_interpreter(peer.python), "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *peer.packages], check=True)
        (folder / "complete").touch()
    return folder


def _interpreter(version: str) -> str:
    """The Python of this version: on the path, or one of pyenv's. SystemExit where there is none."""
    if not version or sys.version.startswith(f"{version}."):
        return sys.executable
    pyenv = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python"))
    for found in (*map(str, pyenv), shutil.which(f"python{version}")):
        if found and not subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode:
            return found
    raise SystemExit(
        f"Python {version} is not here: install it (uv python install {version}), or leave its peers out with --only"
    )
