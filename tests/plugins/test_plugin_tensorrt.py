"""The plugin library, compiled with TensorRT's headers, walked through the protocol that TensorRT follows.

The headers are not part of the repository: tests are skipped where there are none. A Jetson or a machine with TensorRT
has them in /usr/include; others can be put into <environment>/share/tensorrt-headers/<version>/include.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_cases import ATTRIBUTES, COMBINATIONS, OP_TYPES, plan_in_python, shapes_of, spelled_shapes
from plugin_probes import Probe, header_folders, plugin_library, tensorrt_build

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import Operation

HEADERS = header_folders()
FLOAT32, INT32, CHAR = 1, 5, 6
"""Numbers of PluginFieldType, the same in all versions."""

pytestmark = pytest.mark.skipif(
    not HEADERS, reason=f"no TensorRT headers in {sys.prefix}/share/tensorrt-headers/<version>/include or /usr/include"
)


@pytest.fixture(params=HEADERS, ids=[f"TensorRT-{folder.parent.name}" for folder in HEADERS])
def build(request: pytest.FixtureRequest) -> Path:
    return tensorrt_build(request.param)


@pytest.fixture
def trt(build: Path) -> Iterator[Probe]:
    running = Probe(build / "tests" / "tensorrt_probe", "load", plugin_library(build))
    yield running
    running.close()


def create(trt: Probe, operation: Operation) -> str:
    """Make the plugin of a node as the parser does, with the parser's own attributes among the fields."""
    fields = [f"plugin_version={CHAR}:31"]
    for attribute in operation.attributes:
        values = ATTRIBUTES[operation.op_type][attribute.name]
        code, kind = ("f", FLOAT32) if attribute.kind == "floats" else ("i", INT32)
        fields.append(f"{attribute.name}={kind}:{struct.pack(f'<{len(values)}{code}', *values).hex()}")
    return trt.ask("create", operation.op_type, *fields)


def spelled_formats(operation: Operation, data_type: str, layout: str) -> str:
    images = [tensor.image for tensor in (*operation.inputs, *operation.outputs)]
    return ",".join(f"{data_type}:{layout if image else 'linear'}" for image in images)


def test_every_operation_has_a_creator(trt: Probe) -> None:
    count, *creators = trt.ask("creators").split()
    expected = []
    for op_type in OP_TYPES:
        fields = "".join(
            f"{a.name}:{FLOAT32 if a.kind == 'floats' else INT32}:{a.length}"
            for a in plugin_specs()[op_type].operation.attributes
        )
        expected.append(f"trtdeploy::{op_type}/1({fields})")
    assert (int(count), creators) == (len(OP_TYPES), expected)


@pytest.mark.parametrize("op_type", OP_TYPES)
def test_the_builder_gets_shapes_types_and_formats(trt: Probe, op_type: str) -> None:
    operation = plugin_specs()[op_type].operation
    assert create(trt, operation) == "ok"
    assert trt.ask("identity").startswith(f"trtdeploy::{op_type}/1 {len(operation.outputs)} {op_type}(")
    unknown = spelled_shapes([[-1] * operand.rank for operand in operation.inputs])
    assert trt.ask("shapes", unknown) == "0 " + json.dumps(
        [[size.to_json() for size in output.dims] for output in operation.outputs], separators=(",", ":")
    )
    tensors = len(operation.inputs) + len(operation.outputs)
    has_images = any(tensor.image for tensor in (*operation.inputs, *operation.outputs))
    for data_type, layout in COMBINATIONS if has_images else COMBINATIONS[:2]:
        formats = spelled_formats(operation, data_type, layout).split(",")
        answers = {trt.ask("format", i, ",".join(formats[: i + 1]), tensors) for i in range(tensors)}
        assert (answers == {"yes"}) == ((data_type, layout) != ("float32", "hwc8")), (data_type, layout)
    assert trt.ask("types", ",".join(["float16"] * len(operation.inputs))) == "0" + " 1" * len(operation.outputs)
    assert trt.ask("log") == ""


@pytest.mark.parametrize("op_type", OP_TYPES)
def test_fixed_sizes_become_numbers(trt: Probe, op_type: str) -> None:
    operation = plugin_specs()[op_type].operation
    create(trt, operation)
    for shapes in list(shapes_of(op_type))[:10]:
        expected = [[evaluate(size, Numbers(shapes), {}) for size in output.dims] for output in operation.outputs]
        assert trt.ask("shapes", spelled_shapes(shapes)) == "0 " + json.dumps(expected, separators=(",", ":"))


@pytest.mark.parametrize("op_type", OP_TYPES)
@pytest.mark.parametrize("capability", [75, 87])
def test_a_plugin_goes_into_an_engine_and_runs_from_it(trt: Probe, op_type: str, capability: int) -> None:
    spec = plugin_specs()[op_type]
    trt.ask("fake", "capability", capability)
    for data_type, layout in COMBINATIONS[:3]:
        formats = spelled_formats(spec.operation, data_type, layout)
        for shapes in list(shapes_of(op_type))[:5]:
            plan = plan_in_python(spec, data_type, layout, shapes)
            if plan is None:
                continue
            create(trt, spec.operation)
            spelled = spelled_shapes(shapes)
            configured = trt.ask("configure", formats, spelled, spelled, spelled)
            if capability == 75 and op_type == "TrtdeployScaledDotProduct":
                assert configured == "1"
                assert "needs compute capability 8.0 or newer; this device has 7.5" in trt.ask("log")
                continue
            assert configured == "0"
            assert trt.ask("clone") == "ok"
            assert trt.ask("engine", op_type).startswith("ok ")
            assert trt.ask("attach") == "ok"
            name, *numbers = plan
            answer = trt.ask("run", formats, spelled)
            parameters = [
                *(f"p{1000 + i}" for i in range(len(shapes))),
                *numbers[5:],
                *(f"p{2000 + i}" for i in range(len(spec.operation.outputs))),
            ]
            assert re.fullmatch(
                rf"0 0 prepared: (load sm_{75 if capability == 75 else 80} )?enqueued: launch {name} "
                rf"grid={'x'.join(numbers[:3])} block={numbers[3]} shared={numbers[4]} stream=7 "
                rf"parameters={','.join(parameters)}",
                answer,
            ), answer
    assert trt.ask("log") == ""


