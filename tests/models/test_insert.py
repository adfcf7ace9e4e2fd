"""Attention goes into any torch model, and changes what that model returns exactly as if applied by hand."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.attention.cbam.module import CBAM
from trtdeploy.attention.coordatt.module import CoordAtt
from trtdeploy.core.errors import UsageError
from trtdeploy.models.family import STYLES, Network, NetworkOptions, Style
from trtdeploy.models.insert import insert
from trtdeploy.models.inserted import WithAttention
from trtdeploy.models.yolo import yolo_n


class Plain(nn.Module):
    """A network of nobody's family."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.unused = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("path", ["stem", "body", "body.1"])
def test_the_model_computes_what_applying_the_module_by_hand_gives(path: str) -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    before = copy.deepcopy(model)
    (where,) = insert(model, "coordatt", path)
    attention = model.get_submodule(where)
    assert isinstance(attention, CoordAtt)
    x = torch.rand(2, 3, 21, 17)
    hook = before.get_submodule(path).register_forward_hook(lambda _m, _a, out: attention(out))
    expected = before(x)
    torch.testing.assert_close(model(x), expected)
    hook.remove()
    assert not torch.allclose(before(x), expected, atol=1e-5)  # the comparison can fail


def test_channels_are_found_and_modes_restored() -> None:
    model = Plain().train()
    model.body[1].eval()
    (path,) = insert(model, "cbam", "body.0")
    assert model.get_submodule(path).spatial is not None
    assert model.get_submodule("body.0").layer.out_channels == 12
    assert model.training
    assert model.body[0].training
    assert not model.body[1].training
    assert model.get_submodule(path).training


def test_batch_normalisation_of_the_inserted_is_plain_in_evaluation() -> None:
    model = Plain().eval()
    (path,) = insert(model, "coordatt", "body")
    norm = model.get_submodule(path).norm
    assert not norm.training
    state = copy.deepcopy(norm.state_dict())
    one, two = torch.rand(2, 3, 16, 16).split(1)
    together = model(torch.cat([one, two]))
    torch.testing.assert_close(torch.cat([model(one), model(two)]), together)
    assert all(torch.equal(state[key], value) for key, value in norm.state_dict().items())


def test_device_and_type_are_those_of_the_module_before() -> None:
    model = Plain().double()
    (path,) = insert(model, "se", "stem")
    assert {p.dtype for p in model.get_submodule(path).parameters()} == {torch.float64}


class Layered(nn.Module):
    """Layers that note where they are, as Ultralytics' do, run in the same way."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Upsample(scale_factor=2), Joined()]
        for index, layer in enumerate(layers):
            layer.i, layer.f, layer.type, layer.np = index, -1, type(layer).__name__, 7
        layers[-1].f = [0, 2]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Any:
        seen: list[Any] = []
        for layer in self.model:
            x = layer([seen[index] for index in layer.f] if isinstance(layer.f, list) else x)
            seen.append(x)
        return x


class Joined(nn.Module):
    """A head that takes two maps."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat([m.flatten(2) for m in maps], 1)


def test_notes_on_layers_stay_readable() -> None:
    model = Layered()
    assert insert(model, "se", ["backbone", "model.0"]) == ["model.1.attention", "model.0.attention"]
    wrapped = model.model[1]
    assert (wrapped.i, wrapped.f, wrapped.type, wrapped.np) == (1, -1, "Conv2d", 7)
    assert wrapped.out_channels == 16  # what is not noted is found in the layer
    assert isinstance(model.model[1], WithAttention)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = wrapped.nothing_like_it


def test_places_of_a_layered_model() -> None:
    assert insert(Layered(), "se", "neck") == ["model.0.attention", "model.2.attention"]
    model = Layered().eval()
    paths = insert(model, "se", "head")
    assert paths == ["model.3.inserted_attention.levels.0", "model.3.inserted_attention.levels.1"]
    assert isinstance(model.model[-1], Joined)


@pytest.mark.parametrize("style", STYLES)
def test_places_of_the_family(style: Style) -> None:
    model = Network(NetworkOptions(style=style, class_count=2))
    assert insert(model, "se", "backbone") == ["backbone.stage5.attention"]
    assert insert(model, "eca", "neck") == [f"neck.out{level}.attention" for level in (3, 4, 5)]
    assert insert(model, "se", "head") == [f"head.inserted_attention.levels.{level}" for level in range(3)]


