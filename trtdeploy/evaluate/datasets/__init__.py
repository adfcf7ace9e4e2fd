"""Labelled images in the layouts of COCO, YOLO and VOC, or images alone. One file per layout, listed in `registry`."""

from trtdeploy.evaluate.datasets.classes import class_notes, match_classes
from trtdeploy.evaluate.datasets.labelled_images import Label, LabelledImages, Sample
from trtdeploy.evaluate.datasets.registry import LAYOUTS, Layout, read_images

__all__ = ["LAYOUTS", "Label", "LabelledImages", "Layout", "Sample", "class_notes", "match_classes", "read_images"]
