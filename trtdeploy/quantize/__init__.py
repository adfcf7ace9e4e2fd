"""Calibration: the ranges of a model's tensors on real images."""

from trtdeploy.quantize.calibration import Batch, CalibrateOptions, Calibration, calibrate
from trtdeploy.quantize.measure import measure_ranges
from trtdeploy.quantize.methods import METHODS, parse_method

__all__ = ["METHODS", "Batch", "CalibrateOptions", "Calibration", "calibrate", "measure_ranges", "parse_method"]
