"""What TensorRT-RTX's builder makes of a network in INT8 against FP16, block by block: where is INT8 worth it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trtdeploy.api.second_try import Block, grouped
from trtdeploy.graph.costs import share

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.api.passes import Progress
    from trtdeploy.backends.rtx_log import Kernel
    from trtdeploy.backends.rtx_probe import BuildFacts, ShapeRange

NOT_MEASURED = "from TensorRT-RTX's builder; not measured on a GPU, so nothing here is a latency"
OUTSIDE = "outside of the blocks"
LITTLE_WEIGHT = 0.05
"""Share of the network's weights below which what INT8 saves of them is no reason to pay with kernels and memory."""
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_GENERATED = "kgen"
_BEHIND = frozenset({
    "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "QuantizeLinear", "Relu",
    "Sigmoid", "Softplus", "Swish", "Tanh",
})  # fmt: skip
"""What an engine does in the kernel of the layer before it where it can."""


@dataclass(frozen=True)
class Work:
    """What a part of an engine does for one batch.

    Attributes:
        kernels: Entries of the builder's list.
        launches: Those that occupy the device.
        separate: Launches that requantise or activate what the kernel of the layer before them could not.
        moved_bytes: Size of the tensors that its kernels read and write, 0 where shapes are open.
        weight_bytes: Size of their weights.
    """

    kernels: int = 0
    launches: int = 0
    separate: int = 0
    moved_bytes: int = 0
    weight_bytes: int = 0

    def __add__(self, more: Work) -> Work:
        return Work(*(a + b for a, b in zip(asdict(self).values(), asdict(more).values(), strict=True)))


@dataclass(frozen=True)
class BlockAdvice:
    """A block in both engines.

    Attributes:
        block: Its name, or `OUTSIDE`.
        fp16, int8: What it does there.
        keep_fp16: Whether INT8 is not worth it there.
        reason: Why, with figures.
    """

    block: str
    fp16: Work
    int8: Work
    keep_fp16: bool
    reason: str


@dataclass(frozen=True)
class Int8Advice:
    """Both engines.

    Attributes:
        fp16, int8: What the builder made of each network.
        total_fp16, total_int8: The work of all kernels.
        blocks: The blocks in the order of the graph, then what lies outside of them.
        verdict: What follows for the network, in a sentence.
    """

    fp16: BuildFacts
    int8: BuildFacts
    total_fp16: Work
    total_int8: Work
    blocks: tuple[BlockAdvice, ...]
    verdict: str

    def pays(self, block: str) -> bool:
        """Return whether INT8 is worth it in a block; it is taken to be in one that is not here."""
        return not any(found.keep_fp16 for found in self.blocks if found.block == block)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "fp16": {**self.fp16.to_json(), **asdict(self.total_fp16)},
            "int8": {**self.int8.to_json(), **asdict(self.total_int8)},
            "blocks": [asdict(block) for block in self.blocks],
            "verdict": self.verdict,
            "note": NOT_MEASURED,
        }


def int8_advice(
    model_fp16: ir.Model,
    model_int8: ir.Model,
    shapes: Mapping[str, ShapeRange],
    blocks: Sequence[Block] | None = None,
    progress: Progress | None = None,
) -> Int8Advice:
    """Build both networks with TensorRT-RTX and compare what the builder made of them.

    Args:
        model_fp16: The finished network in FP16.
        model_int8: The same with Q/DQ, the rest in FP16.
        shapes: Minimum, optimum and maximum of each input that is open; bytes moved need fixed ones.
        blocks: The parts to tell apart; None groups the INT8 layers by the paths of their modules.
        progress: Called with each step.

    Raises:
        MissingDependencyError: TensorRT-RTX is not installed.
        BuildError: The builder refused one of them, or its log is not understood.
        ModelError: The weights are too large to be built from memory.
    """
    from trtdeploy.backends.rtx_probe import probe_build

    operators = operators_of(model_fp16) | operators_of(model_int8)
    facts = []
    for name, model in (("FP16", model_fp16), ("INT8", model_int8)):
        if progress is not None:
            progress(f"TensorRT-RTX's builder: {name}")
        facts.append(probe_build(_bytes_of(model), shapes))
    parts = grouped(int8_layers(model_int8)) if blocks is None else blocks
    before, after = (work_by_block(built.kernel_list, parts, operators) for built in facts)
    return compare_builds(facts[0], facts[1], before, after)


def compare_builds(
    fp16: BuildFacts, int8: BuildFacts, before: Mapping[str, Work], after: Mapping[str, Work]
) -> Int8Advice:
    """Return the advice that follows from the work of each block in FP16 (`before`) and INT8 (`after`)."""
    total = sum(before.values(), Work())
    found = []
    for block in before.keys() | after.keys():
        first, second = before.get(block, Work()), after.get(block, Work())
        keep, reason = _judged(first, second, total)
        found.append(BlockAdvice(block, first, second, keep and block != OUTSIDE, reason))
    order = {name: index for index, name in enumerate([*(n for n in before if n != OUTSIDE), *after])}
    found.sort(key=lambda advice: (advice.block == OUTSIDE, order[advice.block]))
    return Int8Advice(
        fp16=fp16,
        int8=int8,
        total_fp16=total,
        total_int8=sum(after.values(), Work()),
        blocks=tuple(found),
        verdict=_verdict(fp16, int8, sum(advice.keep_fp16 for advice in found)),
    )


