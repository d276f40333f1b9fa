"""Parquet: ``clients.parquet`` of the run, one row a client and round, for pandas, polars or DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from fedkd.results.files import plain, write_atomically
from fedkd.results.logs import read_clients
from fedkd.results.sinks.sink import About, Sink


@final
class Writer(Sink):
    """Written when the run ends or is stopped, of all lines of ``clients.jsonl``: a Parquet file cannot grow."""

    needs: ClassVar[str] = "pyarrow"
    extra: ClassVar[str] = "pyarrow"

    def __init__(self, about: About) -> None:
        self._path = about.path

    def write(self, row: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
        """Nothing yet: the lines are in ``clients.jsonl``."""

    def close(self) -> None:
        """Write the file; a column for every key that any line has."""
        import pyarrow
        from pyarrow import parquet

        lines = [plain(line) for line in read_clients(self._path)]
        keys = dict.fromkeys(key for line in lines for key in line)
        columns = {key: [line.get(key) for line in lines] for key in keys}
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.table(columns), sink)
        write_atomically(self._path / "clients.parquet", sink.getvalue().to_pybytes())
