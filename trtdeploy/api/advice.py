"""The rules by which attention is kept, dropped or replaced: a function of figures, without any model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trtdeploy.core.errors import UsageError

Action = Literal["keep", "drop", "replace"]

SHALLOW_STAGE = 2
"""Backbone attention up to this stage goes first: it takes most memory and brings least accuracy."""
HIGH_FPS = 100.0
"""Above this rate, gates take the place of attention."""
TIGHT_GB = 8.0
"""Up to this much memory, small networks come before large ones with attention."""
SMALL_NETWORK = 12_000_000
"""Parameters up to which a detector counts as size n or s."""
COSTLY_SHARE = 0.1
"""Share of the network's operations or bytes from which a block of the backbone must earn its place."""
SIMPLE_KINDS = frozenset({"se", "eca", "simam"})
"""Kinds that are as simple as what would replace them."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as its data sheet describes it.

    Attributes:
        name: Name on the command line.
        title: Name in full.
        memory_gb: Memory; of the smallest variant, where there are several. 0 where it is the machine's own.
        bandwidth_gb_s: Memory bandwidth, 0 where it is not known.
    """

    name: str
    title: str
    memory_gb: float
    bandwidth_gb_s: float


DEVICES = {
    device.name: device
    for device in (
        Device(name="orin-nx", title="Jetson Orin NX 8 GB", memory_gb=8, bandwidth_gb_s=102.4),
        Device(name="orin-agx", title="Jetson AGX Orin 32 GB", memory_gb=32, bandwidth_gb_s=204.8),
        Device(name="t4", title="Tesla T4 16 GB", memory_gb=16, bandwidth_gb_s=300),
        Device(name="l4", title="L4 24 GB", memory_gb=24, bandwidth_gb_s=300),
        Device(name="a100", title="A100 40 GB", memory_gb=40, bandwidth_gb_s=1555),
        Device(name="cpu", title="this machine's processor", memory_gb=0, bandwidth_gb_s=0),
    )
}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the advice is for.

    Attributes:
        device: Where the network will run; None for no device in particular.
        fps: Images per second that are needed; None for no target.
        hard_scenes: Whether there are small objects, occlusion or objects of very different sizes.
        parameters: Weights of the whole network.
        fps_here: Measured images per second of the whole network on this machine, None where not measured.
    """

    device: Device | None = None
    fps: float | None = None
    hard_scenes: bool = False
    parameters: int = 0
    fps_here: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise UsageError(f"--fps {self.fps} is not a rate. Expected a number above 0.")

    @property
    def is_fast(self) -> bool:
        """Whether the target is above what attention is advised for."""
        return self.fps is not None and self.fps > HIGH_FPS

    @property
    def is_tight(self) -> bool:
        """Whether memory is short for a network of this size."""
        known = self.device is not None and 0 < self.device.memory_gb <= TIGHT_GB
        return known and self.parameters > SMALL_NETWORK

    @property
    def is_missed_here(self) -> bool:
        """Whether the target was measured to be missed, on the machine that is meant."""
        on_cpu = self.device is not None and self.device.name == "cpu"
        return on_cpu and self.fps is not None and self.fps_here is not None and self.fps_here < self.fps


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """What the rules look at.

    Attributes:
        kind: Name of the block's kind.
        in_backbone: Whether it lies before the first upsampling.
        stage: Logarithm of its stride, None where it has no map.
        share: Its part of the network's operations or bytes, the larger of the two.
        stays: Why it cannot be removed, an empty string where it can.
        gates: Replacements that fit its place, the one that moves fewest bytes first.
        gain: How much faster the network was without it, as a ratio; None where not measured.
        gain_is_sure: Whether three quarters of the measured pairs were faster.
    """

    kind: str
    in_backbone: bool
    stage: int | None
    share: float = 0.0
    stays: str = ""
    gates: tuple[str, ...] = ()
    gain: float | None = None
    gain_is_sure: bool = False


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do with a block, and why.

    Attributes:
        action: keep, drop or replace.
        replacement: `se` or `simam`, with `replace`.
        reason: A sentence.
    """

    action: Action
    reason: str
    replacement: str = ""

    def __str__(self) -> str:
        return f"{self.action} by {self.replacement}" if self.replacement else self.action


def advise_block(block: BlockFacts, situation: Situation) -> Advice:
    """Return what to do with one block; the first rule that applies decides."""
    if block.stays:
        return Advice(action="keep", reason=f"it cannot be taken out: {block.stays}")
    if situation.hard_scenes:
        return Advice(action="keep", reason="small objects, occlusion or many sizes: that is what attention is for")
    if block.in_backbone and block.stage is not None and block.stage <= SHALLOW_STAGE:
        return Advice(
            action="drop",
            reason=f"stage {block.stage} of the backbone: shallow attention takes most memory and brings least",
        )
    if block.kind in SIMPLE_KINDS:
        return Advice(action="keep", reason="it is already as simple as what would replace it")
    if situation.is_fast:
        return _replaced(
            block, f"{situation.fps:g} images/s are more than the {HIGH_FPS:g} that attention is advised for"
        )
    if situation.is_missed_here and block.gain_is_sure:
        return _replaced(
            block,
            f"{situation.fps_here:.1f} images/s were measured, {situation.fps:g} are needed, and the network is "
            f"{block.gain:.2f} times as fast without it",
        )
    if not block.in_backbone:
        return Advice(action="keep", reason="attention of the neck and head fuses scales: it brings most for its cost")
    if situation.is_tight:
        return _replaced(block, f"{_memory(situation)} with a network larger than n or s: do not pile up attention")
    if block.share >= COSTLY_SHARE:
        percent = f"{100 * block.share:.0f} %"
        return _replaced(
            block, f"it takes {percent} of the network's operations or bytes, and scenes were not said hard"
        )
    place = "the backbone" if block.stage is None else f"stage {block.stage} of the backbone"
    cheap = f"it takes {100 * block.share:.1f} % of operations or bytes at most"
    return Advice(action="keep", reason=f"{place} is not shallow, and {cheap}: it is cheap")


def network_advice(situation: Situation) -> list[str]:
    """Return advice about the network as a whole, each a sentence with its reason."""
    lines = []
    if situation.is_tight:
        millions = situation.parameters / 1e6
        lines.append(
            f"Take size n or s: the network has {millions:.1f} million parameters, and {_memory(situation)} "
            "is little for more."
        )
    if situation.is_fast and situation.hard_scenes:
        lines.append(
            f"{situation.fps:g} images/s and small objects or occlusion pull apart: attention stays, because accuracy "
            "was asked for. Measure on the device, and take a smaller size before you drop attention."
        )
    if not situation.hard_scenes:
        lines.append(
            "If scenes have small objects, occlusion or objects of very different sizes, say --hard-scenes: attention "
            "then stays."
        )
    return lines


def _replaced(block: BlockFacts, reason: str) -> Advice:
    if not block.gates:
        return Advice(action="drop", reason=f"{reason}; SE and SimAM do not fit its place, which is no feature map")
    return Advice(action="replace", replacement=block.gates[0], reason=f"{reason}; train the new gate before use")


def _memory(situation: Situation) -> str:
    device = situation.device
    return "memory is unknown" if device is None else f"{device.memory_gb:g} GB of memory ({device.title})"
