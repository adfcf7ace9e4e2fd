"""Labelled images in the layouts of COCO, YOLO and VOC, or images alone. One file per layout, listed in `registry`."""

from trtdeploy.evaluate.datasets.classes import match_classes
from trtdeploy.evaluate.datasets.labelled_images import Label, LabelledImages
from trtdeploy.evaluate.datasets.registry import read_images

__all__ = ["Label", "LabelledImages", "match_classes", "read_images"]
