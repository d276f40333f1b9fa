"""A user's own net: a function, "my_module:net", or an entry point of an installed package."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError
from fedkd.nets import Encoder, build_net, check_net, zoo

SHAPE = (1, 8, 8)
MODULE = """
from torch import nn
from fedkd.nets import Encoder
from user_net_layers import Flat


class Wide(Encoder):
    def __init__(self, shape, width):
        super().__init__()
        self.layers = nn.Sequential(Flat(), nn.Linear(shape[0] * shape[1] * shape[2], width))
        self.out_features = width

    def forward(self, images):
        return self.layers(images)


def net(shape, classes, *, width=12):
    return Wide(shape, width)


size = 3
"""


class Pixels(Encoder):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.out_features = shape[0] * shape[1] * shape[2]

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Widthless(Encoder):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def logits_only(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.LogSoftmax(1))


@pytest.fixture
def module_in_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "user_net.py").write_text(MODULE)
    (tmp_path / "user_net_layers.py").write_text("from torch.nn import Flatten as Flat\n")
    (tmp_path / "user_net_broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("user_net", "user_net_layers", "user_net_broken"):
        sys.modules.pop(name, None)


def test_a_class_is_a_function_from_shape_and_classes_to_an_encoder() -> None:
    net = build_net(Pixels, shape=SHAPE, classes=10, heads=("classifier", "projection"))
    assert net.features(torch.zeros(2, *SHAPE)).shape == (2, 64)
    assert net(torch.zeros(2, *SHAPE)).shape == (2, 10)
    assert net.architecture == f"{__name__}:Pixels"


def test_a_module_that_gives_logits_classifies_and_says_how_to_get_features() -> None:
    net = build_net(logits_only, shape=SHAPE, classes=10)
    assert net(torch.zeros(2, *SHAPE)).shape == (2, 10)
    said = r"gives logits only, and no linear layer makes them: name .*features, or subclass fedkd\.nets\.Encoder"
    with pytest.raises(InputError, match=said):
        net.features(torch.zeros(2, *SHAPE))
    with pytest.raises(InputError, match=said):
        build_net(logits_only, shape=SHAPE, classes=10, heads=("classifier", "projection"))


def test_functions_that_do_not_return_what_they_should() -> None:
    with pytest.raises(InputError, match="returned a dict: it must return a torch"):
        build_net(lambda shape, classes: {}, shape=SHAPE, classes=10)  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match="Widthless must set out_features, the width of its features"):
        build_net(lambda shape, classes: Widthless(), shape=SHAPE, classes=10)


@pytest.mark.usefixtures("module_in_current_directory")
def test_a_name_in_a_module_of_the_current_directory() -> None:
    path = list(sys.path)
    net = build_net("user_net:net", shape=SHAPE, classes=10, options={"width": 5})
    assert net.features(torch.zeros(2, *SHAPE)).shape == (2, 5)
    assert net.architecture == "user_net:net"
    assert sys.path == path


@pytest.mark.usefixtures("module_in_current_directory")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("user_net:nett", {}, "cannot load 'user_net:nett': the module has no 'nett': did you mean 'net'?"),
        ("user_net:size", {}, "net 'user_net:size' is a int: not a function (shape, classes) -> module"),
        ("user_net:net", {"widht": 3}, "net 'user_net:net' has no option 'widht': did you mean 'width'?"),
        ("user_nett:net", {}, "cannot load 'user_nett:net': no module 'user_nett' here or among the installed ones"),
        ("user_net.py:net", {}, "cannot load 'user_net.py:net': no module 'user_net.py' here"),
        (":net", {}, "cannot load ':net': write \"my_module:name\", a module and a name in it"),
        ("user_net:", {}, "cannot load 'user_net:': write \"my_module:name\", a module and a name in it"),
    ],
)
def test_bad_names_are_one_line_that_names_the_cure(name: str, options: dict[str, object], message: str) -> None:
    path = list(sys.path)
    with pytest.raises(InputError) as error:
        check_net(name, options)
    assert message in str(error.value)
    assert sys.path == path


@pytest.mark.usefixtures("module_in_current_directory")
def test_an_error_inside_the_users_module_is_its_own() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        build_net("user_net_broken:net", shape=SHAPE, classes=10)


def test_an_entry_point_is_a_name_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"pixels": EntryPoint("pixels", f"{__name__}:Pixels", "fedkd.nets")}
    monkeypatch.setattr(zoo, "_installed", lambda: installed)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Pixels.__module__])
    assert build_net("pixels", shape=SHAPE, classes=10).architecture == "pixels"
    with pytest.raises(InputError, match="'pixel' is unknown: did you mean 'pixels'"):
        check_net("pixel", {})
