"""INT8 as explicit quantisation: Q/DQ nodes in the graph, which mean the same on every backend."""

from trtdeploy.graph.precision.int8.to_int8 import Form, ToInt8, tensors_to_calibrate

__all__ = ["Form", "ToInt8", "tensors_to_calibrate"]
