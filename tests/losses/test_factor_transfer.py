"""Factor transfer against the definition of either preset, and its two stages."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.losses import FactorTransfer


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


@pytest.mark.recomputed("FactorTransfer", by="formula")
def test_equals_the_two_definitions() -> None:
    student, teacher = draw(0, 2, 3, 4, 4), draw(1, 2, 4, 4, 4)
    for preset in ("repdistiller", "official"):
        transfer = FactorTransfer(3, 4, preset=preset).double()
        terms = []
        for own, target in zip(transfer.translator(student), transfer.paraphraser(teacher), strict=True):  # (2, 4, 4)
            pair = [own, target] if preset == "official" else [(f**2).mean(0) for f in (own, target)]
            terms += (unit(pair[0].flatten()) - unit(pair[1].flatten())).abs().tolist()
        assert transfer(student, teacher).item() == pytest.approx(sum(terms) / len(terms), abs=1e-9)


def test_reconstruction_is_a_squared_or_an_absolute_error() -> None:
    teacher = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(3, 2, 4, 4)
    for preset, expected in (("repdistiller", (4 + 1) / 2), ("official", (2 + 1) / 2)):
        transfer = FactorTransfer(3, 2, preset=preset)
        for parameter in transfer.decoder.parameters():
            nn.init.zeros_(parameter)
        assert transfer.reconstruction_loss(teacher).item() == expected


def test_stage_one_trains_the_paraphraser_and_the_decoder_only() -> None:
    transfer, teacher = FactorTransfer(3, 4), torch.randn(2, 4, 4, 4, requires_grad=True)
    transfer.reconstruction_loss(teacher).backward()
    trained = {name.split(".")[0] for name, parameter in transfer.named_parameters() if parameter.grad is not None}
    assert trained == {"paraphraser", "decoder"}
    assert teacher.grad is None


@pytest.mark.slow
def test_stage_one_reconstructs() -> None:
    transfer, teacher = FactorTransfer(3, 4), torch.rand(4, 4, 4, 4)
    optimizer = torch.optim.Adam(transfer.parameters(), lr=0.01)
    before = transfer.reconstruction_loss(teacher).item()
    for _ in range(30):
        optimizer.zero_grad()
        transfer.reconstruction_loss(teacher).backward()
        optimizer.step()
    assert transfer.reconstruction_loss(teacher).item() < before / 2


def test_factors_of_repdistiller_do_not_see_the_order_of_channels() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 4, 4)
    for preset, blind in (("repdistiller", True), ("official", False)):
        transfer = FactorTransfer(3, 4, preset=preset)
        before = transfer(student, teacher)
        last = transfer.paraphraser[-2]
        last.weight.data, last.bias.data = last.weight.data.flip(0), last.bias.data.flip(0)
        assert torch.allclose(transfer(student, teacher), before) == blind


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"a rate of 0\.1 leaves no channel of 4"):
        FactorTransfer(3, 4, rate=0.1)
    with pytest.raises(InputError, match=r"unknown FactorTransfer: preset 'oficial': did you mean 'official'\?"):
        FactorTransfer(3, 4, preset="oficial")
