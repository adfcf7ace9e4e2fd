"""The packaged PTX, compiled by the driver and launched on the device, against the operations' own references."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from trtdeploy.kernels.store import load_table, ptx_text

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
LAUNCHES = [launch["name"] for operation in load_table()["operations"] for launch in operation["launches"]]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """The driver API with the primary context of the first GPU."""
    api = pytest.importorskip("cuda.bindings.driver")
    call(api, "cuInit", 0)
    device = call(api, "cuDeviceGet", 0)
    context = call(api, "cuDevicePrimaryCtxRetain", device)
    call(api, "cuCtxPushCurrent", context)
    yield api
    call(api, "cuCtxPopCurrent")
    call(api, "cuDevicePrimaryCtxRelease", device)


def call(api: Any, name: str, *arguments: Any) -> Any:
    """Call the driver and return its result."""
    error, *results = getattr(api, name)(*arguments)
    assert error == api.CUresult.CUDA_SUCCESS, f"{name}: {error}"
    return results[0] if len(results) == 1 else results


@pytest.mark.parametrize("name", LAUNCHES, ids=[name.removeprefix("trtdeploy_") for name in LAUNCHES])
def test_kernel_computes_what_the_reference_computes(name: str, driver: Any) -> None:
    from packaged_cases import chosen_shapes, expected, make_case, tolerance_of, worst_error
    from packaged_kernels import packaged_launches

    packaged = packaged_launches()[name]
    device = call(driver, "cuCtxGetDevice")
    major = call(
        driver, "cuDeviceGetAttribute", driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device
    )
    target = "sm80" if major >= 8 else "sm75"
    module = call(driver, "cuModuleLoadData", ptx_text(name, target).encode() + b"\0")
    try:
        kernel = call(driver, "cuModuleGetFunction", module, name.encode())
        for seed, shapes in enumerate(chosen_shapes(packaged, 4)):
            case = make_case(packaged, shapes, seed=seed)
            results = launch(driver, kernel, packaged, case.inputs, case.attributes)
            assert worst_error(results, expected(case)) < tolerance_of(packaged), shapes
    finally:
        call(driver, "cuModuleUnload", module)


def launch(driver: Any, kernel: Any, packaged: Any, inputs: Sequence[np.ndarray], attributes: Any) -> list[np.ndarray]:
    """Launch a kernel as the table says and return its outputs, without the padding of `hwc8`."""
    from packaged_kernels import ITEM, to_hwc8, value_of

    entry, operation = packaged.entry, packaged.spec.operation
    item, is_hwc8 = ITEM[entry["data_type"]], entry["layout"] == "hwc8"
    sizes = [array.shape for array in inputs]
    arrays = [
        np.ascontiguousarray(to_hwc8(array.astype(item)) if is_hwc8 and operand.image else array.astype(item))
        for operand, array in zip(operation.inputs, inputs, strict=True)
    ]
    outputs = []
    for result in operation.outputs:
        blank = np.full([value_of(size.to_json(), sizes, attributes) for size in result.dims], np.nan, item)
        outputs.append(np.ascontiguousarray(to_hwc8(blank) if is_hwc8 and result.image else blank))
    pointers = [call(driver, "cuMemAlloc", array.nbytes) for array in (*arrays, *outputs)]
    try:
        for pointer, array in zip(pointers, (*arrays, *outputs), strict=True):
            call(driver, "cuMemcpyHtoD", pointer, array.ctypes.data, array.nbytes)
        extras = [int(value_of(part, sizes, attributes)) for part in entry["arguments"]]
        starts, ends = pointers[: len(arrays)], pointers[len(arrays) :]
        values = (*map(int, starts), *extras, *map(int, ends))
        types = (*[ctypes.c_void_p] * len(starts), *[ctypes.c_int] * len(extras), *[ctypes.c_void_p] * len(ends))
        grid = [value_of(part, sizes, attributes) for part in entry["grid"]]
        call(
            driver, "cuLaunchKernel", kernel, *grid, entry["block"], 1, 1, entry["shared_bytes"], 0, (values, types), 0
        )
        call(driver, "cuCtxSynchronize")
        for pointer, array in zip(ends, outputs, strict=True):
            call(driver, "cuMemcpyDtoH", array.ctypes.data, pointer, array.nbytes)
    finally:
        for pointer in pointers:
            call(driver, "cuMemFree", pointer)
    found = []
    for result, array in zip(operation.outputs, outputs, strict=True):
        dims = [value_of(size.to_json(), sizes, attributes) for size in result.dims]
        found.append(from_hwc8(array, dims[1]) if is_hwc8 and result.image else array)
    return found


def from_hwc8(array: np.ndarray, channels: int) -> np.ndarray:
    """Return `[N, H, W, C rounded up to 8]` as `[N, C, H, W]`."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)[:, :channels])
