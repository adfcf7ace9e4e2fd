"""SHAPES: the engine's batch and image sizes, in a graph exported with fixed or dynamic shapes."""

from trtdeploy.graph.shapes.options import parse_batch, parse_dynamic, parse_imgsz
from trtdeploy.graph.shapes.set_shapes import SetShapes

__all__ = ["SetShapes", "parse_batch", "parse_dynamic", "parse_imgsz"]
