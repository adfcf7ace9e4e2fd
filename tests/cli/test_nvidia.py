"""What `doctor` makes of NVIDIA machines. The texts follow NVIDIA's documentation; no such machine ran these tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trtdeploy.cli import doctor, nvidia
from trtdeploy.cli.main import main

RELEASE_36 = (
    "# R36 (release), REVISION: 4.3, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
RELEASE_38 = "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64, DATE: Wed Dec 31 2025\n"
DRIVER = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
DRIVER_OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.163.01  Release Build  (dvs-builder)\n"
DRIVER_OLD = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n"
SMI = """
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver}              Driver Version: {driver}      CUDA Version: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
"""
TOOLKIT = '{"cuda" : {"name" : "CUDA SDK", "version" : "13.0.2"}, "cuda_cudart" : {"version" : "13.0.96"}}'
LDCONFIG = """1467 libs found in cache `/etc/ld.so.cache'
\tlibnvinfer_plugin.so.10 (libc6,AArch64) => /lib/aarch64-linux-gnu/libnvinfer_plugin.so.10
\tlibnvinfer.so.10 (libc6,AArch64) => /lib/aarch64-linux-gnu/libnvinfer.so.10
\tlibnvinfer.so (libc6,AArch64) => /lib/aarch64-linux-gnu/libnvinfer.so
"""

ORIN_NX = {
    "files": {"/etc/nv_tegra_release": RELEASE_36, "/proc/device-tree/model": "NVIDIA Jetson Orin NX Developer Kit\0"},
    "programs": {"dpkg-query": "6.2+b77", "ldconfig": LDCONFIG, "nvidia-smi": None},
    "links": {"/lib/aarch64-linux-gnu/libnvinfer.so.10": "/usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0"},
    "dla": ["/dev/nvhost-nvdla0", "/dev/nvhost-nvdla1"],
    "machine": "aarch64",
}
THOR = {
    **ORIN_NX,
    "files": {"/etc/nv_tegra_release": RELEASE_38, "/proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0"},
    "programs": {"dpkg-query": "7.1-b112", "ldconfig": "", "nvidia-smi": SMI.format(driver="580.00", cuda="13.0")},
    "dla": [],
}
SERVER = {
    "files": {"/proc/driver/nvidia/version": DRIVER, "/usr/local/cuda/version.json": TOOLKIT},
    "programs": {
        "nvidia-smi": SMI.format(driver="580.95.05", cuda="13.0"),
        "nvidia-smi --query": "NVIDIA L4, 23034 MiB, 8.9\nNVIDIA A100-SXM4-40GB, 40960 MiB, 8.0\n",
    },
    "machine": "x86_64",
}
OLD_SERVER = {
    **SERVER,
    "files": {**SERVER["files"], "/proc/driver/nvidia/version": DRIVER_OLD},  # type: ignore[dict-item]
    "programs": {
        "nvidia-smi": SMI.format(driver="470.256.02", cuda="11.4"),
        "nvidia-smi --query": "Tesla T4, 15360 MiB, 7.5\n",
    },
}
NO_GPU = {"files": {}, "programs": {}, "machine": "x86_64"}

Examine = Callable[..., dict[str, Any]]


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Return what is known of a machine with the Python packages given."""

    def run(host: dict[str, Any], **packages: str) -> dict[str, Any]:
        def program(*command: str, **_: Any) -> str | None:
            name = "nvidia-smi --query" if any("--query" in arg for arg in command) else command[0]
            answer: str | None = host["programs"].get(name)
            return answer

        monkeypatch.setattr(nvidia, "read_text", lambda path: host["files"].get(path, ""))
        monkeypatch.setattr(nvidia, "run_quietly", program)
        monkeypatch.setattr(nvidia.os.path, "realpath", lambda path: host.get("links", {}).get(path, path))
        monkeypatch.setattr(nvidia.glob, "glob", lambda pattern: host.get("dla", []) if "nvdla" in pattern else [])
        monkeypatch.setattr(nvidia.platform, "machine", lambda: host["machine"])
        monkeypatch.setattr(nvidia, "version_of", lambda *names: packages.get(names[0].replace("-", "_")))
        return nvidia.nvidia()

    return run


def works(facts: dict[str, Any]) -> dict[str, bool]:
    return {route["name"]: route["works"] for route in facts["routes"]}


def test_orin_with_jetpack_6_and_its_tensorrt(examine: Examine) -> None:
    facts = examine(ORIN_NX, tensorrt="10.3.0", cuda_bindings="12.9.4")
    assert facts["jetson"] == {
        "board": "NVIDIA Jetson Orin NX Developer Kit",
        "linux_for_tegra": "R36.4.3",
        "jetpack": "6.2+b77",
        "jetpack_of_release": "6.1 or 6.2",
        "tensorrt_of_release": "10.3",
        "cuda_of_release": "12.6",
        "python_of_release": "3.10",
    }
    assert facts["libnvinfer"] == "10.3.0"
    assert works(facts) == {
        "TensorRT, native": True,
        "kernels inside the engine": False,
        "plugin library (C++)": True,
        "DLA": True,
        "TensorRT-RTX, build": False,
        "TensorRT-RTX, run": False,
    }
    assert facts["install"] == facts["mismatches"] == []


def test_orin_without_tensorrt_in_the_environment_gets_the_commands_for_jetpack_6(examine: Examine) -> None:
    commands = [line for line in examine(ORIN_NX)["install"] if not line.startswith("#")]
    assert commands == [
        "sudo apt-get install python3-libnvinfer python3-venv",
        "python3.10 -m venv --system-site-packages ~/trtdeploy && . ~/trtdeploy/bin/activate",
        "pip install trtdeploy",
        "pip install 'cuda-bindings==12.9.*'",
    ]


def test_thor_with_jetpack_7_gets_its_own_commands(examine: Examine) -> None:
    facts = examine(THOR)
    assert facts["jetson"]["jetpack_of_release"] == "7.1"
    assert facts["install"][0] == "sudo apt-get update && sudo apt-get install nvidia-jetpack"
    assert any(line.startswith("python3.12 -m venv --system-site-packages") for line in facts["install"])
    assert "pip install 'cuda-bindings==13.*'" in facts["install"]
    thor = examine(THOR, tensorrt="10.13.3.9", cuda_bindings="13.0.1")
    assert works(thor)["kernels inside the engine"] is True
    assert works(thor)["DLA"] is False
    assert next(r["why"] for r in thor["routes"] if r["name"] == "DLA").endswith("Thor Developer Kit has none")


@pytest.mark.parametrize(
    ("board", "version", "words"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "10.16.2.10", "10.7 was the last with it"),
        ("NVIDIA Jetson Orin NX", "11.4.1", "on AGX Orin alone"),
        ("NVIDIA Jetson Orin Nano", "10.3.0", "Orin Nano has none"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "11.4.1", "2 devices"),
    ],
)
def test_dla_depends_on_board_and_version(examine: Examine, board: str, version: str, words: str) -> None:
    host = {**ORIN_NX, "files": {**ORIN_NX["files"], "/proc/device-tree/model": board}}  # type: ignore[dict-item]
    route = next(r for r in examine(host, tensorrt=version)["routes"] if r["name"] == "DLA")
    assert words in route["why"]
    assert route["works"] is ("devices" in words)


def test_jetson_with_two_tensorrts_is_told_to_use_the_systems(examine: Examine) -> None:
    facts = examine(ORIN_NX, tensorrt="10.16.1.11", cuda_bindings="12.9.4")
    assert "Python package is TensorRT 10.16.1.11 and the system's library 10.3.0" in facts["mismatches"][0]
    assert "--system-site-packages" in facts["mismatches"][0]


def test_jetpack_6_0_is_too_old(examine: Examine) -> None:
    files = {**ORIN_NX["files"], "/etc/nv_tegra_release": RELEASE_36.replace("4.3", "3.0")}  # type: ignore[dict-item]
    facts = examine({**ORIN_NX, "files": files}, tensorrt="8.6.2")
    assert works(facts)["TensorRT, native"] is False
    assert "Update to JetPack 6.1 or newer" in facts["mismatches"][0]


def test_server_with_tensorrt_11(examine: Examine) -> None:
    facts = examine(SERVER, tensorrt="11.4.0.106", tensorrt_rtx="1.7.1.116", cuda_bindings="13.0.1")
    assert (facts["driver"], facts["cuda_of_driver"], facts["cuda_toolkit"]) == ("580.95.05", "13.0", "13.0.2")
    assert facts["gpus"] == ["NVIDIA L4, 23034 MiB, 8.9", "NVIDIA A100-SXM4-40GB, 40960 MiB, 8.0"]
    assert [name for name, possible in works(facts).items() if not possible] == ["DLA"]
    assert facts["mismatches"] == facts["install"] == []


def test_server_gets_the_packages_that_its_driver_runs(examine: Examine) -> None:
    assert examine(SERVER)["install"] == ["pip install tensorrt-cu13", "pip install 'cuda-bindings==13.*'"]
    files = {"/proc/driver/nvidia/version": DRIVER_OPEN}
    programs = {**SERVER["programs"], "nvidia-smi": SMI.format(driver="550.163.01", cuda="12.4")}  # type: ignore[dict-item]
    host = {**SERVER, "files": files, "programs": programs}
    facts = examine(host, cuda_bindings="13.0.1")
    assert facts["driver"] == "550.163.01"
    assert facts["install"] == ["pip install tensorrt-cu12"]
    assert facts["mismatches"] == [
        "cuda-bindings 13.0.1 is for CUDA 13 and the driver runs CUDA up to 12.4: pip install 'cuda-bindings==12.*'"
    ]


def test_old_driver_is_named_with_the_one_that_is_needed(examine: Examine) -> None:
    facts = examine(OLD_SERVER)
    assert facts["install"] == []
    assert facts["mismatches"] == [
        "The CUDA toolkit 13.0.2 is newer than the driver 470.256.02, which runs CUDA up to 11.4. Update the driver to "
        "580.65 or newer.",
        "The driver 470.256.02 is too old for CUDA 12 and 13. Update it to 580.65 or newer.",
    ]


def test_machine_without_a_gpu_gets_no_advice(examine: Examine) -> None:
    facts = examine(NO_GPU, tensorrt_rtx="1.7.1.116")
    assert facts["jetson"] is None
    assert facts["install"] == facts["mismatches"] == []
    assert [name for name, possible in works(facts).items() if possible] == ["TensorRT-RTX, build"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cuda": 1}', '{"cuda": {"version": 13}}'])
def test_damaged_toolkit_file_is_no_toolkit(text: str) -> None:
    assert nvidia.toolkit_version(text) is None


def test_unknown_release_of_linux_for_tegra_is_said_to_be_unknown() -> None:
    found = nvidia.jetson("# R99 (release), REVISION: 1.0, GCID: 1\n", "NVIDIA Jetson X\0", "")
    assert found is not None
    assert found["linux_for_tegra"] == "R99.1.0"
    assert found["jetpack_of_release"] == "unknown"
    assert found["jetpack"] == "the package nvidia-jetpack is not installed"


def test_doctor_prints_routes_and_commands(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = examine(ORIN_NX)
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "_video", lambda: {"version": None})
    monkeypatch.setattr(doctor, "nvidia", lambda: facts)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Orin NX Developer Kit, Linux for Tegra R36.4.3 (JetPack 6.1 or 6.2), 6.2+b77" in out
    assert "For TensorRT on this machine:" in out
    assert "python3.10 -m venv --system-site-packages" in out
    assert "kernels inside the engine  no" in out
