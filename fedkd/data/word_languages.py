"""Which language is this word? The words of Debian's spelling lists, by language, as characters."""

from __future__ import annotations

from collections import Counter
from heapq import nsmallest
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data.columns.texts import CHARACTERS, UNKNOWN, characters_of, encode_characters, pad
from fedkd.data.options import Options
from fedkd.data.source import Source

DICTIONARIES = Path("/usr/share/dict")
#: List -> the Debian package that it is of.
PACKAGES = {
    "american-english": "wamerican",
    "dutch": "wdutch",
    "french": "wfrench",
    "italian": "witalian",
    "ngerman": "wngerman",
    "portuguese": "wportuguese",
    "spanish": "wspanish",
    "swedish": "wswedish",
}
#: Words of each language, for training and for tests; of shorter lists, as many as there are, in the same shares.
TRAIN, TEST = 4000, 1000
#: The longest word that is taken, in letters, and the shortest.
LENGTHS = (4, 16)


def word_languages(path: str, options: Options) -> Source:
    """Words of 4 to 16 letters that stand in one list only; a fixed draw, by a checksum of the word, of 5000 from each list.

    Args:
        path: a folder of such lists, one word a line, each called after its language; empty: Debian's.
        options: ``tokens`` may say "characters", which it is anyway, and ``length`` how many.
    """
    options.refuse_but("tokens", "length", what="word_languages is lists of words")
    if options.tokens not in ("", CHARACTERS):
        raise InputError(f"data.tokens = {options.tokens!r}: word_languages is read by {CHARACTERS!r}: leave it out")
    lists = {file.name: _words(file) for file in _files(Path(path).expanduser() if path else None)}
    seen = Counter(word for words in lists.values() for word in words)
    train, test = [], []
    for number, name in enumerate(sorted(lists)):
        words = nsmallest(TRAIN + TEST, (word for word in lists[name] if seen[word] == 1), key=_drawn)
        held = min(TEST, len(words) // 5)
        if not held:
            raise InputError(f"data source 'word_languages': {name} has {len(words)} words of its own: give 5 or more")
        test += [(word, number) for word in words[:held]]
        train += [(word, number) for word in words[held : held + TRAIN]]
    letters = characters_of(word for word, _ in train)
    length = options.length or LENGTHS[1]
    inputs, labels = _encoded(train, letters, length)
    test_inputs, test_labels = _encoded(test, letters, length)
    classes = tuple(sorted(lists))
    vocabulary = UNKNOWN + 1 + len(letters)
    return Source(
        "word_languages", inputs, labels, test_inputs, test_labels, classes, vocabulary=vocabulary, features=tuple(letters)
    )


def _encoded(words: list[tuple[str, int]], letters: str, length: int) -> tuple[Tensor, Tensor]:
    tokens = pad(encode_characters([word for word, _ in words], letters), length)
    return tokens, torch.tensor([number for _, number in words], dtype=torch.int64)


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        if missing := [PACKAGES[name] for name in PACKAGES if not (DICTIONARIES / name).is_file()]:
            raise InputError(f"data.source 'word_languages' reads Debian's word lists: apt-get install {' '.join(missing)}")
        return [DICTIONARIES / name for name in PACKAGES]
    if not folder.is_dir():
        raise InputError(f"data.path = {str(folder)!r}: there is no such folder of word lists")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if len(files) < 2:
        raise InputError(
            f"data.path = {str(folder)!r} holds {len(files)} word lists: give one for each of two languages or more"
        )
    return files


def _words(file: Path) -> set[str]:
    """Its words of small letters alone: lists have names, German nouns and endings with an apostrophe too."""
    try:
        written = file.read_bytes()
    except OSError as error:
        raise InputError(f"the word list {str(file)!r} cannot be read: {error.strerror}") from error
    try:
        lines = written.decode("utf-8").split()
    except UnicodeDecodeError:
        lines = written.decode("latin-1").split()  # as Debian's Swedish list is written
    return {line for line in lines if line.isalpha() and line.islower() and LENGTHS[0] <= len(line) <= LENGTHS[1]}


def _drawn(word: str) -> tuple[int, str]:
    """Where a word stands in the draw."""
    return crc32(word.encode()), word
