"""Write the table of kernels (trtdeploy/kernels/ptx) as a C++ source. CMake runs it; it needs nothing but Python 3.8.

python generate_table.py FOLDER OUTPUT.cpp
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

TABLE_FORMAT = 1
LEAVES = ("const", "dim", "attr")
OPERATIONS = (*LEAVES, "+", "-", "*", "//", "cdiv", "max", "min", "==", "<")
"""In the order of `enum class Op`."""
DATA_TYPES = ("float32", "float16")
LAYOUTS = ("linear", "hwc8")
KINDS = ("floats", "ints")
LITERAL_BYTES = 8000


class TableError(Exception):
    """The table cannot be turned into C++."""


def main(arguments: list[str]) -> int:
    """Run the tool."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, output = map(Path, arguments)
    try:
        output.write_text(cpp_source(read_table(folder)), encoding="ascii")
    except (OSError, ValueError, KeyError, TableError) as error:
        print(f"The table of kernels in {folder} cannot be used: {error!r}. Run `make kernels`.", file=sys.stderr)
        return 1
    return 0


def read_table(folder: Path) -> list[bytes]:
    """Return the definition of every operation as bytes, after checking the hashes of its PTX."""
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    if table.get("format") != TABLE_FORMAT:
        raise TableError(f"its format is {table.get('format')!r}, expected {TABLE_FORMAT}")
    return [definition(operation, lambda ptx: _checked_text(folder, ptx)) for operation in table["operations"]]


def _checked_text(folder: Path, ptx: dict[str, str]) -> bytes:
    content = (folder / ptx["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != ptx["sha256"]:
        raise TableError(f"{ptx['file']} is not the file that the table was made with")
    return content


def definition(operation: dict[str, Any], ptx_text: Any) -> bytes:
    """Return the bytes of an operation, as `readDefinition` of codec.h reads them.

    Args:
        operation: Its entry of table.json.
        ptx_text: Returns the PTX of an entry of `ptx` as bytes.
    """
    attributes = operation["attributes"]

    def programs(expressions: list[Any]) -> bytes:
        return _list([program(expression, attributes) for expression in expressions])

    def launch(entry: dict[str, Any]) -> bytes:
        ptx = [
            struct.pack("<I", int(target[2:])) + _sized(ptx_text(file)) for target, file in sorted(entry["ptx"].items())
        ]
        return b"".join(
            (
                _text(entry["entry"]),
                _number(DATA_TYPES, entry["data_type"]),
                _number(LAYOUTS, entry["layout"]),
                programs(entry["conditions"]),
                *(program(extent, attributes) for extent in entry["grid"]),
                programs(entry["arguments"]),
                struct.pack("<II", entry["block"], entry["shared_bytes"]),
                _list(ptx),
            )
        )

    return b"".join(
        (
            _text(operation["op_type"]),
            _list([_text(i["name"]) + struct.pack("<IB", i["rank"], i["image"]) for i in operation["inputs"]]),
            _list([_text(a["name"]) + _number(KINDS, a["kind"]) + struct.pack("<I", a["length"]) for a in attributes]),
            _list(
                [_text(o["name"]) + programs(o["dims"]) + struct.pack("<B", o["image"]) for o in operation["outputs"]]
            ),
            programs(operation["conditions"]),
            _list([launch(entry) for entry in operation["launches"]]),
        )
    )


def program(expression: int | list[Any], attributes: list[dict[str, Any]]) -> bytes:
    """Return an expression of table.json as a program: its instructions in prefix order.

    `attr` and `bits` are one instruction there: C++ holds a float attribute as its bits.
    """
    instructions: list[bytes] = []
    pending = [expression]
    while pending:  # a loop: expressions may be deeper than Python's stack
        tree = pending.pop()
        op, *operands = ["const", tree, 0] if isinstance(tree, int) else tree
        if op in {"attr", "bits"}:
            operands = _attribute_operands(op, *operands, attributes)
            op = "attr"
        if op in LEAVES:
            instructions.append(_number(OPERATIONS, op) + struct.pack("<qq", *operands))
        else:
            instructions.append(_number(OPERATIONS, op))
            pending.extend(reversed(operands))
    return _list(instructions)


def _attribute_operands(op: str, name: str, index: int, attributes: list[dict[str, Any]]) -> list[int]:
    names = [attribute["name"] for attribute in attributes]
    if name not in names or attributes[names.index(name)]["kind"] != {"attr": "ints", "bits": "floats"}[op]:
        raise TableError(f"an expression takes {op} of attribute {name!r}, which is not there or of another kind")
    return [names.index(name), index]


def _number(names: tuple[str, ...], name: str) -> bytes:
    if name not in names:
        raise TableError(f"{name!r} is none of {names}")
    return struct.pack("<B", names.index(name))


def _text(text: str) -> bytes:
    return _sized(text.encode("ascii"))


def _sized(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _list(items: list[bytes]) -> bytes:
    return struct.pack("<I", len(items)) + b"".join(items)


def cpp_source(definitions: list[bytes]) -> str:
    """Return the C++ source that holds definitions."""
    entries = ",\n".join(f"    std::string_view{{\n{_literal(d)},\n        {len(d)}}}" for d in definitions)
    return (
        '// Written by generate_table.py.\n#include "trtdeploy/table.h"\n\nnamespace trtdeploy\n{\n\n'
        f"std::string_view const kTable[] = {{\n{entries}}};\n\nsize_t const kTableSize = {len(definitions)};\n\n"
        "} // namespace trtdeploy\n"
    )


def _literal(content: bytes) -> str:
    pieces = (content[start : start + LITERAL_BYTES] for start in range(0, len(content), LITERAL_BYTES))
    return "\n".join(f'        "{"".join(map(_escaped, piece))}"' for piece in pieces)


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character in '"\\?':
        return "\\" + character
    return character if 32 <= byte < 127 else f"\\{byte:03o}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
