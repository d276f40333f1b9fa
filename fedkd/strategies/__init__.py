"""One file is one algorithm, in strategies/ at the top of the repository: ``from fedkd.strategies import FedMD``."""

from fedkd.base.class_files import find_class

# In a plain checkout and in an unpacked Flower app the files stand beside the package; installed, they stand here.
__path__ = [str(__import__("pathlib").Path(__file__).parents[2] / "strategies")]


def __getattr__(name: str) -> type:
    return find_class(__name__, __path__, name)
