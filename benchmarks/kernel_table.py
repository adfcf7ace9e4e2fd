"""Writes docs/kernels.md: what can be known of the kernels without a GPU.

Every launch runs on all shapes that it allows in the sanitised interpreter, its PTX is assembled for every GPU by the
assemblers that are there, and the bytes that move on feature maps of usual size are counted.

    python benchmarks/kernel_table.py
    pip install --no-deps --target build/cuda-12.6 'nvidia-cuda-nvcc-cu12==12.6.*'     the assembler of JetPack 6
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kernels"))

from interpret import interpret  # noqa: E402
from kernel_cases import applies, jobs_of, tolerance_of  # noqa: E402
from mutants import MUTANTS, Mutant  # noqa: E402

from trtdeploy.attention.plugins import plugin_specs  # noqa: E402
from trtdeploy.core.errors import UsageError  # noqa: E402
from trtdeploy.kernels.spec import Launch, PluginSpec  # noqa: E402
from trtdeploy.kernels.store import PTX_FOLDER, choose_launch, launch_entry  # noqa: E402

PAGE = ROOT / "docs" / "kernels.md"
GPUS = (75, 80, 86, 87, 89, 90, 100, 110, 120)
"""Compute capabilities, times ten."""
RUNS = 12
USUAL_MAPS = (
    (1, 64, 80, 80),
    (1, 128, 40, 40),
    (1, 256, 20, 20),
    (1, 32, 160, 160),
    (1, 64, 41, 39),
    (1, 32, 180, 135),
)
WIDE_MAPS = ((1, 16, 20, 320), (1, 16, 20, 319), (1, 16, 12, 640))
NO_COMPUTATION = {"Constant", "Shape", "Gather", "Cast", "CastLike"}
TABLE_HEAD = """| launch (without `trtdeploy_`) | error | registers | spills, B | shared, B | bytes moved / least |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Assembler:
    """A ptxas.

    Attributes:
        name: As in the page.
        path: The program, or None where it is not there.
        gpus: Which of `GPUS` it knows.
    """

    name: str
    path: Path | None
    gpus: tuple[int, ...] = GPUS


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the interpreter says of a launch.

    Attributes:
        error: The largest relative error.
        runs: How many runs.
        bytes_ratio: Bytes moved over the least, on a map of usual size.
        shape: That size.
    """

    error: float
    runs: int
    bytes_ratio: float
    shape: str


@dataclass(frozen=True)
class Assembled:
    """What ptxas says of a kernel on one GPU; `error` is empty where it took it."""

    registers: int = 0
    spill_bytes: int = 0
    error: str = ""


def main() -> None:
    launches = [(spec, launch) for spec in plugin_specs().values() for launch in spec.launches]
    assemblers = find_assemblers()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        print(f"{len(launches)} launches in the interpreter", flush=True)
        measured = {name: run for runs in pool.map(measure, plugin_specs().values()) for name, run in runs.items()}
        print("assembling", flush=True)
        assembled = assemble_all([launch for _, launch in launches], assemblers, pool.map)
    print(f"{len(MUTANTS)} seeded bugs", flush=True)
    results = interpret([mutant.job() for mutant in MUTANTS], timeout_s=3600)
    caught = [is_caught(mutant, result) for mutant, result in zip(MUTANTS, results, strict=True)]
    PAGE.write_text("".join(page(launches, measured, assemblers, assembled, caught)), encoding="utf-8")


def find_assemblers() -> list[Assembler]:
    """Return the assemblers of CUDA 12.6, of Triton, and of the CUDA that is installed."""
    found = []
    old = ROOT / "build" / "cuda-12.6" / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    found.append(Assembler("CUDA 12.6 (JetPack 6)", old if old.is_file() else None, (75, 80, 86, 87, 89, 90)))
    triton = importlib.util.find_spec("triton")
    tools = Path(str(triton.origin)).parent / "backends" / "nvidia" / "bin" if triton else Path()
    for name in ("ptxas", "ptxas-blackwell"):
        path = tools / name
        found.append(Assembler(f"Triton's {name}", path if path.is_file() else None))
    installed = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")
    found.append(Assembler("installed CUDA", Path(installed) if installed else None))
    return [named(assembler) for assembler in found]


def named(assembler: Assembler) -> Assembler:
    """Return an assembler with its version in its name, and with the GPUs that it lists."""
    if assembler.path is None:
        return assembler
    said = subprocess.run([assembler.path, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release (\S+),", said)
    listed = subprocess.run([assembler.path, "--help"], capture_output=True, text=True, check=True).stdout
    gpus = tuple(gpu for gpu in assembler.gpus if f"sm_{gpu}'" in listed or f"sm_{gpu}," in listed)
    return Assembler(f"{assembler.name}, {version.group(1) if version else 'unknown'}", assembler.path, gpus)


def measure(spec: PluginSpec) -> dict[str, Measured]:
    """Run the launches of an operation in the sanitised interpreter, on small maps and on one of usual size each.

    Raises:
        SystemExit: A run is wrong.
    """
    runs = {launch.name: [*jobs_of(spec, launch, RUNS), usual_job(spec, launch)] for launch in spec.launches}
    results = iter(interpret([job for jobs in runs.values() for job in jobs], timeout_s=3600))
    found = {}
    for launch in spec.launches:
        jobs = runs[launch.name]
        own = [next(results) for _ in jobs]
        for job, result in zip(jobs, own, strict=True):
            if "violation" in result or result["error"] > tolerance_of(spec.operation, launch):
                sys.exit(f"{job} is wrong: {result}")
        found[launch.name] = Measured(
            error=max(result["error"] for result in own),
            runs=len(own),
            bytes_ratio=(own[-1]["read"] + own[-1]["stored"]) / own[-1]["least"],
            shape="x".join(map(str, jobs[-1]["shapes"][0])),
        )
    return found


def usual_job(spec: PluginSpec, launch: Launch) -> dict[str, Any]:
    """Return a run on a map of usual size, one for which the launch is chosen where there is such a one."""
    fit = [shapes for shapes in usual_shapes(spec) if applies(spec, launch, shapes)]
    shapes = next((shapes for shapes in fit if _chosen(spec, launch, shapes)), fit[0])
    return {"launch": launch.name, "shapes": shapes, "special": "", "seed": 0}


def _chosen(spec: PluginSpec, launch: Launch, shapes: Any) -> bool:
    try:
        return choose_launch(spec, shapes, launch.data_type, launch.layout) is launch
    except UsageError:
        return False


def usual_shapes(spec: PluginSpec) -> list[tuple[tuple[int, ...], ...]]:
    """Return input shapes of usual feature maps."""
    if spec.operation.op_type == "TrtdeployScaledDotProduct":
        return [((1, 4, n, d), (1, 4, d, n), (1, 4, n, d)) for n in (400, 399) for d in (16, 32, 64, 128)]
    found: list[tuple[tuple[int, ...], ...]] = []
    for n, c, h, w in (*USUAL_MAPS, *WIDE_MAPS):
        sizes = {"x": (n, c, h, w), "h": (n, c, h, 1), "w": (n, c, 1, w), "s": (n, c, 1, 1), "d": (n, 2, h, w)}
        if "Spatial" in spec.operation.op_type:
            sizes["w"] = (1, 2, 7, 7)
        gates = ((n, c, 1, 1), (n, c, h, w), (n, c, h, 1)) if spec.operation.inputs[-1].name == "z" else ((),)
        operands = spec.operation.inputs
        found += [tuple(z if item.name == "z" else sizes[item.name] for item in operands) for z in gates]
    return found


def assemble_all(
    launches: list[Launch], assemblers: list[Assembler], each: Callable[..., Iterator[Assembled]]
) -> dict[tuple[str, str, int], Assembled]:
    """Return what every assembler says of every launch on every GPU that it has PTX for."""
    jobs = [
        (launch.name, assembler, gpu)
        for launch in launches
        for assembler in assemblers
        if assembler.path
        for gpu in assembler.gpus
        if ptx_target(gpu) in launch_entry(launch.name)["ptx"]
    ]
    results = each(lambda job: assemble(*job), jobs)
    return {(name, assembler.name, gpu): result for (name, assembler, gpu), result in zip(jobs, results, strict=True)}


def ptx_target(gpu: int) -> str:
    """Return which PTX a GPU takes."""
    return "sm75" if gpu < 80 else "sm80"


def assemble(name: str, assembler: Assembler, gpu: int) -> Assembled:
    """Assemble a launch's PTX for a GPU."""
    path = PTX_FOLDER / launch_entry(name)["ptx"][ptx_target(gpu)]["file"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as out:
        done = subprocess.run(
            [str(assembler.path), "-v", f"--gpu-name=sm_{gpu}", str(path), "-o", out.name],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        return Assembled(error=done.stderr.strip().splitlines()[0])
    used, spilled = re.search(r"Used (\d+) registers", done.stderr), re.search(r"(\d+) bytes spill stores", done.stderr)
    if used is None or spilled is None:
        return Assembled(error="no register count in the assembler's output")
    return Assembled(int(used.group(1)), int(spilled.group(1)))


def is_caught(mutant: Mutant, result: dict[str, Any]) -> bool:
    """Return whether the sanitised interpreter's result shows a bug."""
    name = mutant.job()["launch"]
    spec, launch = next((s, item) for s in plugin_specs().values() for item in s.launches if item.name == name)
    return "violation" in result or result["error"] > tolerance_of(spec.operation, launch)


def page(
    launches: list[tuple[PluginSpec, Launch]],
    measured: dict[str, Measured],
    assemblers: list[Assembler],
    assembled: dict[tuple[str, str, int], Assembled],
    caught: list[bool],
) -> Iterator[str]:
    """Yield the page."""
    runs = sum(run.runs for run in measured.values())
    yield f"""# Kernels

Made by `make kernel-table`. **No kernel has run on a GPU, and no speed was measured.** What a CPU can show is below.

Each fused operation has a Triton source beside its kind (`trtdeploy/attention/*/kernel.py`), launches in
`plugin.py`, and PTX in `trtdeploy/kernels/ptx`, which `make kernels` compiles without a GPU and which is the same
byte for byte everywhere. PTX 8.0 for compute capability 8.0 serves all newer GPUs; 7.5 has PTX of its own, and no
attention. Blocks lie along x only; shared memory stays within 48 KB; integers are arguments and floats pass as their
bits. `linear` is `[N, C, H, W]`; `hwc8` is `[N, H, W, C8]`, whose channels behind C are written as zeros whatever was
in them.

## Checked

- {runs} runs of {len(launches)} launches in the sanitised interpreter against the naive float64 references: exact
  bounds per lane, poison where a masked load names no value, no element stored twice, random order of the programs,
  int32 overflow; odd sizes, NaN, infinities, batches of more than 2^31 elements. Limits: 6e-4 of the largest value in
  float16, 2e-6 in float32; 1.5e-3 and 5e-6 for attention. Triton's interpreter multiplies matrices in full precision:
  what TF32 loses is not in its errors.
- {sum(caught)} of {len(caught)} seeded bugs are caught.

"""
    yield from _assemblers(launches, assemblers, assembled)
    yield from _launches(launches, measured, assembled)
    yield from _nodes()
    yield "\n## Seeded bugs\n\n| file | bug | |\n|---|---|---|\n"
    for mutant, was_caught in zip(MUTANTS, caught, strict=True):
        yield f"| {mutant.folder or 'device'} | {mutant.what} | {'caught' if was_caught else '**missed**'} |\n"


def _assemblers(
    launches: list[tuple[PluginSpec, Launch]],
    assemblers: list[Assembler],
    assembled: dict[tuple[str, str, int], Assembled],
) -> Iterator[str]:
    yield "## Assembled\n\nPTX files that ptxas takes, of those there are for the GPU.\n\n"
    yield "| ptxas | " + " | ".join(f"sm_{gpu}" for gpu in GPUS) + " |\n|---" + "|---" * len(GPUS) + "|\n"
    for assembler in assemblers:
        cells = []
        for gpu in GPUS:
            results = [assembled.get((launch.name, assembler.name, gpu)) for _, launch in launches]
            there = [result for result in results if result is not None]
            cells.append(f"{sum(not result.error for result in there)} of {len(there)}" if there else "–")
        yield f"| {assembler.name}{'' if assembler.path else ': not there, skipped'} | " + " | ".join(cells) + " |\n"
    failed = [(key, result.error) for key, result in assembled.items() if result.error]
    yield "".join(f"\n- {key}: {error}" for key, error in failed) + "\n"


def _launches(
    launches: list[tuple[PluginSpec, Launch]],
    measured: dict[str, Measured],
    assembled: dict[tuple[str, str, int], Assembled],
) -> Iterator[str]:
    yield """## Launches

Error: the largest over the largest value, in the interpreter. Registers and spills: the most over all assemblers and
GPUs. Bytes moved: what programs load and store, over one pass through every input and output, on the map that is
named; what a program loaded less than 16 KB ago is free, what another program loaded is not. SimAM reads planes that do
not fit its registers twice, which is 1.5 of the least and cannot be less in one launch; `coord_pool` reads maps of more
than 512 columns twice; attention reads keys and values once per block of queries, from the L2 cache, where the least
counts them once.

"""
    yield TABLE_HEAD
    for _, launch in launches:
        name = launch.name
        results = [result for key, result in assembled.items() if key[0] == name and not result.error]
        run = measured[name]
        registers = max((result.registers for result in results), default=0)
        spills = max((result.spill_bytes for result in results), default=0)
        yield (
            f"| {name.removeprefix('trtdeploy_')} | {run.error:.1e} | {registers} | {spills} "
            f"| {launch_entry(name)['shared_bytes']} | {run.bytes_ratio:.2f} at {run.shape} |\n"
        )


def _nodes() -> Iterator[str]:
    yield """
## Kernels before and after

Nodes of the operation's body in ONNX that compute, each a kernel where nothing fuses them; the plugin is one.

| operation | nodes | launches |
|---|---|---|
"""
    for op_type, spec in plugin_specs().items():
        nodes = [node for node in spec.operation.body(18).node if node.op_type not in NO_COMPUTATION]
        yield f"| {op_type} | {len(nodes)} | 1 |\n"


if __name__ == "__main__":
    main()
