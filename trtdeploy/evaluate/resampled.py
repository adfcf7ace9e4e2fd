"""How much average precision would be another on other images: bootstrap over images (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.core.errors import UsageError
from trtdeploy.evaluate.average_precision import MAX_DET, SIZES, coco_evaluation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtdeploy.core.types import Detections
    from trtdeploy.evaluate.datasets.labelled_images import LabelledImages


def draws_of(images: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the indices of images drawn with replacement, `[draws, images]`; the same for equal arguments."""
    return np.random.default_rng(seed).integers(0, images, (draws, images))


def resampled_map(
    found: Sequence[Detections],
    data: LabelledImages,
    own: Mapping[int, int],
    draws: NDArray[np.int64],
    max_det: int = MAX_DET,
) -> list[float]:
    """Return mAP50-95 on each draw of the images. The images are matched with their labels once.

    Args:
        found: Detections of each image, in the order of the data.
        data: Images and labels.
        own: The label's class of each of the model's classes, from `match_classes`.
        draws: From `draws_of`. Equal draws allow comparing two detectors draw by draw.
        max_det: Detections per image and class that count, the best by score.

    Raises:
        UsageError: The data have no labels, or none of these classes.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    evaluation = coco_evaluation(found, data, own, separate_eval=True)
    shared = evaluation.params.catIds
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(SIZES["all"])], ["all"]
    evaluation.params.maxDets = [max_det]
    evaluation.evaluate()
    matched = evaluation._evalImgs_cpp  # one entry per class and image, classes first
    images = len(data.paths)
    if len(matched) != len(shared) * images:
        raise UsageError(
            f"faster-coco-eval holds {len(matched)} results for {len(shared)} classes and {images} images: this "
            "version is not known. Install the one that trtdeploy[eval] names."
        )
    maps = []
    for drawn in draws:
        evaluation._evalImgs_cpp = [matched[k * images + i] for k in range(len(shared)) for i in drawn]
        evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"], np.float64)
        valid = precision[precision > -1]
        maps.append(float(valid.mean()) if valid.size else 0.0)
    return maps
