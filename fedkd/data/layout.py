"""What the folders of an image set mean: which level names the splits, which the clients, which the classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from fedkd.base.errors import InputError
from fedkd.data.splits import read_splits, words_of

Place = tuple[str, ...]  # the folders from the root of the set down to some images
ROLES = ("split", "client", "class", "*")
#: Words in the names of folders by client.
OWNERS = re.compile(
    r"bank|branch|camera|cent(er|re)|client|clinic|customer|device|farm|hospital|institut(e|ion)|lab|laboratory|node|org|"
    r"organi[sz]ation|owner|participant|party|patient|person|region|school|silo|site|speaker|station|subject|user|worker|writer"
)
OF_CLASSES = ("", "c", "cat", "category", "class", "cls", "digit", "kind", "label", "n", "type", "wnid")  # before a number


@dataclass(frozen=True)
class Layout:
    """The role of each level of folders: split, client, class, or ``*`` for one that says nothing."""

    roles: Place
    splits: dict[str, str]  # of each folder at the split level; empty: it is left out

    def read(self, place: Place) -> dict[str, str]:
        """What the folders of a place say: ``{"split": "Training", "class": "ant"}``."""
        return {role: name for role, name in zip(self.roles, place, strict=False) if role != "*"}

    def __str__(self) -> str:
        return "/".join(self.roles)


def read_layout(places: Collection[Place], layout: str = "") -> Layout:
    """The layout of folders that hold images at these places.

    Args:
        places: where there are images.
        layout: what the user says it is, e.g. ``"split/client/class"``; empty: recognise it.

    Raises:
        InputError: it has no classes, or could be two things; the message names both and the cure.
    """
    if layout:
        return _as_told(places, layout)
    splits, at = _find_splits(places)
    kept = [place for place in places if at is None or (len(place) > at and splits[place[at]])]
    kept = _by_class(kept, splits, at)
    depth = min(map(len, kept))
    names = [sorted({place[level] for place in kept}) for level in range(depth)]
    free = [level for level in range(depth) if level != at]
    if not free:
        _refuse_without_classes(kept, at)
    several = [level for level in free if _tells(kept, level, at)]
    roles = ["*"] * depth
    if at is not None:
        roles[at] = "split"
    if client := _client_level(names, free, several):
        roles[client[0]] = "client"
        free.remove(client[0])
    left = [level for level in several if level in free]
    if len(left) > 1:
        _refuse_two_readings(names, left, roles)
    roles[left[0] if left else free[-1]] = "class"
    return Layout(tuple(roles), splits)


def _find_splits(places: Collection[Place]) -> tuple[dict[str, str], int | None]:
    """The split of each folder at the split level, and that level; or nothing and None."""
    for level in range(max(map(len, places))):
        below = [place for place in places if len(place) > level]
        if level and len(below) < len(places):
            break  # some images lie above this level
        names = sorted({place[level] for place in below})
        splits = read_splits(names, sure=False)
        deeper = {place[level] for place in below if len(place) > level + 1}
        if splits and (deeper or len(names) > 1):
            if not deeper and "" in splits.values():
                raise InputError(f"the folders {some(names)} could be classes, or splits without labels: {_cure('class')}")
            return splits, level
        if not splits and (doubtful := [name for name in deeper if len(names) > 1 and read_splits([name], sure=True)]):
            readings = f"could be classes, or {some(sorted(doubtful))} a split of its own"
            raise InputError(f"the folders {some(names)} {readings}: {_cure('class', 'split/class', 'client/class')}")
    return {}, None


def _by_class(places: list[Place], splits: Mapping[str, str], at: int | None) -> list[Place]:
    """The places by class: all, unless the training images lie bare and only the others by class, ``train, test/ant``."""
    if at is None:
        return places
    bare = [place for place in places if len(place) == at + 1]
    others = [place for place in places if len(place) > at + 1]
    unlabelled = {splits[place[at]] for place in bare} == {"train"} and "train" not in {splits[place[at]] for place in others}
    return others if others and unlabelled else places


def _tells(places: Collection[Place], level: int, at: int | None) -> bool:
    """Whether a level has several folders in one split: ``train/train/ant`` has one for each, which says nothing."""
    seen: dict[str, str] = {}
    return any(seen.setdefault("" if at is None else place[at], place[level]) != place[level] for place in places)


def _client_level(names: Sequence[Sequence[str]], free: Sequence[int], several: Sequence[int]) -> list[int]:
    """The one level whose names look like clients, where another is left for the classes; or nothing."""
    certain = [level for level in several if all(any(map(OWNERS.fullmatch, words_of(name))) for name in names[level])]
    if len(free) == 1 and certain:
        looks = f"the folders {some(names[free[0]])} look like clients, and no level of folders below all of them is of classes"
        raise InputError(f"{looks}: {_cure('class')} if they are the classes")
    if certain:
        return certain if len(certain) == 1 else []
    numbered = [level for level in several if _numbered(names[level])]
    return numbered if len(numbered) == 1 and len(several) > 1 else []


def _numbered(names: Sequence[str]) -> bool:
    """One word and a number each, ``batch_1, batch_2``, or numbers alone: parts of something rather than classes."""
    found = [re.fullmatch(r"(\D*?)[ _-]*\d+", name.lower()) for name in names]
    stems = {match[1] for match in found if match}
    return all(found) and len(stems) == 1 and (stems == {""} or not stems & {*OF_CLASSES})


def _as_told(places: Collection[Place], layout: str) -> Layout:
    roles = tuple(part.strip() for part in layout.split("/"))
    if bad := next((role for role in roles if role not in ROLES), None):
        raise InputError(f"data.layout = {layout!r}: {bad!r} is no level of folders: write split, client, class or *")
    if roles.count("class") != 1 or roles.count("split") > 1 or roles.count("client") > 1:
        raise InputError(f"data.layout = {layout!r}: name class once, split and client at most once, e.g. 'split/class'")
    depth = min(map(len, places))
    wrapping = 0
    while wrapping < depth - len(roles) and len({place[wrapping] for place in places}) == 1:
        wrapping += 1
    roles = ("*",) * wrapping + roles
    if len(roles) > depth:
        raise InputError(f"data.layout = {layout!r} has {len(roles)} levels of folders, but some images lie below {depth}")
    if "split" not in roles:
        return Layout(roles, {})
    at = roles.index("split")
    names = sorted({place[at] for place in places})
    splits = read_splits(names, sure=True)
    if not splits:
        raise InputError(f"data.layout = {layout!r}: none of the folders {some(names)} is called train: rename one")
    return Layout(roles, splits)


def _refuse_without_classes(places: Sequence[Place], at: int | None) -> NoReturn:
    depth = 0 if at is None else at + 1
    bare = sorted({"" if at is None else place[at] for place in places if len(place) == depth})
    where = f"{some(bare)} hold{'s' if len(bare) == 1 else ''}" if at is not None else "it holds"
    if any(len(place) > depth for place in places):
        raise InputError(
            f"{where} images without a folder of their class, unlike the others: put them into one, or move them away"
        )
    raise InputError(
        f"{where} images and no folder of a class, so no labels, and encoders too are judged with labels: "
        "make one folder a class, <class>/<image>, or write a function that returns a fedkd.data.Source"
    )


def _refuse_two_readings(names: Sequence[Sequence[str]], levels: Sequence[int], roles: Sequence[str]) -> NoReturn:
    upper, lower = levels[0], levels[-1]
    between = "*" if "client" in roles else "client"
    told = [[*roles[:upper], "class"], [*roles[:upper], between, *roles[upper + 1 : lower], "class"]]
    readings = f"the folders {some(names[upper])} or, below them, {some(names[lower])}"
    raise InputError(f"the classes could be {readings}: {_cure(*map('/'.join, told))}")


def _cure(*layouts: str) -> str:
    return f"set data.layout = {' or '.join(map(repr, layouts))}"


def some(names: Sequence[str]) -> str:
    """The names with commas; of many the first four, and how many there are."""
    return ", ".join(names[:4]) + (f" ... ({len(names)} in all)" if len(names) > 4 else "")
