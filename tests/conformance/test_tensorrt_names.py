"""Every TensorRT name that trtdeploy touches is in 10.13, 10.16, 11.4 and TensorRT-RTX, or its absence is handled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trt_bindings
from names_used import MODULE, Use, World, has, starts_here

ROOT = Path(__file__).parents[2]
CUDA = {"cuda.py", "dlpack.py", "interop.py"}
"""Files of CUDA, where `runtime` is CUDA's; tests/backends/device compares their names with cuda-bindings."""
NOT_FOR_RTX = {"quick_plugins.py", "plugin_library.py"}
"""TensorRT-RTX takes no plugins."""
RTX = trt_bindings.RTX
GUARDED = {
    ("ICudaEngine", "device_memory_size"): ({"11.4.0.106", RTX}, "only where device_memory_size_v2 is missing: 10.0"),
    ("module", "ComputeCapability"): (set(trt_bindings.VERSIONS), "only where targets are given, which is RTX's"),
    ("IBuilderConfig", "num_compute_capabilities"): (set(trt_bindings.VERSIONS), "as above"),
    ("IBuilderConfig", "set_compute_capability"): (set(trt_bindings.VERSIONS), "as above"),
}
"""Names that some versions lack, with those versions, and what keeps the code from touching them there."""


def sources() -> dict[str, str]:
    files = sorted(file for file in (ROOT / "trtdeploy").rglob("*.py") if file.name not in CUDA)
    texts = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}
    return {file: text for file, text in texts.items() if file.startswith("trtdeploy/backends/") or starts_here(text)}


@pytest.fixture(scope="module")
def world(all_apis: dict[str, Any]) -> World:
    return World(all_apis["11.4.0.106"], sources())


def lacking(use: Use, apis: dict[str, Any]) -> set[str]:
    """Return the versions that lack a name, of those that its file is for."""
    is_for_rtx = Path(use.file).name not in NOT_FOR_RTX
    return {version for version, api in apis.items() if (version != RTX or is_for_rtx) and not has(api, use)}


def complaints(world: World, apis: dict[str, Any]) -> list[str]:
    """Return what is wrong with the names in sources."""
    found = []
    for use in sorted(world.uses()):
        missing = lacking(use, apis)
        if use.how == "optional":
            if len(missing) == len(apis):
                found.append(f"{use}: no version has it, so that looking it up is in vain")
        elif missing != GUARDED.get((use.owner, use.name), (set(), ""))[0] & apis.keys():
            found.append(f"{use}: not in {', '.join(sorted(missing)) or 'GUARDED any more'}")
    return found


def test_every_name_is_in_every_version_or_guarded(world: World, all_apis: dict[str, Any]) -> None:
    assert complaints(world, all_apis) == []


def test_the_table_of_guarded_names_has_no_stale_entries(world: World) -> None:
    used = {(use.owner, use.name) for use in world.uses()}
    assert GUARDED.keys() - used == set()


def test_every_parameter_of_unknown_type_is_accounted_for(world: World) -> None:
    assert list(world.untyped()) == []


def test_optional_names_are_known_by_the_versions_that_have_them(world: World, all_apis: dict[str, Any]) -> None:
    uses = [use for use in world.uses() if use.how == "optional"]
    found = {f"{use.owner}.{use.name}": sorted(all_apis.keys() - lacking(use, all_apis)) for use in uses}
    print("Names that are looked up with a default, and where they are:")
    for name, versions in sorted(found.items()):
        print(f"  {name}: {', '.join(versions)}")
    assert found["ICudaEngine.device_memory_size_v2"] == sorted(all_apis)  # only 10.0 lacks it


@pytest.mark.parametrize(
    ("file", "owner", "name"),
    [
        ("trt_build.py", MODULE, "Builder"),
        ("trt_build.py", "IBuilderConfig", "set_flag"),
        ("trt_build.py", "BuilderFlag", "REFIT"),
        ("trt_build.py", "ParserError", "node_operator"),
        ("trt_build.py", "ITensor", "is_shape_tensor"),
        ("trt_build.py", "EngineInspector", "get_engine_information"),
        ("device/binding.py", "IExecutionContext", "execute_async_v3"),
        ("device/binding.py", "DataType", "name"),
        ("device/libraries.py", "ICudaEngine", "create_execution_context"),
        ("device/opening.py", "Runtime", "engine_host_code_allowed"),
        ("quick_plugins.py", "plugin", "AutoTuneCombination"),
    ],
)
def test_types_are_followed_to(world: World, file: str, owner: str, name: str) -> None:
    assert [
        use
        for use in world.uses()
        if use.file == f"trtdeploy/backends/{file}" and (use.owner, use.name) == (owner, name)
    ]


WRONG = {
    "a name of the module": "def f(trt: Any) -> None:\n    trt.Bilder",
    "a removed flag": "def f(trt: Any) -> None:\n    trt.BuilderFlag.FP16",
    "a removed method": "def f(parser: Any) -> None:\n    parser.supports_model(b'')",
    "a method of what a method gave": "def f(builder: Any) -> None:\n    builder.create_network(0).add_dream()",
    "a method of a variable": "def f(trt: Any) -> None:\n    b = trt.Builder(0)\n    b.create_netwrok(0)",
    "an attribute that cannot be set": "def f(network: Any) -> None:\n    network.num_layers = 3",
    "a method that nothing calls": "def f(trt: Any) -> None:\n    class L(trt.ILogger):\n        def logg(self): pass",
    "a lookup in vain": "def f(engine: Any) -> None:\n    getattr(engine, 'device_memory_size_v3', None)",
    "a lookup without a default": "def f(engine: Any) -> None:\n    getattr(engine, 'device_memory_size_v3')",
    "an attribute of ours": (
        "class A:\n    def __init__(self, trt: Any) -> None:\n        self.r = trt.Runtime(0)\n"
        "    def g(self) -> None:\n        self.r.load(0)"
    ),
    "what a function of ours returns": (
        "def make(trt: Any) -> Any:\n    return trt.Runtime(0)\ndef f(trt: Any) -> None:\n    make(trt).load(0)"
    ),
    "an element of a mapping": (
        "def f(network: Any) -> None:\n    found = {i: network.get_input(i) for i in range(3)}\n"
        "    for i, tensor in found.items():\n        tensor.dynamic_range"
    ),
    "a name of tensorrt.plugin": "def f() -> None:\n    trtp = import_module('tensorrt.plugin')\n    trtp.autotuned",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_name_is_found_with_file_and_line(all_apis: dict[str, Any], text: str) -> None:
    (complaint,) = complaints(World(all_apis["11.4.0.106"], {"wrong.py": text}), all_apis)
    line = len(text.splitlines())
    assert complaint.startswith(f"wrong.py:{line}: ")


def test_a_guarded_name_that_all_versions_have_is_found(all_apis: dict[str, Any]) -> None:
    older_only = dict.fromkeys(all_apis, all_apis["10.13.3.9"])
    text = "def f(engine: Any) -> None:\n    engine.device_memory_size"
    assert complaints(World(all_apis["10.13.3.9"], {"old.py": text}), older_only) == [
        "old.py:2: ICudaEngine.device_memory_size (read): not in GUARDED any more"
    ]
