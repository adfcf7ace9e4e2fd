"""Compile the Triton kernels of trtdeploy to PTX, ahead of time and without a GPU: the package data of `make kernels`.

Every kernel is compiled for compute capability 8.0 and 7.5 to PTX 8.0, which the driver of JetPack 6 (CUDA 12.6) and
newer ones take. The text is made the same on every machine: no comments, no debug information, no paths.

    python plugins/compile_kernels.py            write trtdeploy/kernels/ptx/
    python plugins/compile_kernels.py --check    fail where the package data are not what the sources give
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.spec import Launch, PluginSpec
from trtdeploy.kernels.store import PTX_FOLDER, TABLE_FORMAT, TABLE_PATH

TRITON = "3.9.0"
TARGETS = {"sm80": 80, "sm75": 75}
PTX_VERSION = 80
SHARED_LIMIT_BYTES = 48 * 1024
"""More needs an attribute on the function, which a quick plugin cannot set."""
WITHOUT_SM75 = {"TrtdeployScaledDotProduct"}
"""Its tensor core instructions, asynchronous copies and TF32 begin with compute capability 8.0."""
POINTER = {"float16": "*fp16", "float32": "*fp32"}


class CompileError(Exception):
    """A kernel does not compile to what the launchers expect."""


@dataclass(frozen=True)
class Compiled:
    """One PTX file.

    Attributes:
        file: Its name.
        text: Its content.
        shared_bytes: Dynamic shared memory of a block.
    """

    file: str
    text: str
    shared_bytes: int

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.text.encode("ascii")).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the package data instead of writing them")
    parser.add_argument("--only", default="", metavar="TEXT", help="with --check: kernels whose name contains TEXT")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="compiling processes (default: all cores)")
    options = parser.parse_args()
    if options.only and not options.check:
        parser.error("--only is for --check: the package data are written as a whole")
    try:
        compiled = compile_all(options.only, options.workers)
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    if not compiled:
        parser.error(f"no kernel's name contains {options.only!r}")
    files = {item.file: item.text for launch in compiled.values() for item in launch.values()}
    if not options.only:
        files[TABLE_PATH.name] = table_text(compiled)
    if options.check:
        return check(files, whole=not options.only)
    write(files)
    print(f"{len(files) - 1} PTX files of {len(compiled)} launches, {sum(map(len, files.values())) >> 10} KiB.")
    return 0


def compile_all(only: str, workers: int) -> dict[str, dict[str, Compiled]]:
    """Compile the launches whose names contain `only`, in child processes.

    Returns:
        Results by launch and target.

    Raises:
        CompileError: A kernel does not compile, or the compiler crashed.
    """
    found: dict[str, dict[str, Compiled]] = {}
    # Processes that are started anew: the interpreter of Triton may be on in this one, and the compiler can abort.
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_compiler, (cache,)) as pool,
    ):
        jobs = [(launch, target, pool.submit(compile_launch, launch.name, target)) for launch, target in _jobs(only)]
        for launch, target, future in jobs:
            try:
                found.setdefault(launch.name, {})[target] = future.result()
            except BrokenProcessPool as error:
                raise CompileError(f"{launch.name}, {target}, or one beside it: the compiler crashed.") from error
    return found


def _jobs(only: str) -> Iterator[tuple[Launch, str]]:
    for spec, launch in _launches():
        for target in TARGETS:
            if only in launch.name and not (target == "sm75" and spec.operation.op_type in WITHOUT_SM75):
                yield launch, target


def _launches() -> Iterator[tuple[PluginSpec, Launch]]:
    return ((spec, launch) for spec in plugin_specs().values() for launch in spec.launches)


def _start_compiler(cache: str) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = cache
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"


def compile_launch(name: str, target: str) -> Compiled:
    """Compile one launch for one target.

    Raises:
        CompileError: The kernel's arguments, shared memory or block are not those of the launch.
    """
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if triton.__version__ != TRITON:
        raise CompileError(f"Triton is {triton.__version__}, expected {TRITON}: other versions give other PTX.")
    spec, launch = next((spec, launch) for spec, launch in _launches() if launch.name == name)
    how = launch.compilation
    function = getattr(importlib.import_module(how.module), how.function)
    signature, constants, attributes = _signature(function.arg_names, spec, launch)
    kernel = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", TARGETS[target], 32),
        options={
            "num_warps": how.warps,
            "num_stages": how.stages,
            "ptx_version": PTX_VERSION,
            "enable_fp_fusion": True,
        },
    )
    shared_bytes = kernel.metadata.shared
    if shared_bytes > SHARED_LIMIT_BYTES:
        raise CompileError(f"{name}, {target}: {shared_bytes} bytes of shared memory, at most {SHARED_LIMIT_BYTES}.")
    text = finish(kernel.asm["ptx"], name, len(signature) - len(constants), how.warps * 32)
    return Compiled(f"{name}.{target}.ptx", text, shared_bytes)


def _signature(
    names: list[str], spec: PluginSpec, launch: Launch
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Return types, constants and hints of a kernel's arguments, as `ASTSource` takes them.

    Raises:
        CompileError: The kernel does not take the operation's inputs, the launch's arguments, the outputs.
    """
    constants = dict(launch.compilation.constants)
    own = [name for name in names if name not in constants]
    operation, pointer = spec.operation, POINTER[launch.data_type]
    types = [pointer] * len(operation.inputs) + ["i32"] * len(launch.arguments) + [pointer] * len(operation.outputs)
    is_pointer = [name.endswith("_ptr") for name in own]
    if is_pointer != [kind == pointer for kind in types] or not constants.keys() <= set(names):
        raise CompileError(f"{launch.name}: the kernel takes {own}, but is launched with {types}.")
    kinds = dict(zip(own, types, strict=True))
    hints = {(names.index(name),): [["tt.divisibility", by]] for name, by in launch.compilation.divisible}
    return {name: kinds.get(name, "constexpr") for name in names}, constants, hints


