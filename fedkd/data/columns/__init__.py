"""Columns of Arrow tables as a source: which hold the samples, labels and owners, and what their values mean."""

from fedkd.data.columns.source import read_source

__all__ = ["read_source"]
