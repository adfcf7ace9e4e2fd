"""From an instruction to a function that executes it: operands, types, and the list of instructions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx_emulator.errors import PtxError
from ptx_emulator.machine import Machine, Mask
from ptx_emulator.parser import Instruction, Kernel

Read = Callable[[Machine], np.ndarray]
Write = Callable[[Machine, np.ndarray, Mask], None]
Execute = Callable[[Machine, Mask], None]
Decode = Callable[["Operands", "re.Match[str]"], Execute]
Pure = tuple[str, tuple[str, ...], Callable[..., np.ndarray]]
"""Type of the result, types of the sources, and the function of the sources that gives it."""

UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOAT = {16: np.float16, 32: np.float32, 64: np.float64}
KINDS: dict[str, dict[int, Any]] = {"b": UNSIGNED, "u": UNSIGNED, "s": SIGNED, "f": FLOAT}
SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.[xyz]|%laneid")
_INSTRUCTIONS: list[tuple[re.Pattern[str], Decode]] = []


def bits_of(type_: str) -> int:
    """Return the bits of a type such as `s32` or `f16x2`."""
    return 32 if type_ == "f16x2" else int(type_[1:])


def dtype_of(type_: str) -> Any:
    """Return the numpy type of a type such as `s32`; of `f16x2` that of 32 bits."""
    return np.uint32 if type_ == "f16x2" else KINDS[type_[0]][bits_of(type_)]


def instruction(mnemonic: str) -> Callable[[Decode], Decode]:
    """Register a function that decodes the instructions that a regular expression matches as a whole."""

    def register(decode: Decode) -> Decode:
        _INSTRUCTIONS.append((re.compile(mnemonic), decode))
        return decode

    return register


def pure(mnemonic: str, *, approximate: bool = False) -> Callable[[Callable[..., Pure]], Callable[..., Pure]]:
    """Register instructions that compute a result from sources and nothing else.

    Args:
        mnemonic: A regular expression; the decorated function gets its groups.
        approximate: The hardware's results may be off by ulps.
    """

    def register(describe: Callable[..., Pure]) -> Callable[..., Pure]:
        def decode(operands: Operands, match: re.Match[str]) -> Execute:
            type_, source_types, function = describe(*match.groups())
            operands.expect(1 + len(source_types))
            write = operands.target(0, type_)
            reads = [operands.source(i + 1, source) for i, source in enumerate(source_types)]

            def execute(machine: Machine, active: Mask) -> None:
                value = function(*[read(machine) for read in reads])
                write(machine, machine.inexact(value) if approximate else value, active)

            return execute

        instruction(mnemonic)(decode)
        return describe

    return register


def decode_all(kernel: Kernel) -> list[Execute | None]:
    """Return a function for each instruction; `None` for branches, returns and barriers, which the scheduler runs.

    Raises:
        PtxError: An instruction is not known, or has operands that it cannot have.
    """
    return [_decode(kernel, step) for step in kernel.code]


def _decode(kernel: Kernel, step: Instruction) -> Execute | None:
    if step.mnemonic in {"bra", "bra.uni", "ret", "bar.sync"}:
        return None
    found = [(match, decode) for pattern, decode in _INSTRUCTIONS if (match := pattern.fullmatch(step.mnemonic))]
    if len(found) != 1:
        raise PtxError(f"Instruction {step.mnemonic!r} is {'ambiguous' if found else 'not known'}: {step.text}")
    match, decode = found[0]
    return decode(Operands(kernel, step), match)


@dataclass(frozen=True)
class Operands:
    """The operands of an instruction, to be decoded."""

    kernel: Kernel
    step: Instruction

    def expect(self, *counts: int) -> None:
        """Check the number of operands."""
        if len(self.step.operands) not in counts:
            raise self.error(f"has {len(self.step.operands)} operands, expected {counts}")

    def error(self, what: str) -> PtxError:
        """Return an error that names the instruction."""
        return PtxError(f"Instruction {self.step.text!r} {what}.")

    def names(self, index: int) -> list[str]:
        """Return the parts of a vector `{a, b}`, or the operand as the only part."""
        return [part.strip() for part in self.step.operands[index].strip("{}").split(",")]

    def source(self, index: int, type_: str) -> Read:
        """Return how operand `index` is read, as an array of the type; `pred` gives `bool`."""
        return self.read(self.step.operands[index], type_)

    def target(self, index: int, type_: str) -> Write:
        """Return how operand `index` is written, from an array of the type."""
        return self.write(self.step.operands[index], type_)

    def read(self, text: str, type_: str) -> Read:
        """Return how an operand is read."""
        if type_ == "pred":
            return self._read_predicate(text)
        dtype = dtype_of(type_)
        if SPECIAL.fullmatch(text):
            if bits_of(type_) != 32:
                raise self.error(f"reads {text} as {type_}")
            return lambda machine: machine.special[text].view(dtype)
        if text.startswith("%"):
            self._check_width(text, bits_of(type_))
            return lambda machine: machine.read(text).view(dtype)
        value = np.full(1, self._number(text) & ((1 << bits_of(type_)) - 1), UNSIGNED[bits_of(type_)]).view(dtype)
        return lambda machine: value

    def write(self, text: str, type_: str) -> Write:
        """Return how a register is written."""
        if type_ == "pred":
            self._check_width(text, 1)
            return lambda machine, value, active: machine.write(text, value, active)
        self._check_width(text, bits_of(type_))
        dtype, unsigned = dtype_of(type_), UNSIGNED[bits_of(type_)]

        def write(machine: Machine, value: np.ndarray, active: Mask) -> None:
            if value.dtype != dtype:
                raise TypeError(f"{self.step.text}: a result of {value.dtype}, expected {np.dtype(dtype)}")
            machine.write(text, value.view(unsigned), active)

        return write

    def write_loaded(self, text: str, type_: str) -> Write:
        """Return how a load writes a register, which may be wider: signed types fill it with their sign."""
        width = self.kernel.width(text)
        if width <= bits_of(type_) or type_[0] == "f":
            return self.write(text, type_)
        wide = f"{type_[0] if type_[0] == 's' else 'u'}{width}"
        write, dtype = self.write(text, wide), dtype_of(wide)
        return lambda machine, value, active: write(machine, value.astype(dtype), active)

    def address(self, index: int, bits: int) -> Read:
        """Return how an address `[register + number]` or `[symbol]` is computed."""
        match = re.fullmatch(r"\[\s*([%\w.$]+)\s*(?:\+\s*(-?\d+)\s*)?\]", self.step.operands[index])
        if match is None:
            raise self.error(f"has the address {self.step.operands[index]}, which is not known")
        base = self.read(match.group(1), f"u{bits}")
        offset = np.full(1, int(match.group(2) or 0) & ((1 << bits) - 1), UNSIGNED[bits])
        return lambda machine: base(machine) + offset

    def _read_predicate(self, text: str) -> Read:
        register = text.removeprefix("!")
        if re.fullmatch(r"-?[01]", text):
            value = np.full(1, text != "0")
            return lambda machine: value
        self._check_width(register, 1)
        if text.startswith("!"):
            return lambda machine: ~machine.read(register)
        return lambda machine: machine.read(register)

    def _check_width(self, register: str, bits: int) -> None:
        if self.kernel.width(register) != bits:
            raise self.error(f"uses {register} of {self.kernel.width(register)} bits for {bits}")

    def _number(self, text: str) -> int:
        if text in self.kernel.shared_symbols:
            return 0
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
            return int(match.group(1) or match.group(2), 16)
        try:
            return int(text.removesuffix("U"), 0)
        except ValueError as error:
            raise self.error(f"has the operand {text!r}, which is not known") from error
