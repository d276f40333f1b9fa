"""One file is one algorithm. The import name is ``fedkd.strategies``; in the repository the files stand at the top.

Classes are found here by name, each loaded when it is asked for: ``from fedkd.strategies import FedMD``.
"""

from fedkd.base.class_files import find_class

if __name__ != "fedkd.strategies":
    raise ImportError("import this package as fedkd.strategies, not as a top-level package")


def __getattr__(name: str) -> type:
    return find_class(__name__, __path__, name)
