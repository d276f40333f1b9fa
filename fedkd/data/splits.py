"""Which split a name stands for: train, test and validation in their usual spellings, and what is neither."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fedkd.base.errors import InputError

SPELLINGS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "eval", "evaluation"), "test"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "valset", "dev", "development"), "validation"),
}
SAYS_NOTHING = ("set", "data", "dataset", "images", "imgs", "img", "split", "folder", "of")  # ``train_images``, ``data/train``


class Chosen(NamedTuple):
    """The names of the splits to train and to test on, and of those to leave out."""

    train: str
    test: str  # empty: there is none, it must be held out
    left_out: tuple[str, ...]


def words_of(name: str) -> list[str]:
    """The words of a name in small letters: ``TrainingSet-2`` is training, set."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _marked(name: str) -> tuple[str, tuple[str, ...]]:
    """The split that a name or a path stands for (empty: none), and the words that say which of several sets it is of."""
    split, others = "", []
    for part in name.split("/"):
        words = words_of(part)
        kinds = {SPELLINGS[word] for word in words if word in SPELLINGS}
        split = kinds.pop() if len(kinds) == 1 else split  # "train_val" says nothing; the last folder of a path counts
        others += [word for word in words if word not in SPELLINGS and word not in SAYS_NOTHING]
    return split, tuple(others)


def read_splits(names: Iterable[str], *, sure: bool) -> dict[str, str]:
    """The split of each name, empty for what is none; nothing at all where the names are no splits.

    ``ant, bee, train`` are classes: names are splits where there is a train and another one of the same set
    (``seg_train, seg_test``), or where every name is one. With ``sure`` they are splits, so a train alone is enough.

    >>> read_splits(["Training", "Testing", "figures"], sure=False)
    {'Training': 'train', 'Testing': 'test', 'figures': ''}
    >>> read_splits(["bus", "ship", "train"], sure=False)
    {}
    """
    names = list(names)
    sets: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        split, others = _marked(name)
        if split:
            sets.setdefault(others, {})[name] = split
    found = [
        of for of in sets.values() if "train" in of.values() and (sure or len({*of.values()}) > 1 or len(of) == len(names))
    ]
    plain = sets.get((), {})
    if plain in found:
        found = [plain]
    if len(found) > 1:
        raise InputError(f"there are several sets, {' and '.join(', '.join(sorted(of)) for of in found)}: name one of them")
    if not found:
        found = [of for of in sets.values() if len(of) == len(names)]
    return {name: found[0].get(name, "") for name in names} if found else {}


def choose_splits(splits: Mapping[str, str], usable: Iterable[str] | None = None) -> Chosen:
    """What to train and test on, of names and their splits as ``read_splits`` gives them.

    The test split is ``test``, else ``validation``. A single split, whatever its name, is the train split.

    Args:
        splits: the split of each name.
        usable: the names that can be tested on, if not all can (their labels may be hidden).

    Raises:
        InputError: there is no train split, or two names stand for the same split.
    """
    if len(splits) == 1:
        return Chosen(next(iter(splits)), "", ())
    train = _only(splits, "train")
    if not train:
        raise InputError(f"there is no train split, only {', '.join(sorted(splits))}: rename one to train")
    testing = splits if usable is None else {name: split for name, split in splits.items() if name in {*usable}}
    test = _only(testing, "test") or _only(testing, "validation")
    return Chosen(train, test, tuple(sorted(set(splits) - {train, test})))


def _only(splits: Mapping[str, str], wanted: str) -> str:
    """The one name that stands for a split, the plainly spelled one first; empty where none does."""
    names = [name for name, split in splits.items() if split == wanted]
    plain = [name for name in names if name.lower() == wanted]
    if len(names) > 1 and len(plain) != 1:
        raise InputError(f"{' and '.join(sorted(names))} are both {wanted} splits: rename or remove one")
    return (plain or names or [""])[0]
