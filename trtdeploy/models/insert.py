"""Insert attention of any kind into any torch model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.core.errors import UsageError
from trtdeploy.models.inserted import CHILD, MapsAfter, MapsBefore, PerLevel, WithAttention
from trtdeploy.models.places import PLACES, Place, places_of, resolve

PROBE_SIZES = ((64, 128), (128, 192))
"""Heights and widths of the images that the model is run with."""


def insert(
    model: nn.Module, kind: str | AttentionKind, at: str | Sequence[str], *, example: Any = None, **options: Any
) -> list[str]:
    """Insert attention after modules of a model, in place.

    The number of channels is found by running the model on small images, in evaluation mode; modes are restored. The
    weights are fresh, on the device and of the type of the module before. Where the model notes things on its layers,
    as Ultralytics' do, they stay readable.

    Args:
        model: Any module.
        kind: A kind of the catalogue or its name.
        at: Module paths as `named_modules` gives them (`model.4`, `layer3.0.conv2`), or places: `backbone` (after its
            last stage), `neck` (after each map of the pyramid) or `head` (on the maps that the detection head takes
            and on nothing else). Places are known in trtdeploy's, Ultralytics' and torchvision's detectors. Kinds
            that take several maps go before the head, wherever they are wanted.
        example: What the model is run with, a tensor or a tuple of arguments. Default: images `[1, 3, H, W]`.
        **options: Keyword arguments of the kind's module.

    Returns:
        The paths of the inserted modules.

    Raises:
        UsageError: There is no such kind, path or place; a module is not run, does not return `[B, C, H, W]`, or not
            always with the same number of channels; the kind does not take the options, channels or maps. The model
            is then as it was.
    """
    chosen = catalogue.kind(kind) if isinstance(kind, str) else kind
    wanted = [at] if isinstance(at, str) else list(at)
    if not wanted:
        raise UsageError(f"insert: say where to insert {chosen.name}: module paths or {', '.join(PLACES)}.")
    if chosen.levels > 1:
        levels_at = [name for name in wanted if name not in PLACES and name not in places_of(model).get("head", [])]
        if levels_at:
            raise UsageError(
                f"Attention {chosen.name} takes {chosen.levels} maps and goes before the head, not at {levels_at[0]}. "
                "Insert it at: head."
            )
        wanted = ["head"]
    places = [place for name in wanted for place in resolve(model, name)]
    shapes = _record(model, places, example)
    undo: list[Any] = []
    try:
        paths = [path for place in places for path in _put(model, chosen, place, shapes[place], options, undo)]
        _check_runs(model, paths, example)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return paths


def _put(
    model: nn.Module,
    kind: AttentionKind,
    place: Place,
    shapes: list[tuple[int, ...]],
    options: Mapping[str, Any],
    undo: list[Any],
) -> list[str]:
    """Insert at one place and return the paths of what was inserted."""
    module = model.get_submodule(place.path)
    if place.how == "after":
        attention = _made(kind, shapes[0][1], module, model, options)
        parent, name = _parent(model, place.path)
        parent._modules[name] = WithAttention(module, attention)
        undo.append(lambda: parent._modules.__setitem__(name, module))
        return [f"{place.path}.attention"]
    if hasattr(module, CHILD):
        raise UsageError(f"{place.path} has attention on its maps already. Insert after modules of the neck instead.")
    channels = [shape[1] for shape in shapes]
    if kind.levels > len(channels):
        raise UsageError(f"Attention {kind.name} takes {kind.levels} maps; {place.path} has {len(channels)}.")
    if kind.levels > 1:
        over_levels = _made(kind, channels[: kind.levels], module, model, options)
        over_levels.level_count = kind.levels
        paths = [f"{place.path}.{CHILD}"]
    else:
        over_levels = PerLevel([_made(kind, count, module, model, options) for count in channels])
        over_levels.level_count = len(channels)
        over_levels.training = module.training
        paths = [f"{place.path}.{CHILD}.levels.{index}" for index in range(len(channels))]
    module.add_module(CHILD, over_levels)
    hook = (
        module.register_forward_pre_hook(MapsBefore())
        if place.how == "maps-before"
        else module.register_forward_hook(MapsAfter())
    )

    def take_out() -> None:
        hook.remove()
        delattr(module, CHILD)

    undo.append(take_out)
    return paths


def _made(
    kind: AttentionKind, channels: int | list[int], before: nn.Module, model: nn.Module, options: Mapping[str, Any]
) -> nn.Module:
    """Return a fresh module in the mode, on the device and of the type of the module before it."""
    made: nn.Module = kind.make(channels, **options)
    near = next(iter([*before.parameters(), *model.parameters()]), None)
    if near is not None and near.is_floating_point():
        made = made.to(near.device, near.dtype)
    return made.train(before.training)


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the one at `path`, behind any inserted attention, and the name it has there."""
    above, _, name = path.rpartition(".")
    parent = model.get_submodule(above)
    while isinstance(parent, WithAttention) and name not in parent._modules:
        parent = parent.layer
    return parent, name


