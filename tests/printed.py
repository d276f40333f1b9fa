"""What a page prints to be typed: its blocks, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"generated", "_build"} & {*page.parts})


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block of this page that is meant to be run."""
    found: list[tuple[str, str]] = re.findall(
        r"^```(python|console|toml)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return found


def name_of(text: str, number: int) -> str:
    """The file that a block is: its first line may name it."""
    return found[1] if (found := re.match(r"# (\w+\.py)\n", text)) else f"block_{number}.py"


def links(page: Path) -> list[str]:
    """What the links and pictures of a page lead to, those into the net and within the page left out."""
    return [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")) if "://" not in target]
