"""A double of the parts of CUDA and TensorRT that the session on the device uses.

Streams are truly asynchronous: what is put into them runs later, in another thread, in an order that is as unpleasant
as CUDA allows. Copies read their source when they run, memory is poisoned when it is allocated and when it is freed,
and graphs replay the addresses and shapes that they captured. A missing wait, a buffer that is used again too early or
a stale graph therefore gives wrong detections here, as it would on a GPU. Networks are computed by ONNX Runtime.
"""

from __future__ import annotations

from simulated_device.machine import Machine

__all__ = ["Machine"]
