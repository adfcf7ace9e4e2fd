"""The double of `cuda.bindings.driver`: primary contexts, and which is current in a thread."""

# ruff: noqa: N802, N803 - the library's names
from __future__ import annotations

from enum import IntEnum
from typing import Any

from simulated_device.machine import Machine


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_NOT_INITIALIZED = 3


class Driver:
    """Functions of the same names as the driver's, with the same results."""

    CUresult = CUresult

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._initialised = False

    def cuInit(self, Flags: int) -> tuple[CUresult]:
        self._initialised = True
        return (CUresult.CUDA_SUCCESS,)

    def cuDeviceGet(self, ordinal: int) -> tuple[CUresult, Any]:
        if not self._initialised:
            return CUresult.CUDA_ERROR_NOT_INITIALIZED, None
        if not 0 <= ordinal < self._machine.devices:
            return CUresult.CUDA_ERROR_INVALID_DEVICE, None
        return CUresult.CUDA_SUCCESS, ordinal

    def cuDevicePrimaryCtxRetain(self, dev: int) -> tuple[CUresult, Any]:
        self._machine.retained[dev] += 1
        return CUresult.CUDA_SUCCESS, dev

    def cuDevicePrimaryCtxRelease(self, dev: int) -> tuple[CUresult]:
        self._machine.retained[dev] -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxPushCurrent(self, ctx: int) -> tuple[CUresult]:
        if not self._machine.retained[ctx]:
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        self._machine.context_stack.append(ctx)
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self) -> tuple[CUresult, Any]:
        if not self._machine.context_stack:
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, None
        return CUresult.CUDA_SUCCESS, self._machine.context_stack.pop()
