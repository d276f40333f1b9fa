"""A column of texts as tokens: its characters, or those of a tokenizer.json of the ``tokenizers`` library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.data.columns.arrow import Part, column_of, is_text
from fedkd.data.columns.missing import refuse_missing
from fedkd.data.columns.reader import Read, Reader
from fedkd.data.kinds.tokens import PADDING

CHARACTERS = "characters"
#: The token of a character that no training text has; those of the others follow it.
UNKNOWN = 1
#: The greatest length of the tokens where none is given.
LONGEST = 256
CURE = "set data.missing = 'drop' to leave those rows out"


@final
@dataclass(frozen=True)
class Texts(Reader):
    """Texts padded with 0 at their ends, or cut, to one length."""

    columns: tuple[str, ...]
    tokens: str  # "characters", or the path of a tokenizer.json
    length: int  # 0: that of the longest training text, up to LONGEST

    def read(self, train: Part, test: Part | None, kept: Tensor) -> Read:
        """int64 (N, L)."""
        splits = [_texts(part, self.columns[0]) for part in (train, test) if part is not None]
        used = [splits[0][row] for row in kept.tolist()]
        if self.tokens == CHARACTERS:
            letters = characters_of(used)
            ids = [encode_characters(texts, letters) for texts in splits]
            vocabulary, features = UNKNOWN + 1 + len(letters), tuple(letters)
        else:
            tokenizer = _tokenizer(Path(self.tokens).expanduser())
            ids = [[each.ids for each in tokenizer.encode_batch(texts)] for texts in splits]
            vocabulary, features = tokenizer.get_vocab_size(), (_digest(tokenizer),)
        longest = max((len(ids[0][row]) for row in kept.tolist()), default=0)
        length = self.length or max(min(longest, LONGEST), 1)
        padded = [pad(each, length) for each in ids]
        cut = sum(len(text) > length for each in ids for text in each)
        said = f"{cut} of {sum(map(len, ids))} texts are longer than {length} tokens and cut (data.length)" if cut else ""
        return Read(padded[0], padded[1] if test is not None else None, [said], vocabulary, features)


def characters_of(texts: Iterable[str]) -> str:
    """All characters that occur, sorted.

    >>> characters_of(["bad", "cab"])
    'abcd'
    """
    return "".join(sorted({letter for text in texts for letter in text}))


def encode_characters(texts: Sequence[str], letters: str) -> list[list[int]]:
    """The tokens of texts: 2 is the first of the letters, and 1 what is none of them.

    >>> encode_characters(["cab!"], "abc")
    [[4, 2, 3, 1]]
    """
    numbers = {letter: number for number, letter in enumerate(letters, UNKNOWN + 1)}
    return [[numbers.get(letter, UNKNOWN) for letter in text] for text in texts]


def pad(tokens: Sequence[Sequence[int]], length: int) -> Tensor:
    """int64 (N, length): shorter ones end with 0, longer ones are cut."""
    padded = np.full((len(tokens), length), PADDING, np.int64)
    for row, each in zip(padded, tokens, strict=True):
        row[: min(len(each), length)] = each[:length]
    return torch.from_numpy(padded)


def _texts(part: Part, column: str) -> list[str]:
    found: list[str | None] = []
    for table in part.tables:
        values = column_of(table, column, where := part.where(table))
        if not is_text(table, column):
            raise InputError(f"column {column!r} holds {values.type} in {where}, no text: data.tokens is for text only")
        found += values.to_pylist()
    refuse_missing(part, column, np.array([text is None for text in found], dtype=bool), CURE)
    return [text for text in found if text is not None]


def _tokenizer(path: Path) -> Any:
    if not path.is_file():
        raise InputError(
            f"data.tokens = {str(path)!r}: there is no such file: write {CHARACTERS!r}, or the path of a tokenizer.json"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("data.tokens names a file of the tokenizers library: pip install 'fedkd[text]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"data.tokens: {str(path)!r} is no tokenizer.json ({' '.join(str(error).split())})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    first = str(tokenizer.id_to_token(PADDING))
    if "pad" not in first.lower():
        cure = "make its padding token 0, or give a Source with input_ids and attention_mask"
        raise InputError(f"data.tokens: token 0 of {path.name} is {first!r}, and fedkd pads with 0: {cure}")
    return tokenizer


def _digest(tokenizer: Any) -> str:
    return hashlib.blake2b(tokenizer.to_str().encode(), digest_size=16).hexdigest()
