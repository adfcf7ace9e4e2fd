"""Parse PTX text with one kernel, as Triton and LLVM write it. What is not known is an error, never skipped."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptx_emulator.errors import PtxError

WIDTHS = {"pred": 1, "b16": 16, "b32": 32, "b64": 64}
"""Types of registers that LLVM declares, with their bits."""
DEBUG_DIRECTIVES = (".loc", ".file", ".section")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel: its name in the text, its type such as `u64`, and its size in bytes."""

    name: str
    type: str
    size: int


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        mnemonic: Such as `setp.lt.s32`.
        operands: As written, split at the commas outside of brackets.
        predicate: The register in front, or `None`; with `negated` threads run it where that is false.
        text: All of it, for messages.
    """

    mnemonic: str
    operands: tuple[str, ...]
    predicate: str | None
    negated: bool
    text: str


@dataclass(frozen=True)
class Kernel:
    """A parsed kernel.

    Attributes:
        registers: Prefix such as `%r` to type and number of registers.
        labels: Label to the index in `code` that it stands before.
        block: Threads that `.reqntid` demands, or `None`.
        shared_symbols: Names of shared memory whose size the launch gives; all start at address 0.
    """

    name: str
    version: str
    target: str
    parameters: tuple[Parameter, ...]
    registers: dict[str, tuple[str, int]]
    code: tuple[Instruction, ...]
    labels: dict[str, int]
    block: int | None
    shared_symbols: tuple[str, ...]

    def width(self, register: str) -> int:
        """Return the bits of a register.

        Raises:
            PtxError: It is not declared.
        """
        match = re.fullmatch(r"(%[a-z]+)(\d+)", register)
        type_, count = self.registers.get(match.group(1), ("", 0)) if match else ("", 0)
        if match is None or int(match.group(2)) >= count:
            raise PtxError(f"Register {register} is not declared. Declared are {self.registers}.")
        return WIDTHS[type_]


def parse(text: str) -> Kernel:
    """Return the kernel of a PTX text.

    Raises:
        PtxError: The text has no kernel or several, or something in it is not known.
    """
    text = re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    entries = list(re.finditer(r"\.visible\s+\.entry\s+(\w+)\s*\(([^)]*)\)([^{]*)\{", text))
    if len(entries) != 1:
        raise PtxError(f"The text has {len(entries)} kernels. Expected one.")
    entry = entries[0]
    head, body = text[: entry.start()], text[entry.end() : _closing_brace(text, entry.end())]
    registers: dict[str, tuple[str, int]] = {}
    labels: dict[str, int] = {}
    code: list[Instruction] = []
    for statement in _statements(body):
        if statement.endswith(":"):
            labels[statement[:-1]] = len(code)
        elif statement.startswith(".reg"):
            _declare(statement, registers)
        else:
            code.append(_instruction(statement))
    return Kernel(
        name=entry.group(1),
        version=_directive(head, r"\.version\s+(\S+)"),
        target=_directive(head, r"\.target\s+([^\s,]+)"),
        parameters=_parameters(entry.group(2)),
        registers=registers,
        code=tuple(code),
        labels=labels,
        block=_block(entry.group(3)),
        shared_symbols=_shared_symbols(head),
    )


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return start + match.start()
    raise PtxError("The kernel's closing brace is missing.")


def _directive(head: str, pattern: str) -> str:
    match = re.search(pattern, head)
    if match is None:
        raise PtxError(f"The text's head has no {pattern!r}.")
    return match.group(1)


def _parameters(text: str) -> tuple[Parameter, ...]:
    parameters = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"\.param\s+\.([usbf](8|16|32|64))\s+(?:\.ptr\s+\.global\s+\.align\s+\d+\s+)?(\w+)", part)
        if match is None:
            raise PtxError(f"Parameter {part!r} is not known.")
        parameters.append(Parameter(match.group(3), match.group(1), int(match.group(2)) // 8))
    return tuple(parameters)


def _block(directives: str) -> int | None:
    directives = directives.strip()
    if not directives:
        return None
    match = re.fullmatch(r"\.reqntid\s+(\d+)(?:\s*,\s*1\s*,\s*1)?", directives)
    if match is None:
        raise PtxError(f"Directives of the kernel {directives!r} are not known. Expected .reqntid alone.")
    return int(match.group(1))


def _shared_symbols(head: str) -> tuple[str, ...]:
    head = re.sub(r"\.global\s+\.align\s[^;]*;", "", head)  # LLVM's strings; an operand that names one is an error
    symbols = re.findall(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+(\w+)\[\s*\]\s*;", head)
    if len(symbols) != len(re.findall(r"\.(?:shared|const|global|local|func)\b", head)):
        raise PtxError("The text has variables or functions other than shared memory whose size the launch gives.")
    return tuple(symbols)


def _statements(body: str) -> list[str]:
    statements, position = [], 0
    while body[position:].strip():
        rest = body[position:].lstrip()
        position = len(body) - len(rest)
        label = re.match(r"\$?\w+:(?!:)", rest)
        if label:
            statements.append(label.group())
            position += label.end()
        elif rest.startswith(DEBUG_DIRECTIVES):
            position += rest.find("\n") if "\n" in rest else len(rest)
        else:
            end = rest.find(";")
            if rest[0] in "{}":
                raise PtxError("A scope in braces is not supported.")
            if end < 0:
                raise PtxError(f"Statement {rest[:80]!r} has no end.")
            statements.append(" ".join(rest[:end].split()))
            position += end + 1
    return [statement for statement in statements if statement]


def _declare(statement: str, registers: dict[str, tuple[str, int]]) -> None:
    if re.fullmatch(r"\.reg \.b(?:32|64) %SPL?", statement):
        return  # LLVM declares the stack's registers where it removed the stack; an operand that names one is an error
    match = re.fullmatch(r"\.reg \.(\w+) (%[a-z]+)<(\d+)>", statement)
    if match is None or match.group(1) not in WIDTHS:
        raise PtxError(f"Declaration {statement!r} is not known.")
    registers[match.group(2)] = (match.group(1), int(match.group(3)))


def _instruction(statement: str) -> Instruction:
    match = re.fullmatch(r"(?:@(!?)(%\w+) )?([a-z][\w.:]*)(?: (.*))?", statement)
    if match is None:
        raise PtxError(f"Statement {statement!r} is not known.")
    negation, predicate, mnemonic, operands = match.groups()
    parts = re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", operands or "")
    return Instruction(mnemonic, tuple(part.strip() for part in parts), predicate, negation == "!", statement)
