"""The report: one self-contained page that says what was run, how it was measured and what came out."""

from fedkd.results.report.page import render, write_report

__all__ = ["render", "write_report"]
