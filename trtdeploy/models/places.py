"""Find where `backbone`, `neck` and `head` are in a model, and modules by their paths."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from trtdeploy.core.errors import UsageError

PLACES = ("backbone", "neck", "head")


@dataclass(frozen=True)
class Place:
    """Where attention goes.

    Attributes:
        path: Path of a module.
        how: `after` its output map; `maps-before`, on the maps that it is given; `maps-after`, on those it returns.
    """

    path: str
    how: Literal["after", "maps-before", "maps-after"]


def resolve(model: nn.Module, name: str) -> list[Place]:
    """Return what a path or the name of a place means in a model.

    Raises:
        UsageError: There is no such module, or the model's places are not known.
    """
    if name not in PLACES:
        head = places_of(model).get("head", [])
        _check_path(model, name)
        return [Place(name, _on_maps(model) if name in head else "after")]
    paths = places_of(model).get(name)
    if not paths:
        raise UsageError(
            f"Where the {name} of a {type(model).__name__} is, is not known. Give module paths, for instance "
            f"{_some_paths(model)}."
        )
    for path in paths:
        _check_path(model, path)
    return [Place(path, _on_maps(model) if name == "head" else "after") for path in paths]


def places_of(model: nn.Module) -> dict[str, list[str]]:
    """Return the module paths of each place, as far as the model's structure tells them.

    A model says it itself by a method `places`; Ultralytics' models are a sequence of layers that note where their
    input comes from; torchvision's detectors have a `backbone` with a pyramid.
    """
    own = getattr(model, "places", None)
    if callable(own):
        found: dict[str, list[str]] = own()
        return found
    layers = getattr(model, "model", None)
    if isinstance(layers, nn.Sequential) and len(layers) and isinstance(getattr(layers[-1], "f", None), list):
        return _ultralytics_places(model, layers)
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module) and hasattr(model, "transform"):
        return _torchvision_places(backbone)
    return {}


def _ultralytics_places(model: nn.Module, layers: nn.Sequential) -> dict[str, list[str]]:
    """Read an Ultralytics model: the head notes which layers feed it; the backbone ends where its description says."""
    last = len(layers) - 1
    sources: Any = layers[last].f
    description = getattr(model, "yaml", None)
    stages = description.get("backbone") if isinstance(description, dict) else None
    if stages:
        end = len(stages) - 1
    else:
        first_up = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Upsample)), 1)
        end = first_up - 1
    neck = [f"model.{source if source >= 0 else last + source}" for source in sources]
    return {"backbone": [f"model.{end}"], "neck": neck, "head": [f"model.{last}"]}


def _torchvision_places(backbone: nn.Module) -> dict[str, list[str]]:
    """Read a torchvision detector: a body, whose last stage ends the backbone, and mostly a pyramid over it."""
    body = getattr(backbone, "body", None)
    trunk, prefix = (body, "backbone.body") if isinstance(body, nn.Module) else (backbone, "backbone")
    stages = [name for name, child in trunk.named_children() if next(child.parameters(), None) is not None]
    places = {"backbone": [f"{prefix}.{stages[-1]}"] if stages else [], "head": ["backbone"]}
    blocks = getattr(getattr(backbone, "fpn", None), "layer_blocks", None)
    if isinstance(blocks, nn.ModuleList):
        places["neck"] = [f"backbone.fpn.layer_blocks.{index}" for index in range(len(blocks))]
    return places


def _on_maps(model: nn.Module) -> Literal["maps-before", "maps-after"]:
    """Return how the head's maps are reached: in torchvision's detectors they are what the backbone returns."""
    return "maps-after" if callable(getattr(model, "transform", None)) else "maps-before"


def _check_path(model: nn.Module, path: str) -> None:
    """Check that there is a module at `path`.

    Raises:
        UsageError: There is none; the message lists paths like it.
    """
    if path and _has_module(model, path):
        return
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(path, names, n=4, cutoff=0.5)
    hint = f"Near it: {', '.join(near)}." if near else f"There are, for instance, {_some_paths(model)}."
    raise UsageError(f"{type(model).__name__} has no module {path!r}. {hint}")


def _has_module(model: nn.Module, path: str) -> bool:
    """Return whether `path` leads to a module, through wrappers of inserted attention too."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _some_paths(model: nn.Module) -> str:
    names = [name for name, _ in model.named_modules() if name]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