def int8_layers(model: ir.Model) -> list[str]:
    """Return the names of the layers that compute in INT8: products of dequantised data and dequantised weights."""
    return [
        node.name
        for node in model.graph
        if node.op_type in _PRODUCTS
        and node.name
        and len(node.inputs) > 1
        and all(map(_is_dequantised, node.inputs[:2]))
    ]


def operators_of(model: ir.Model) -> dict[str, str]:
    """Return the operator of each node by its name."""
    return {node.name: node.op_type for node in model.graph.all_nodes() if node.name}


def work_by_block(kernels: Iterable[Kernel], blocks: Sequence[Block], operators: Mapping[str, str]) -> dict[str, Work]:
    """Return the work of each block, and of what lies outside of them.

    A kernel belongs to the block of most of the layers that it computes; without layers, of most of its nodes, which
    lie in a block when it has them or their path.

    Args:
        kernels: The builder's list.
        blocks: The blocks.
        operators: The operator of each ONNX node by its name.
    """
    of_node = {node: block.name for block in blocks for node in block.nodes}

    def block_of(node: str) -> str:
        path = f"{node.strip('/')}/"
        inside = [block.name for block in blocks if path.startswith(f"{block.name.strip('/')}/")]
        return of_node.get(node) or max(inside, key=len, default="")

    found = {block.name: Work() for block in blocks}
    for kernel in kernels:
        nodes = [node_of(origin) for origin in kernel.onnx]
        layers = [node for node in nodes if operators.get(node) in _PRODUCTS]
        counted = Counter(name for node in layers or nodes if (name := block_of(node)))
        name = counted.most_common(1)[0][0] if counted else OUTSIDE
        found[name] = found.get(name, Work()) + _work_of(kernel, {operators.get(node, "") for node in nodes})
    return found


def _work_of(kernel: Kernel, operators: set[str]) -> Work:
    separate = kernel.kind == _GENERATED and not kernel.is_mha and not operators.isdisjoint(_BEHIND)
    return Work(
        kernels=1,
        launches=int(kernel.is_launch),
        separate=int(separate),
        moved_bytes=kernel.moved_bytes or 0 if kernel.is_launch else 0,
        weight_bytes=kernel.constant_bytes or 0,
    )


def _is_dequantised(value: ir.Value | None) -> bool:
    """Return whether a value comes from a DequantizeLinear; where that gives FP32 only, through a cast to FP16."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear"


def node_of(origin: str) -> str:
    """Return the node of the main graph that a kernel's origin names.

    A node inside a function is written as `n5 | stage5/CoordAtt (CoordAtt)`: its own name, then those of the callers.
    """
    name = origin.rsplit(" | ", maxsplit=1)[-1]
    return name[: name.rindex(" (")] if name.endswith(")") and " (" in name else name


def _judged(fp16: Work, int8: Work, total: Work) -> tuple[bool, str]:
    """Return whether a block should stay FP16, and why."""
    saved = share(fp16.weight_bytes - int8.weight_bytes, total.weight_bytes)
    launches = int8.launches - fp16.launches
    figures = (
        f"launches {fp16.launches} -> {int8.launches}, {int8.separate - fp16.separate:+d} that requantise or activate; "
        f"moved {_mebibytes(fp16.moved_bytes)} -> {_mebibytes(int8.moved_bytes)}; {saved:.1%} of all weights saved"
    )
    worse = launches > 0 and int8.moved_bytes > fp16.moved_bytes
    return worse and saved < LITTLE_WEIGHT, figures


def _verdict(fp16: BuildFacts, int8: BuildFacts, kept: int) -> str:
    more = int8.launches > fp16.launches
    memory = int8.activation_bytes > fp16.activation_bytes
    figures = (
        f"{int8.launches} launches against {fp16.launches} in FP16, {_mebibytes(int8.activation_bytes)} of activations "
        f"against {_mebibytes(fp16.activation_bytes)}, {_mebibytes(int8.weights_bytes)} of weights against "
        f"{_mebibytes(fp16.weights_bytes)}"
    )
    if more and memory:
        start = "INT8 costs kernels and memory here and may well be slower than FP16: measure both"
    elif more or memory:
        start = "INT8 costs kernels or memory here: measure it against FP16"
    else:
        start = "INT8 costs neither kernels nor memory here"
    tail = f"; keep FP16 in {kept} blocks" if kept else ""
    return f"{start}{tail}. INT8: {figures}."


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _bytes_of(model: ir.Model) -> bytes:
    from trtdeploy.core.errors import ModelError
    from trtdeploy.graph.reference import ReferenceRunError, to_bytes

    try:
        return to_bytes(model)
    except ReferenceRunError as error:
        raise ModelError(f"The builder is not asked: {error}.") from error