def test_an_engine_is_smaller_once_type_and_device_are_known(trt: Probe) -> None:
    operation = plugin_specs()["TrtdeploySimAMGate"].operation
    create(trt, operation)
    whole = int(trt.ask("engine", operation.op_type).split()[1])
    create(trt, operation)
    trt.ask("configure", "float16:linear,float16:linear", "1x8x4x4", "1x8x4x4", "1x8x4x4")
    assert int(trt.ask("engine", operation.op_type).split()[1]) < 0.7 * whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "TrtdeploySimAMGate, layer 'layer': attribute 'epsilon' is missing."),
        ([f"epsilon={INT32}:00000000"], "attribute 'epsilon' has field type 5, expected FLOAT32."),
        ([f"epsilon={FLOAT32}:0000000000000000"], "attribute 'epsilon' has 2 numbers, expected 1."),
    ],
)
def test_wrong_attributes_are_told_in_the_log(trt: Probe, fields: list[str], message: str) -> None:
    assert trt.ask("create", "TrtdeploySimAMGate", *fields) == "null"
    assert message in trt.ask("log")


def test_wrong_uses_are_errors_in_the_log(trt: Probe) -> None:
    create(trt, plugin_specs()["TrtdeploySpatialGate"].operation)
    shapes = "1x3x8x8,1x2x8x8,1x2x7x7"
    for question, answer, message in [
        ("shapes 1x3x8x8,1x2x8x8", "1 []", "has 3 inputs and 1 outputs, got 2 and 1."),
        ("shapes 1x3x8x8,1x2x8,1x2x7x7", "1 []", "input 'd' has 3 axes, expected 4."),
        ("types float16,float32,float16", "1", "has another data type than input 'x'."),
        ("types float16", "1", "got 1 and 1."),
        (f"configure float16:linear,float16:hwc8,float16:linear,float16:linear {shapes} {shapes} {shapes}",
         "1", "in formats that it did not agree to."),
        (f"run float32:other,float32:linear,float32:linear,float32:other {shapes}",
         "1 1 prepared: enqueued:", "in formats that it did not agree to."),
    ]:  # fmt: skip
        assert trt.ask(question).startswith(answer), question
        assert message in trt.ask("log")


def test_head_widths_without_a_kernel_are_refused_while_parsing(trt: Probe) -> None:
    create(trt, plugin_specs()["TrtdeployScaledDotProduct"].operation)
    assert trt.ask("shapes", "-1x4x-1x33,-1x4x33x-1,-1x4x-1x33") == "1 []"
    assert "TrtdeployScaledDotProduct does not support the sizes of its inputs." in trt.ask("log")
    assert trt.ask("shapes", "-1x4x-1x32,-1x4x32x-1,-1x4x-1x32").startswith("0 ")


def test_errors_of_the_driver_reach_the_log(trt: Probe) -> None:
    create(trt, plugin_specs()["TrtdeploySimAMGate"].operation)
    trt.ask("fake", "fail_load", 218)
    assert trt.ask("run", "float32:linear,float32:linear", "1x8x4x4").startswith("1 1 ")
    assert "cannot be loaded. The driver's log: line 1: fake log" in trt.ask("log")


def test_the_libraries_export_nothing_else_and_need_no_cuda(build: Path) -> None:
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("nm and readelf are not installed: apt-get install binutils")
    library = plugin_library(build)
    for path, expected in ((library, ["getCreators", "setLoggerFinder"]), (preload(library), [])):
        symbols = subprocess.run(
            ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout
        assert [line.split()[-1] for line in symbols.splitlines()] == expected
        needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        assert not re.search(r"NEEDED.*(cuda|nvinfer|nvrtc)", needed), needed


def preload(library: Path) -> Path:
    return library.with_name(f"{library.stem}_preload.so")


def test_a_program_that_only_opens_the_preload_library_gets_the_plugins(build: Path) -> None:
    opened = Probe(build / "tests" / "tensorrt_probe", "open", preload(plugin_library(build)))
    assert opened.ask("creators").startswith(f"{len(OP_TYPES)} ")
    assert opened.close() == ""


def test_the_plugin_library_registers_nothing_when_it_is_only_opened(build: Path) -> None:
    opened = Probe(build / "tests" / "tensorrt_probe", "open", plugin_library(build))
    assert opened.ask("creators") == "0"


def test_another_major_version_is_refused() -> None:
    builds = {plugin_library(tensorrt_build(folder)).name: tensorrt_build(folder) for folder in HEADERS}
    if len(builds) < 2:
        pytest.skip("headers of one major version only")
    (old_name, old), *_, (_, new) = sorted(builds.items())
    running = Probe(new / "tests" / "tensorrt_probe", "load", old / old_name)
    assert running.ask("creators") == "0"
    assert re.search(r"was built for TensorRT 10, but TensorRT 11 is loaded\. Build plugins/", running.close())
