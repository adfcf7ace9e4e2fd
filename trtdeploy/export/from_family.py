"""Export the networks of trtdeploy's own family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtdeploy.core.errors import UsageError
from trtdeploy.export.from_torchvision import load_weights
from trtdeploy.export.options import Subject
from trtdeploy.models.family import Network, NetworkOptions
from trtdeploy.models.insert import insert


def family_subject(
    network: NetworkOptions,
    *,
    attention: str | None = None,
    at: Sequence[str] = (),
    weights: Path | None = None,
    names: Sequence[str] | None = None,
) -> Subject:
    """Return what exports a network.

    Args:
        network: Style, size and classes.
        attention: Kind that is inserted. Default: none.
        at: Where; see `insert`. Default: the end of the backbone.
        weights: The state_dict of a network with these options and this attention. Default: fresh weights.
        names: Class names in the order of their ids. Default: `class0` and so on.

    Raises:
        UsageError: The attention cannot be inserted, or the names are not as many as the classes.
        ModelError: The weights do not fit.
    """
    if names is not None and len(names) != network.class_count:
        raise UsageError(f"Got {len(names)} class names for {network.class_count} classes.")
    model = Network(network).eval()
    if attention is not None:
        insert(model, attention, list(at) or ["backbone"])
    if weights is not None:
        load_weights(model, weights)
    labels = names if names is not None else [f"class{index}" for index in range(network.class_count)]
    return Subject(
        model=model,
        rows=list if network.style == "v10" else None,
        metadata={
            "names": str(dict(enumerate(labels))),
            "stride": "32",
            "task": "detect",
            "imgsz": str([640, 640]),
            "batch": "1",
        },
    )
