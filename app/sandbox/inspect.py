"""Reading submitted source without running it, in a long-lived process of little memory and no torch.

Each line in is a JSON object ``{"source"}``, each line out what was found: a syntax error with its place, or the
names that the module defines at its top level, the parameters of its functions, and FORMAT.
"""

from __future__ import annotations

import ast
import json
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from app.sandbox import syscalls

MEMORY_BYTES = 1024**3
CPU_S = 4
_NESTED = "nested too deeply to be parsed"


def main() -> None:
    """Answer until the input ends."""
    syscalls.set_parent_death_signal(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        _allow_cpu()
        found = inspect(json.loads(line)["source"])
        sys.stdout.buffer.write(json.dumps(found).encode() + b"\n")
        sys.stdout.buffer.flush()


def _allow_cpu() -> None:
    """So many seconds for the next source, whatever those before it took."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + CPU_S, hard))


def inspect(source: str) -> dict[str, Any]:
    """``{"error": {message, line, column}}``, or ``{"names", "functions", "format", "open"}``.

    ``functions`` maps a function's name to its positional parameters. ``open`` says that there may be more names than
    can be read here (a star import, ``globals()``). ``format`` is None without a FORMAT, else ``{"value",
    "line"}`` with a null value if it is not a literal.
    """
    if not source.strip():
        return _error("the code is empty")
    if "\0" in source:
        before = source[: source.index("\0")]
        return _error("the code contains a null byte", before.count("\n") + 1, len(before) - before.rfind("\n"))
    try:
        tree = ast.parse(source)
        # Some errors (return outside a function) show only here; nothing is run.
        compile(tree, "code", "exec", dont_inherit=True)
    except SyntaxError as error:
        return _error(error.msg or "invalid syntax", error.lineno, error.offset)
    except (RecursionError, MemoryError):
        return _error(_NESTED)
    except ValueError as error:
        return _error(str(error))
    return _read(tree)


def _error(message: str, line: int | None = None, column: int | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "line": line, "column": column}}


def _read(tree: ast.Module) -> dict[str, Any]:
    names: dict[str, None] = {}
    functions: dict[str, list[str]] = {}
    format_: dict[str, Any] | None = None
    is_open = False
    for node in _top_level(tree.body):
        for name in _defined(node):
            names[name] = None
            functions.pop(name, None)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions[node.name] = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
        is_open = is_open or "*" in _defined(node) or _makes_names(node)
        if "FORMAT" in _defined(node):
            value = getattr(node, "value", None)
            literal = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
            format_ = {"value": literal, "line": node.lineno}
    return {"names": list(names), "functions": functions, "format": format_, "open": is_open}


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of the module itself, also inside if, try, with, for and match, but not of functions or classes."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from _top_level(getattr(node, field, []))
        for inner in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            yield from _top_level(inner.body)


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement itself binds; ``*`` for a star import."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.AnnAssign) and node.value is not None):
        targets = [node.target]
    return [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]


def _makes_names(node: ast.stmt) -> bool:
    """Whether a simple statement calls something that can define names unseen."""
    if not isinstance(node, ast.Expr | ast.Assign):
        return False
    return any(
        isinstance(leaf, ast.Call)
        and isinstance(leaf.func, ast.Name)
        and leaf.func.id in {"exec", "globals", "setattr"}
        for leaf in ast.walk(node)
    )
