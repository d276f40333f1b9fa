"""CSV files as Arrow tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkd.base.errors import InputError
from fedkd.data.layout import some

DELIMITED = (".csv", ".tsv")
DELIMITERS = ",;\t|"


def read_delimited(path: Path) -> Any:
    """The table of a CSV file whose first line names the columns: whatever of ``,;|`` or tabs stands there most parts them.

    Raises:
        InputError: the first line holds numbers, or rows have another number of values than it.
    """
    import pyarrow
    import pyarrow.csv

    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        delimiter = max(DELIMITERS, key=header.count)
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
        )
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise InputError(f"{str(path)!r} is no readable CSV file: {' '.join(str(error).split())}") from error
    names = table.column_names
    if all(map(_is_number, names)) and names != [str(number) for number in range(len(names))]:
        raise InputError(f"{str(path)!r}: its first line holds numbers ({some(names)}): write the columns' names there")
    if not len(table):
        raise InputError(f"{str(path)!r} holds no rows")
    return table


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
