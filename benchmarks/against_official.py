"""What fedkd computes beside what its authors' code, or a rival's, computes of the same tensors.

    python benchmarks/against_official.py --code HobbitLong/RepDistiller=PATH Sungwon-Han/FEDX=PATH ...
    python benchmarks/against_official.py --list          # which codes there are cases for

PATH is a git copy, bare or not, outside this repository; its HEAD is what is run, and named in the results. Of a copy only the
definitions or lines that a case names are run, as they stand. Both sides get the same normal draws in float64, five seeds; the
results hold both numbers, and the largest difference of values and of gradients by what a student learns, over the largest of
theirs. A minute in all. `docs/verified.md` shows them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import warnings
from pathlib import Path

from official.case import Case
from official.copies import Copy
from official.of_losses import CASES as OF_LOSSES
from official.of_strategies import CASES as OF_STRATEGIES
from official.of_torchdistill import CASES as OF_TORCHDISTILL
from official.of_unsupervised import CASES as OF_UNSUPERVISED

from fedkd.base.errors import InputError, did_you_mean

RESULTS = Path(__file__).parent / "results" / "against_official.jsonl"
CASES: list[Case] = [*OF_LOSSES, *OF_TORCHDISTILL, *OF_STRATEGIES, *OF_UNSUPERVISED]


def copy_of(word: str) -> Copy:
    """OWNER/NAME=PATH as a copy.

    >>> copy_of("Sungwon-Han/FEDX=/tmp/fedx").path.name
    'fedx'
    >>> copy_of("fedx")
    Traceback (most recent call last):
    fedkd.base.errors.InputError: --code fedx: write OWNER/NAME=PATH; --list shows the names
    """
    name, _, path = word.partition("=")
    if not path:
        raise InputError(f"--code {word}: write OWNER/NAME=PATH; --list shows the names")
    known = sorted({case.code for case in CASES})
    if name not in known:
        raise InputError(f"--code: nothing is compared with {name!r}: {did_you_mean(name, known)}")
    return Copy(name, Path(path))


def compare(copy: Copy) -> None:
    """Run the cases of a copy; their lines take the place of those that the results hold of that code."""
    with contextlib.redirect_stdout(io.StringIO()):  # theirs say how they are doing
        lines = [case.compare(copy) for case in CASES if case.code == copy.name]
    kept = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    kept = [line for line in kept if line["code"] != copy.name]
    order = {(case.name, case.code, case.what): number for number, case in enumerate(CASES)}
    every = sorted([*kept, *lines], key=lambda line: order.get((line["name"], line["code"], line["what"]), len(order)))
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in every))
    for line in lines:
        apart = f"{line['difference']:.1e}, gradients {line.get('gradient_difference', 0):.1e}"
        print(f"  {line['name']:24} {copy.name:28} {apart}  {line['what']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", nargs="+", default=[], metavar="OWNER/NAME=PATH")
    parser.add_argument("--list", action="store_true", help="run nothing")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # theirs: of arguments that torch has renamed
    if given.list:
        for code in sorted({case.code for case in CASES}):
            print(f"{code}: {', '.join(case.name for case in CASES if case.code == code)}")
    try:
        for copy in map(copy_of, given.code):
            compare(copy)
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
