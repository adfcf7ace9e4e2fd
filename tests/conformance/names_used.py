"""Finds every TensorRT name that source code touches, by following the types of expressions from the module on.

Types start from parameters and attributes that are annotated `Any` and have a name in `STARTS`, and from
`import_module`; they go on through classes, methods and properties, whose results the real bindings' docstrings tell,
and through our own classes and functions. Whatever the type of an expression is not known for is not checked:
`untyped` lists the parameters from which that can come.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MODULE, PLUGIN = "module", "plugin"
STARTS = {
    "trt": MODULE,
    "tensorrt": MODULE,
    "trtp": PLUGIN,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "plan": "IHostMemory",
    "logger": "ILogger",
}
"""What a parameter or attribute of that name is, where its annotation is `Any`."""
ALIASES = {"IParserError": "ParserError"}
"""Classes whose names in docstrings are those of C++."""
OWN = {
    "inputs": "descriptions of tensors, in containers",
    "outputs": "descriptions of tensors, in containers",
    "arguments": "what tensorrt.plugin passes on",
    "named": "what tensorrt.plugin passes on",
    "tensors": "descriptions of tensors, in containers",
    "parameters": "names and types of a signature",
    "returns": "type in a signature",
    "a": "symbolic size, used with operators only",
    "b": "symbolic size, used with operators only",
    "severity": "a member of ILogger.Severity, which our loggers are given",
    "shape": "Dims, which our allocators are given",
    "settings": "a dictionary of ours",
}
"""Parameters annotated `Any` that no type of the library is known for, and what they are."""


@dataclass(frozen=True, order=True)
class Use:
    """One name that the source touches.

    Attributes:
        file, line: Where.
        owner: A class of the bindings, `module`, or `plugin` (`tensorrt.plugin`).
        name: The name.
        how: `read`, `write`, `optional` (looked up with a default), or `override` (defined in a class of ours).
    """

    file: str
    line: int
    owner: str
    name: str
    how: str = "read"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.owner}.{self.name} ({self.how})"


class World:
    """Types that several files share.

    Args:
        api: What trt_api.dump made, of the version whose docstrings tell the types.
        sources: Source texts by file name.
    """

    def __init__(self, api: dict[str, Any], sources: dict[str, str]) -> None:
        self.api = api
        self.trees = {file: ast.parse(text) for file, text in sources.items()}
        self.attributes: dict[tuple[str, str], Any] = {}
        self.returns: dict[str, Any] = {}
        self._found: set[Use] | None = None
        self.classes = {
            node.name for tree in self.trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
        }

    def uses(self) -> set[Use]:
        """Return all uses; types that later files tell earlier ones are found by reading all again."""
        if self._found is not None:
            return self._found
        found: set[Use] = set()
        while True:
            before = (len(found), len(self.attributes), len(self.returns))
            for file, tree in self.trees.items():
                Reader(self, file, found).block(tree.body, {})
            if before == (len(found), len(self.attributes), len(self.returns)):
                self._found = found
                return found

    def untyped(self) -> Iterator[str]:
        """Yield `file:line: name` of the parameters annotated `Any` that are neither in `STARTS` nor in `OWN`.

        Files that touch nothing of the library are left out.
        """
        for file in sorted({use.file for use in self.uses()}):
            for node in ast.walk(self.trees[file]):
                if isinstance(node, ast.arg) and is_any(node.annotation) and node.arg not in {*STARTS, *OWN}:
                    yield f"{file}:{node.lineno}: {node.arg}"

    def member(self, owner: str, name: str) -> dict[str, Any] | None:
        """Return what the bindings say of a name."""
        found: dict[str, Any] | None = members(self.api, owner).get(name)
        return found

    def type_of(self, owner: str, name: str) -> Any:
        """Return the type of `owner.name`: a class, what a call of it gives (in a list), or an instance."""
        known = self.member(owner, name)
        if known is None:
            return None
        if known["kind"] == "class":
            return ("class", name if owner == MODULE else f"{owner}.{name}")
        results = {last(one["returns"]) for one in known["signatures"]}
        result = results.pop() if len(results) == 1 else None
        result = result if result in self.api["classes"] else None
        return ("call", result) if known["kind"] == "function" else result


class Reader:
    """Reads one file, in the order of its statements."""

    def __init__(self, world: World, file: str, found: set[Use]) -> None:
        self.world, self.file, self.found = world, file, found

    def block(self, body: Iterable[ast.stmt], env: dict[str, Any], owner: str | None = None) -> None:
        """Read statements, in scope `env`, of class `owner` if any."""
        for statement in body:
            self.statement(statement, env, owner)

    def statement(self, node: ast.stmt, env: dict[str, Any], owner: str | None) -> None:
        match node:
            case ast.ClassDef():
                self.class_(node, env)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.function(node, env, owner)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self.assign(target, self.infer(value, env), env)
            case ast.AnnAssign(target=target, value=value, annotation=annotation):
                kind = self.infer(value, env) if value is not None else None
                self.assign(target, kind or self.annotated(target, annotation), env, owner)
            case ast.For(target=target, iter=iterable):
                self.assign(target, self.element(iterable, env), env)
                self.block([*node.body, *node.orelse], env)
            case ast.Return(value=value) if value is not None:
                kind = self.infer(value, env)
                if kind is not None and "return" in env:
                    self.world.returns[env["return"]] = kind
            case _:
                for field in ast.iter_child_nodes(node):
                    if isinstance(field, ast.stmt):
                        self.statement(field, env, owner)
                    elif isinstance(field, ast.expr):
                        self.infer(field, env)
                    else:  # with items, handlers, cases
                        self.other(field, env, owner)

    def element(self, iterable: ast.expr, env: dict[str, Any]) -> Any:
        """Return the type of what a loop over `mapping.items()` gets."""
        self.infer(iterable, env)
        match iterable:
            case ast.Call(func=ast.Attribute(value=value, attr="items")):
                kind = self.infer(value, env)
                if isinstance(kind, tuple) and kind[0] == "mapping":
                    return ("tuple", [None, kind[1]])
        return None

    def other(self, node: ast.AST, env: dict[str, Any], owner: str | None) -> None:
        for field in ast.iter_child_nodes(node):
            if isinstance(field, ast.stmt):
                self.statement(field, env, owner)
            elif isinstance(field, ast.expr):
                self.infer(field, env)

    def class_(self, node: ast.ClassDef, env: dict[str, Any]) -> None:
        bases = [self.infer(base, env) for base in node.bases]
        for base in bases:
            if isinstance(base, tuple) and base[0] == "class":
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self.note(method, base[1], method.name, "override")
        self.block(node.body, env | {"class": node.name}, node.name)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, env: dict[str, Any], owner: str | None) -> None:
        is_property = any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list)
        inner = {**env, "return": f"{owner}.{node.name}" if owner else node.name}
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for index, argument in enumerate(arguments):
            kind = f"our:{owner}" if owner and index == 0 else self.annotated(argument, argument.annotation)
            inner[argument.arg] = kind
        self.block(node.body, inner)
        if is_property and owner and f"{owner}.{node.name}" in self.world.returns:
            self.world.attributes[owner, node.name] = self.world.returns[f"{owner}.{node.name}"]

    def annotated(self, target: ast.AST, annotation: ast.expr | None) -> Any:
        """Return the type of a parameter or variable from its annotation."""
        if annotation is None:
            return None
        if is_any(annotation):
            name = getattr(target, "arg", None) or getattr(target, "attr", None) or getattr(target, "id", None)
            return STARTS.get(str(name))
        names = [part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)]
        ours = [name for name in names if name in self.world.classes]
        return f"our:{ours[0]}" if len(ours) == 1 and not isinstance(annotation, ast.Subscript) else None

    def assign(self, target: ast.expr, kind: Any, env: dict[str, Any], owner: str | None = None) -> None:
        match target:
            case ast.Name(id=name):
                env[name] = kind
                if owner and kind is not None:  # a field of a dataclass
                    self.world.attributes[owner, name] = kind
            case ast.Tuple(elts=parts):
                kinds = kind[1] if isinstance(kind, tuple) and kind[0] == "tuple" else [None] * len(parts)
                for part, one in zip(parts, kinds, strict=False):
                    self.assign(part, one, env)
            case ast.Attribute(value=value, attr=name):
                base = self.infer(value, env)
                if isinstance(base, str) and base.startswith("our:"):
                    if kind is not None:
                        self.world.attributes[base[4:], name] = kind
                elif isinstance(base, str):
                    self.note(target, base, name, "write")
            case _:
                self.infer(target, env)

    def infer(self, node: ast.expr | None, env: dict[str, Any]) -> Any:
        """Return the type of an expression, and note the names that it touches."""
        match node:
            case ast.Name(id=name):
                return env.get(name, ("ours", name))
            case ast.Attribute(value=value, attr=name):
                return self.attribute(node, self.infer(value, env), name)
            case ast.Call():
                return self.call(node, env)
            case ast.NamedExpr(target=target, value=value):
                kind = self.infer(value, env)
                self.assign(target, kind, env)
                return kind
            case ast.Tuple(elts=parts):
                return ("tuple", [self.infer(part, env) for part in parts])
            case ast.IfExp(test=test, body=body, orelse=other):
                self.infer(test, env)
                kinds = [self.infer(part, env) for part in (body, other)]
                return kinds[0] or kinds[1]
            case ast.BoolOp(values=parts):
                kinds = [self.infer(part, env) for part in parts]
                return next((kind for kind in kinds if isinstance(kind, str)), None)
            case ast.Lambda(args=arguments, body=body):
                return self.infer(body, env | {one.arg: None for one in arguments.args})
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                inner = dict(env)
                for generator in node.generators:
                    self.infer(generator.iter, inner)
                    self.assign(generator.target, None, inner)
                    for test in generator.ifs:
                        self.infer(test, inner)
                if isinstance(node, ast.DictComp):
                    self.infer(node.key, inner)
                    return ("mapping", self.infer(node.value, inner))
                self.infer(node.elt, inner)
            case ast.AST():
                for part in ast.iter_child_nodes(node):
                    if isinstance(part, ast.expr):
                        self.infer(part, env)
                    elif isinstance(part, ast.keyword):
                        self.infer(part.value, env)
        return None

    def attribute(self, node: ast.expr, base: Any, name: str, how: str = "read") -> Any:
        if isinstance(base, tuple) and base[0] == "class":
            base = base[1]
        if not isinstance(base, str) or name.startswith("__"):
            return None
        if base.startswith("our:"):
            ours = base[4:]
            method = f"{ours}.{name}"
            return self.world.attributes.get((ours, name)) or (("call", self.world.returns.get(method)))
        self.note(node, base, name, how)
        return self.world.type_of(base, name)

    def call(self, node: ast.Call, env: dict[str, Any]) -> Any:
        function = self.infer(node.func, env)
        first = [self.infer(argument, env) for argument in node.args][:1]
        for keyword in node.keywords:
            self.infer(keyword.value, env)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "import_module":
            argument = node.args[0]
            constant = argument.value if isinstance(argument, ast.Constant) else None
            return {"tensorrt.plugin": PLUGIN}.get(str(constant), MODULE)
        if name in {"getattr", "hasattr"} and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            how = "optional" if name == "hasattr" or len(node.args) > 2 else "read"
            return self.attribute(node, first[0], str(node.args[1].value), how)
        if isinstance(function, tuple):
            kind, what = function
            if kind in {"call", "class"}:
                return what
            if kind == "ours":
                return f"our:{what}" if what in self.world.classes else self.world.returns.get(what)
        return None

    def note(self, node: ast.AST, owner: str, name: str, how: str) -> None:
        if owner in {MODULE, PLUGIN} or owner in self.world.api["classes"]:
            self.found.add(Use(self.file, getattr(node, "lineno", 0), owner, name, how))


def starts_here(text: str) -> bool:
    """Return whether a source has parameters or attributes that a type of the library starts from."""
    nodes = list(ast.walk(ast.parse(text)))
    arguments = [(node.arg, node.annotation) for node in nodes if isinstance(node, ast.arg)]
    variables = [(node.target, node.annotation) for node in nodes if isinstance(node, ast.AnnAssign)]
    named = [(getattr(one, "attr", getattr(one, "id", "")), annotation) for one, annotation in variables]
    return any(name in STARTS and is_any(annotation) for name, annotation in [*arguments, *named])


def members(api: dict[str, Any], owner: str) -> dict[str, Any]:
    """Return the names of a class of the bindings, of `module`, or of `plugin`."""
    if owner in {MODULE, PLUGIN}:
        found: dict[str, Any] = api["names" if owner == MODULE else "plugin"]
        return found
    return dict(api["classes"].get(owner, {}))


def has(api: dict[str, Any], use: Use) -> bool:
    """Return whether a version has a name, in the way that it is used."""
    known = members(api, use.owner)
    if use.how == "override" and re.search(rf"def {use.name}\(self", known.get("__doc__", "")):
        return True  # called on our subclasses, so that the class itself needs none
    if use.name in known:
        return use.how != "write" or known[use.name].get("writable", True)
    constructor = known.get("__init__", {"signatures": []})
    return any(use.name in one["parameters"] for one in constructor["signatures"])  # of a class written in Python


def is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def last(path: str | None) -> str | None:
    """Return the class in `tensorrt_bindings.tensorrt.Dims` or `nvinfer1::Dims`."""
    name = None if path is None else path.replace("::", ".").rsplit(".", 1)[-1]
    return ALIASES.get(name, name) if name else name
