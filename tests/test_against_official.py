"""benchmarks/against_official.py on a copy that the test writes: what is taken of it and compared, and bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedkd.base.errors import InputError
from fedkd.losses import kd_loss

ROOT = Path(__file__).parents[1]
THEIRS = """
import no_such_library
from torch.nn import functional

SIZE = no_such_library.SIZE


class KD(nn.Module):
    def __init__(self, T):
        super().__init__()
        self.T = T

    def forward(self, s, t):
        return F.kl_div(F.log_softmax(s / self.T, 1), F.softmax(t / self.T, 1).cuda(), reduction="batchmean") * self.T**2


def train(loader):
    for s, t in loader:
        p = F.softmax(t / 4, dim=1)
        loss = -(p * F.log_softmax(s / 4, dim=1)).sum(1).mean() * weight
        loss.backward()
"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A git copy of THEIRS, as ``official.copies`` sees it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from official.copies import Copy

    folder = tmp_path_factory.mktemp("theirs")
    (folder / "kd.py").write_text(THEIRS)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    yield Copy("some/code", folder)
    sys.path.remove(str(ROOT / "benchmarks"))


def case_of(theirs: Any, **more: Any) -> Any:
    from official.case import Case

    return Case("kd_loss", "some/code", "kd.py: KD", theirs, lambda d: kd_loss(d.s, d.t), "s", **more)


def test_a_definition_is_run_as_it_stands_without_what_its_file_imports(copies: Any) -> None:
    line = case_of(lambda copy, d: copy.define("kd.py", "KD").KD(4.0)(d.s, d.t)).compare(copies)
    assert line["commit"] == copies.commit and len(line["commit"]) == 40
    assert line["there"] == pytest.approx(line["here"]) and len(line["there"]) == len(line["seeds"]) == 5
    assert line["difference"] < 1e-12 and line["gradient_difference"] < 1e-12
    assert "because" not in line


def test_lines_of_a_loop_are_run_with_names_given(copies: Any) -> None:
    """Cross-entropy is above the divergence by the teacher's entropy, and has its gradient; over T squared here."""
    step = copies.lines("kd.py", "p =", "loss =")
    line = case_of(lambda copy, d: step(s=d.s, t=d.t, weight=16.0).loss, because="of the entropy").compare(copies)
    assert line["difference"] > 0.01 > line["gradient_difference"] < 1e-12
    assert line["because"] == "of the entropy"


def test_a_part_that_is_not_there_is_named(copies: Any) -> None:
    with pytest.raises(InputError, match=r"some/code: no DKD in kd\.py: the copy is of another version"):
        copies.define("kd.py", "DKD")
    with pytest.raises(InputError, match=r"no lines from 'q =' to 'loss =' in kd\.py"):
        copies.lines("kd.py", "q =", "loss =")
    with pytest.raises(InputError, match="is no git copy that has it"):
        copies.read("other.py")


def test_drawn_tensors_are_the_seeds_whatever_else_was_asked_for(copies: Any) -> None:
    from official.case import Drawn

    one, other = Drawn(3), Drawn(3)
    other.learn("es")
    assert one.s.equal(other.s) and not one.s.equal(one.t) and not one.s.equal(Drawn(4).s)
    assert other.es is other.es and other.es.requires_grad and not one.es.requires_grad


def test_every_case_is_of_something_that_has_a_row(copies: Any) -> None:
    import against_official

    sys.path.insert(0, str(ROOT / "docs"))
    import verified

    sys.path.remove(str(ROOT / "docs"))
    assert {case.name for case in against_official.CASES} <= verified.names().keys()
    keys = [(case.name, case.code, case.what) for case in against_official.CASES]
    assert len(keys) == len(set(keys))


def test_a_copy_is_named_with_its_path_and_a_mistyped_name_is_cured(copies: Any) -> None:
    import against_official

    assert against_official.copy_of("Sungwon-Han/FEDX=/somewhere").path == Path("/somewhere")
    with pytest.raises(InputError, match="write OWNER/NAME=PATH"):
        against_official.copy_of("/somewhere")
    with pytest.raises(InputError, match="nothing is compared with 'Sungwon-Han/FEDY': did you mean 'Sungwon-Han/FEDX'"):
        against_official.copy_of("Sungwon-Han/FEDY=/somewhere")