def _record(model: nn.Module, places: Sequence[Place], example: Any) -> dict[Place, list[tuple[int, ...]]]:
    """Return the shapes of the maps at each place, of the first run.

    Raises:
        UsageError: A place is not run, does not hold `[B, C, H, W]`, or not always of the same channels.
    """
    seen: dict[Place, list[list[tuple[int, ...]]]] = {place: [] for place in places}
    hooks = []
    for place in seen:
        module = model.get_submodule(place.path)
        if place.how == "maps-before":
            hooks.append(
                module.register_forward_pre_hook(lambda _m, args, p=place: seen[p].append(_shapes(p, args[0])))
            )
        else:
            hooks.append(module.register_forward_hook(lambda _m, _a, out, p=place: seen[p].append(_shapes(p, out))))
    try:
        for arguments in _examples(example):
            _run(model, arguments, [place.path for place in places], "to find its channels")
    finally:
        for hook in hooks:
            hook.remove()
    for place, runs in seen.items():
        if not runs:
            raise UsageError(
                f"Module {place.path} is not run in evaluation mode; attention after it would do nothing. "
                "Choose a module that is run."
            )
        channels = {tuple(shape[1] for shape in shapes) for shapes in runs}
        if len(channels) > 1:
            raise UsageError(
                f"Module {place.path} does not always return the same number of channels: it returned "
                f"{' and '.join(sorted(str(list(c)) for c in channels))}. Choose a module that does."
            )
    return {place: runs[0] for place, runs in seen.items()}


def _shapes(place: Place, value: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the maps at a place.

    Raises:
        UsageError: They are not maps.
    """
    many = place.how != "after"
    values: Any = list(value.values()) if many and isinstance(value, Mapping) else value
    maps: list[Any] = list(values) if many and isinstance(values, list | tuple) else [values]
    for one in maps:
        if not (isinstance(one, Tensor) and one.ndim == 4):
            shape = getattr(one, "shape", None)
            got = f"a {type(one).__name__}" if shape is None else f"a tensor of shape {list(shape)}"
            raise UsageError(
                f"Module {place.path} holds {got}; attention takes maps [B, C, H, W]. Choose another module."
            )
    return [tuple(one.shape) for one in maps]


def _check_runs(model: nn.Module, paths: Sequence[str], example: Any) -> None:
    """Run the model once more and see that every inserted module is run.

    Raises:
        UsageError: One is not.
    """
    ran: set[str] = set()
    hooks = [model.get_submodule(path).register_forward_hook(lambda _m, _a, _o, p=path: ran.add(p)) for path in paths]
    try:
        _run(model, _examples(example)[0], paths, "with the attention inserted")
    finally:
        for hook in hooks:
            hook.remove()
    idle = [path for path in paths if path not in ran]
    if idle:
        raise UsageError(
            f"The model does not run {idle[0]}: it reaches the module before by another way than its path. "
            "Choose another module."
        )


def _examples(example: Any) -> list[tuple[Any, ...]]:
    if example is not None:
        return [example if isinstance(example, tuple) else (example,)]
    return [(torch.full((1, 3, height, width), 0.5),) for height, width in PROBE_SIZES]


def _run(model: nn.Module, arguments: tuple[Any, ...], paths: Sequence[str], purpose: str) -> None:
    """Run the model in evaluation mode without gradients, and restore its modes.

    Of a torchvision detector only the backbone is run where all modules of interest are in it: the rest takes long.

    Raises:
        UsageError: It fails.
    """
    near = next(model.parameters(), None)
    if near is not None and near.is_floating_point():
        arguments = tuple(
            a.to(near.device, near.dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments
        )
    run = model
    if _takes_a_list(model) and len(arguments) == 1 and isinstance(arguments[0], Tensor):
        if all(f"{path}.".startswith("backbone.") for path in paths):
            run = model.get_submodule("backbone")
        else:
            arguments = (list(arguments[0]),)
    with evaluating(model), torch.no_grad():
        try:
            run(*arguments)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"The model cannot be run {purpose}: {type(error).__name__}: {error}. "
                "Give insert an `example` that it takes."
            ) from error


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of every module that was there."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _takes_a_list(model: nn.Module) -> bool:
    """Return whether this is a torchvision detector, which takes a list of images."""
    return hasattr(model, "transform") and type(model.transform).__name__ == "GeneralizedRCNNTransform"