def finish(ptx: str, name: str, parameters: int, threads: int) -> str:
    """Return Triton's PTX as it is shipped: under the launch's name, without scratch parameters and comments.

    Args:
        ptx: Triton's text.
        name: New name of the entry.
        parameters: How many parameters the launcher passes; Triton adds two.
        threads: Threads of a block.

    Raises:
        CompileError: The text is not what is expected.
    """
    text = _without_unused_strings("\n".join(line for line in _lines(ptx) if line.strip()))
    entry = re.search(r"\.visible \.entry (\w+)\(\n(.*?)\n\)", text, re.DOTALL)
    if entry is None or len(re.findall(r"\.entry", text)) != 1:
        raise CompileError(f"{name}: expected one entry in the PTX.")
    declared = entry.group(2).split(",\n")
    body = text[entry.end() :]
    for index in range(parameters, len(declared)):
        if f"{entry.group(1)}_param_{index}" in body:
            raise CompileError(f"{name}: scratch parameter {index} is used, which a launcher does not pass.")
    if len(declared) != parameters + 2:
        raise CompileError(f"{name}: {len(declared)} parameters, expected {parameters} and two for scratch memory.")
    if f".reqntid {threads}\n" not in text:
        raise CompileError(f"{name}: expected blocks of {threads} threads.")
    kept = ",\n".join(declared[:parameters])
    text = f"{text[: entry.start(2)]}{kept}{text[entry.end(2) :]}"
    return re.sub(rf"\b{entry.group(1)}(?=\(|_param_)", name, text) + "\n"


def _lines(ptx: str) -> Iterator[str]:
    """Yield the lines without comments and debug information."""
    in_debug = False
    for line in ptx.splitlines():
        code = line.split("//")[0].rstrip().replace("\t", "  ")
        if code.lstrip().startswith(".section") and ".debug" in code:
            in_debug = True
        if not in_debug and not code.lstrip().startswith((".loc", ".file")):
            yield code
        if in_debug and code == "  }":
            in_debug = False


def _without_unused_strings(text: str) -> str:
    """Drop strings that asked the compiler for its options and are left over."""
    for line, name in re.findall(r"^(\.global .*?(\S+)\[\d+\] = \{.*\};\n)", text, re.MULTILINE):
        if text.count(name) == 1:
            text = text.replace(line, "")
    return text


def table_text(compiled: dict[str, dict[str, Compiled]]) -> str:
    """Return the table of all operations as JSON."""
    operations = [_operation_entry(spec, compiled) for _, spec in sorted(plugin_specs().items())]
    return json.dumps({"format": TABLE_FORMAT, "triton": TRITON, "operations": operations}, indent=1) + "\n"


def _operation_entry(spec: PluginSpec, compiled: dict[str, dict[str, Compiled]]) -> dict[str, Any]:
    operation = spec.operation
    return {
        "op_type": operation.op_type,
        "inputs": [{"name": item.name, "rank": item.rank, "image": item.image} for item in operation.inputs],
        "outputs": [
            {"name": item.name, "dims": [size.to_json() for size in item.dims], "image": item.image}
            for item in operation.outputs
        ],
        "attributes": [{"name": item.name, "kind": item.kind, "length": item.length} for item in operation.attributes],
        "conditions": [condition.to_json() for condition in spec.conditions],
        "launches": [_launch_entry(launch, compiled[launch.name]) for launch in spec.launches],
    }


def _launch_entry(launch: Launch, compiled: dict[str, Compiled]) -> dict[str, Any]:
    return {
        "name": launch.name,
        "data_type": launch.data_type,
        "layout": launch.layout,
        "conditions": [condition.to_json() for condition in launch.conditions],
        "grid": [size.to_json() for size in launch.grid],
        "arguments": [argument.to_json() for argument in launch.arguments],
        "block": launch.compilation.warps * 32,
        "shared_bytes": max(item.shared_bytes for item in compiled.values()),
        "entry": launch.name,
        "ptx": {target: {"file": item.file, "sha256": item.sha256} for target, item in compiled.items()},
    }


def check(files: dict[str, str], *, whole: bool) -> int:
    """Compare `files` with the package data, and name what differs.

    Returns:
        Exit status: 1 where something differs.
    """
    there = {path.name for path in PTX_FOLDER.iterdir()} if PTX_FOLDER.is_dir() else set()
    stale = [name for name, text in files.items() if name not in there or (PTX_FOLDER / name).read_text() != text]
    stale += sorted(there - files.keys()) if whole else []
    for name in stale:
        print(f"{PTX_FOLDER.name}/{name} is not what the sources give. Run `make kernels`.", file=sys.stderr)
    return 1 if stale else 0


def write(files: dict[str, str]) -> None:
    """Write the package data, and remove files that are no longer made."""
    PTX_FOLDER.mkdir(exist_ok=True)
    for path in PTX_FOLDER.iterdir():
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (PTX_FOLDER / name).write_text(text, encoding="ascii", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