def test_places_of_the_demo_network() -> None:
    model = yolo_n(2)
    assert insert(model, "se", ["backbone", "neck"])[0] == "stage5.attention"
    assert insert(model, "multi_scale", "head") == ["levels.inserted_attention"]
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 6, 84)


def test_kinds_of_several_maps_go_before_the_head_and_change_it() -> None:
    torch.manual_seed(0)
    model = Network(NetworkOptions(class_count=2)).eval()
    before = copy.deepcopy(model)
    (path,) = insert(model, "multi_scale", "neck")
    assert path == "head.inserted_attention"
    attention = model.get_submodule(path)
    x = torch.rand(1, 3, 64, 64)
    levels = before.neck(*before.backbone(x))
    torch.testing.assert_close(model(x), before.head(attention(*levels)))


def test_the_inserted_survives_copying_and_pickling() -> None:
    model = Network(NetworkOptions(class_count=2)).eval()
    insert(model, "coordatt", ["backbone", "head"])
    x = torch.rand(1, 3, 64, 64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), model(x))
        assert sum(isinstance(m, CoordAtt) for m in twin.modules()) == 4


def test_attention_inside_of_a_module_with_attention() -> None:
    model = Plain().eval()
    insert(model, "se", "body")
    insert(model, "cbam", "body.0")
    assert sum(isinstance(m, CBAM) for m in model.modules()) == 1
    assert isinstance(model.get_submodule("body.0"), WithAttention)
    model(torch.rand(1, 3, 8, 8))


class Shared(nn.Module):
    """One convolution on maps of 4 and of 8 channels, and one that is reached past its path."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.Identity()
        self.conv = nn.Conv2d(3, 4, 1)
        self.other = [self.conv]

    def forward(self, x: Tensor) -> Tensor:
        x = self.other[0](x)
        return self.pad(x).mean() + self.pad(torch.cat([x, x], 1)).mean()


@pytest.mark.parametrize(
    ("model", "at", "words"),
    [
        (Plain(), "bodi.0", r"has no module 'bodi.0'. Near it: .*body.0"),
        (Plain(), "", "has no module ''"),
        (Plain(), "last", r"holds a tensor of shape \[1, 5\]; attention takes maps"),
        (Plain(), "unused", "unused is not run"),
        (Plain(), "neck", "Where the neck of a Plain is, is not known"),
        (Plain(), [], "say where to insert"),
        (Shared(), "pad", r"same number of channels: it returned \[4\] and \[8\]"),
        (Shared(), "conv", "does not run conv.attention"),
        (nn.Sequential(nn.Linear(7, 7)), "0", "cannot be run to find its channels.*Give insert an `example`"),
    ],
)
def test_refuses_and_leaves_the_model_alone(model: nn.Module, at: str | list[str], words: str) -> None:
    model.train()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(UsageError, match=words):
        insert(model, "se", at)
    assert [name for name, _ in model.named_modules()] == before
    assert all(module.training for module in model.modules())


def test_a_failure_half_way_takes_everything_out_again() -> None:
    model = Network(NetworkOptions(class_count=2))
    before = list(model.state_dict())
    with pytest.raises(UsageError, match=r"takes 3 maps and goes before the head, not at backbone\.stem"):
        insert(model, "multi_scale", "backbone.stem")
    insert(model, "se", "head")
    with pytest.raises(UsageError, match="has attention on its maps already"):
        insert(model, "cbam", ["backbone", "head"])
    assert not any(isinstance(m, CBAM) for m in model.modules())
    assert len(before) < len(model.state_dict())


def test_unknown_kinds_and_options_are_refused() -> None:
    with pytest.raises(UsageError, match="no attention kind 'sparkle'"):
        insert(Plain(), "sparkle", "stem")
    with pytest.raises(UsageError, match="cannot be made"):
        insert(Plain(), "cbam", "stem", kernel_size=4)
    with pytest.raises(UsageError, match="cannot be made"):
        insert(Plain(), "cbam", "stem", no_such_option=4)


def test_an_example_of_another_kind() -> None:
    model = nn.Sequential(nn.Conv2d(5, 6, 1))
    assert insert(model, "se", "0", example=torch.rand(1, 5, 9, 9)) == ["0.attention"]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_kind_of_the_catalogue_can_be_inserted(name: str) -> None:
    model = Network(NetworkOptions(class_count=2)).eval()
    paths = insert(model, name, "head" if catalogue.kind(name).levels > 1 else "backbone")
    assert len(paths) == 1
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 128)).shape == (1, 6, 168)
