"""DLPack capsules, read and written with ctypes: NumPy's own code is for host memory only."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from trtdeploy.core.errors import EngineError

CUDA_DEVICE = 2
"""DLPack's number for memory of a CUDA device."""

_NAME = b"dltensor"
_USED = b"used_dltensor"
_CODES = {0: "i", 1: "u", 2: "f", 6: "b"}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor; its fields follow, because its deleter takes a pointer to it."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_python = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(
    ("PyCapsule_New", _python)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _python))
# in a destructor the capsule has no references left, and must not get one
_is_valid_raw = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer_of_raw = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)


class Tensor:
    """A tensor taken out of a capsule; its memory goes back to the producer with this object.

    Attributes:
        pointer: Address of its first element.
        shape: Its shape.
        strides: In elements, None when it is contiguous.
        dtype: NumPy's type string, such as `|u1`.
        itemsize: Bytes of an element.

    Raises:
        EngineError: The capsule was used before, or is of another kind.
    """

    def __init__(self, capsule: Any) -> None:
        self._managed: Any = None
        if not _is_valid(capsule, _NAME):
            raise EngineError("Expected a DLPack capsule that was not used before.")
        self._managed = ctypes.cast(_pointer_of(capsule, _NAME), ctypes.POINTER(_Managed))
        _rename(capsule, _USED)
        tensor = self._managed.contents.tensor
        axes = range(tensor.ndim)
        self.pointer = (tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(int(tensor.shape[axis]) for axis in axes)
        self.strides = tuple(int(tensor.strides[axis]) for axis in axes) if tensor.strides else None
        self.itemsize = tensor.dtype.bits // 8
        code = _CODES.get(tensor.dtype.code, "V")
        self.dtype = np.dtype(f"{code}{self.itemsize}").str if tensor.dtype.lanes == 1 else "vector"

    def __del__(self) -> None:
        if self._managed is not None and self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


class _Export:
    """What a consumer's tensor needs: the structure, its arrays and the memory's owner."""

    def __init__(self, owner: object, shape: tuple[int, ...]) -> None:
        self.owner = owner
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.managed = _Managed()


_exports: dict[int, _Export] = {}
"""Exports by the address of their structure, until the consumer calls the deleter."""


def _delete(managed: Any) -> None:
    _exports.pop(ctypes.addressof(managed.contents), None)


def _destroy(capsule: int) -> None:
    if _is_valid_raw(capsule, _NAME):  # nobody took the tensor
        _exports.pop(_pointer_of_raw(capsule, _NAME), None)


_delete_callback = _Deleter(_delete)
_destroy_callback = _Destructor(_destroy)


def export(pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], owner: object) -> Any:
    """Return a capsule for contiguous memory; `owner` is kept until the consumer gives it back."""
    item = _Export(owner, shape)
    tensor = item.managed.tensor
    tensor.data, tensor.byte_offset = pointer, 0
    tensor.device = _Device(*device)
    tensor.ndim, tensor.shape = len(shape), item.shape
    code = {kind: code for code, kind in _CODES.items()}[dtype.kind]
    tensor.dtype = _DataType(code, dtype.itemsize * 8, 1)
    item.managed.deleter = _delete_callback
    address = ctypes.addressof(item.managed)
    _exports[address] = item
    return _new_capsule(address, _NAME, _destroy_callback)
