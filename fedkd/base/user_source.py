"""The source text of a user's own code: a function or class, and all of theirs that it uses. What a run keeps and compares."""

from __future__ import annotations

import ast
import linecache
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

#: What stands for code whose text no file holds: typed at a prompt, compiled, or made while running.
UNKNOWN = "# unknown: no file holds this code"
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_INSTALLED = tuple(
    {
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)


def source_of(value: Any) -> str:
    """The text of a function, class or callable and of all functions, classes and constants of a user's that it names.

    Comments and layout are left out, so that only what could change a result changes the text. What installed packages and
    fedkd itself hold is left out too: the versions in env.json speak for them. ``UNKNOWN`` stands for what has no text.
    """
    texts: dict[str, str] = {}
    _gather(value, texts)
    return "\n\n\n".join(texts.values()) + "\n"


def _gather(value: Any, texts: dict[str, str]) -> None:
    """Put the text of ``value``, and then of what it uses, into ``texts`` by name."""
    if isinstance(own := getattr(type(value), "source_text", None), property):  # it says itself what could change a result
        texts["object"] = str(own.__get__(value))
        return None
    if isinstance(value, partial):
        texts["partial"] = f"# partial: {_shown(value.args)} {_shown(tuple(sorted(value.keywords.items())))}"
        return _gather(value.func, texts)
    if isinstance(value, ModuleType):
        tree = _file_tree(value)
        texts.setdefault(value.__name__, f"# {value.__name__}\n{ast.unparse(tree) if tree else UNKNOWN}")
        return None
    if not isinstance(value, type | FunctionType):
        if inner := getattr(value, "__func__", None) or getattr(value, "__wrapped__", None):
            return _gather(inner, texts)
        for name, held in sorted(getattr(value, "__dict__", {}).items()):
            _gather_used(name, held, texts, owner="object")
        value = type(value)
        if not _is_users(value):
            return None
    name = f"{value.__module__}:{value.__qualname__}"
    if name in texts:
        return None
    node = _definition(value)
    texts[name] = f"# {value.__qualname__}\n{UNKNOWN if node is None else ast.unparse(node)}"
    for bound, content in _bound(value):
        _gather_used(bound, content, texts, owner=name)
    module = sys.modules.get(value.__module__)
    for global_name in _names(node):
        if module is not None and global_name in vars(module):
            _gather_global(global_name, module, texts)
    for base in value.__mro__[1:] if isinstance(value, type) else ():
        _gather_used(base.__name__, base, texts, owner=name)
    return None


def _gather_used(name: str, used: Any, texts: dict[str, str], *, owner: str) -> None:
    """What a definition holds under a name: followed where it is the user's code, written down where it is a constant."""
    if isinstance(used, type | FunctionType | ModuleType | partial):
        if _is_users(used):
            _gather(used, texts)
    elif shown := _shown(used):
        texts.setdefault(f"{owner} {name}", f"# {name} = {shown}")


def _gather_global(name: str, module: ModuleType, texts: dict[str, str]) -> None:
    """What a name stands for in a module: the statement that gives it, and what that one uses; else its value."""
    used, key = vars(module)[name], f"{module.__name__} {name}"
    if key in texts:
        return
    statement = next((node for node in _nodes(_file_tree(module), ast.Assign | ast.AnnAssign) if name in _targets(node)), None)
    if isinstance(used, type | FunctionType | ModuleType | partial) or statement is None:
        return _gather_used(name, used, texts, owner=module.__name__)
    texts[key] = ast.unparse(statement)
    for inner in _names(statement):
        if inner != name and inner in vars(module):
            _gather_global(inner, module, texts)


def _names(node: ast.AST | None) -> dict[str, None]:
    return {part.id: None for part in ast.walk(node) if isinstance(part, ast.Name)} if node else {}


def _targets(statement: Any) -> set[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def _bound(value: type | FunctionType) -> Iterator[tuple[str, Any]]:
    """What is bound to a function, or to those of a class, while running: the content of closures, and defaults."""
    for function in [value] if isinstance(value, FunctionType) else _functions(value):
        yield from zip(function.__code__.co_freevars, _contents(function), strict=True)
        yield from (("default", default) for default in function.__defaults__ or ())
        yield from sorted((function.__kwdefaults__ or {}).items())


def _contents(function: FunctionType) -> list[Any]:
    def content(cell: Any) -> Any:
        try:
            return cell.cell_contents
        except ValueError:  # not filled yet
            return ...

    return [content(cell) for cell in function.__closure__ or ()]


def _functions(cls: type) -> list[FunctionType]:
    """The functions that the text of a class defines; those that a decorator made have no file of their own."""
    held = [getattr(value, "__func__", None) or getattr(value, "fget", None) or value for value in vars(cls).values()]
    functions = [value for value in held if isinstance(value, FunctionType) and _tree(value.__code__)]
    own = [value for value in functions if not _is_installed(value.__code__.co_filename)]
    return own or functions


def _definition(value: type | FunctionType) -> ast.AST | None:
    """The node of a definition in its file, or None where there is no file, or one that says something else by now."""
    if isinstance(value, FunctionType):
        code = value.__code__
        nodes = [node for node in _nodes(_tree(code), ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        return _lambda(nodes, code) if code.co_name == "<lambda>" else _function(nodes, code)
    trees = [_tree(function.__code__) for function in _functions(value)] or [_file_tree(sys.modules.get(value.__module__))]
    classes = (node for node in _nodes(trees[0], ast.ClassDef) if node.name == value.__name__)
    return next(classes, None)


def _nodes(tree: ast.AST | None, kinds: Any) -> list[Any]:
    return [node for node in ast.walk(tree) if isinstance(node, kinds)] if tree else []


def _function(nodes: Iterable[Any], code: CodeType) -> ast.AST | None:
    named = [node for node in nodes if getattr(node, "name", "") == code.co_name]
    first = [min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) for node in named]
    return next((node for node, line in zip(named, first, strict=True) if line == code.co_firstlineno), None)


def _lambda(nodes: Iterable[Any], code: CodeType) -> ast.AST | None:
    """The smallest lambda that holds every place of the code: several may share a line."""
    places = [(start, column) for start, _, column, _ in code.co_positions() if start and column is not None]
    inside = [
        node
        for node in nodes
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
        if all(
            (node.lineno, node.col_offset) <= place <= (node.end_lineno, node.end_col_offset) for place in places if place[1]
        )
    ]
    return min(inside, key=lambda node: len(ast.unparse(node)), default=None)


def _tree(code: CodeType) -> ast.AST | None:
    return _parsed("".join(linecache.getlines(code.co_filename)))


def _file_tree(module: ModuleType | None) -> ast.AST | None:
    file = getattr(module, "__file__", None)
    return _parsed("".join(linecache.getlines(file))) if file else None


@lru_cache(maxsize=16)  # each name in a file is looked up in that file's tree
def _parsed(text: str) -> ast.AST | None:
    try:
        return ast.parse(text) if text else None
    except SyntaxError:  # a notebook's cell with a %magic
        return None


def _is_users(value: Any) -> bool:
    """Whether this stands in a file of the user's, or in none, as a notebook's: not in fedkd, nor in an installed package."""
    if isinstance(value, partial):
        return _is_users(value.func)
    name = str(value.__name__ if isinstance(value, ModuleType) else value.__module__)
    top = name.partition(".")[0]
    if top == "fedkd" or top in sys.stdlib_module_names:
        return name == "__main__"
    return not _is_installed(getattr(sys.modules.get(name), "__file__", None) or "built-in")


def _is_installed(file: str) -> bool:
    return file == "built-in" or file.startswith(_INSTALLED)


def _shown(value: Any) -> str:
    """The text of a constant; empty for what may change while running, or has no text that is the same in every process."""
    if isinstance(value, tuple):
        return f"({', '.join(_shown(part) or type(part).__name__ for part in value)})"
    return repr(value) if isinstance(value, _PLAIN) else ""
