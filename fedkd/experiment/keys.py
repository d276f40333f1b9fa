"""Every key of an experiment, with its default, its range and its meaning: the list that terminal and docs print."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, final, get_type_hints

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from fedkd.base.config_text import to_toml
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.experiment import Experiment

#: What the keys above the first [section] are called together.
TOP = "experiment"


@final
@dataclass(frozen=True)
class Key:
    """One key of the experiment file.

    Args:
        section: the table that it stands in; ``TOP`` for those above all tables.
        name: as it is written in that table.
        default: as TOML has it.
        range: which values it takes, in words.
        meaning: one or two sentences; empty where the author wrote none.
        example: another value, as TOML has it; empty where the author gave none.
    """

    section: str
    name: str
    default: str
    range: str
    meaning: str
    example: str = ""

    @property
    def path(self) -> str:
        """The key with its section, as ``--set`` takes it: ``data.alpha``."""
        return self.name if self.section == TOP else f"{self.section}.{self.name}"


def experiment_keys() -> tuple[Key, ...]:
    """Every key of the file but those of [strategy], of which each strategy has its own; in the order of the models."""
    sections = {name: kind for name, field in Experiment.model_fields.items() if (kind := _section(field)) is not None}
    return (*_of_model(TOP, Experiment), *(key for section, kind in sections.items() for key in _of_model(section, kind)))


def strategy_keys(cls: type[Algorithm]) -> tuple[Key, ...]:
    """The keys of [strategy] that this strategy takes beside its name: its fields."""
    said, types = meanings(cls), get_type_hints(cls, include_extras=True)
    return tuple(
        Key("strategy", field.name, _toml(_default(field)), range_in_words(types[field.name]), *said.get(field.name, ("",)))
        for field in fields(cls)
    )


def meanings(cls: type) -> dict[str, tuple[str, str]]:
    """Field -> its meaning and an example, of a class and of those that it inherits from. Nothing without source code.

    A field's meaning is the comment at the end of its line, or the docstring below it; an example is ``name = value`` in
    double backticks at its end.

    >>> from fedkd.strategies.fedprox import FedProx
    >>> meanings(FedProx)["mu"][0].partition(";")[0]
    'weight of the proximal term'
    """
    found: dict[str, tuple[str, str]] = {}
    for each in reversed(cls.__mro__):
        if not inspect.get_annotations(each) or each is BaseModel:
            continue
        try:
            source = textwrap.dedent(inspect.getsource(each))
        except (OSError, TypeError):  # made without a file, as in a notebook
            continue
        found |= {name: _with_example(name, text) for name, text in _texts_beside_fields(source)}
    return found


def _texts_beside_fields(source: str) -> Iterator[tuple[str, str]]:
    """The fields of a class that have a text beside them, of its source code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("#: ") for token in tokens if token.type == tokenize.COMMENT}
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            below = after.value if isinstance(after, ast.Expr) else None
            if isinstance(below, ast.Constant) and isinstance(below.value, str):
                yield node.target.id, " ".join(below.value.split())
            else:  # a long value has its comment on a line of its own
                beside = [comments[line] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments]
                yield from ((node.target.id, text) for text in beside[-1:])


def _with_example(name: str, text: str) -> tuple[str, str]:
    """The meaning, and the example at its end without the name; empty where there is none."""
    found = re.fullmatch(rf"(.*?)\s*``{name} = (.+)``", text)
    return (found[1], found[2]) if found else (text, "")


def range_in_words(kind: Any) -> str:
    """Which values a type takes.

    >>> from pydantic import Field
    >>> range_in_words(Annotated[int, Field(ge=1)]), range_in_words(Annotated[float, Field(gt=0, le=1)])
    ('whole number, 1 or more', 'number above 0, up to 1')
    >>> range_in_words(tuple[str, ...]), range_in_words(bool)
    ('list of text', 'true or false')
    """
    return _words(TypeAdapter(kind).json_schema(schema_generator=_WithFunctions))


@final
class _WithFunctions(GenerateJsonSchema):
    """JSON has no functions, and an experiment that is made in Python has."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {"type": "function"}


def _words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        *first, last = dict.fromkeys(_words(choice) for choice in schema["anyOf"])
        return f"{', '.join(first)} or {last}" if first else last
    if "enum" in schema:
        *some, last = [_toml(value) for value in schema["enum"]]
        return f"{', '.join(some)} or {last}" if some else last
    if "const" in schema:
        return _toml(schema["const"])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_words(schema.get('items', {})).replace('number', 'numbers', 1)}"
    named = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "object": "table"}
    return f"{named.get(str(kind), str(kind) or 'anything')}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    lower = f" above {above:g}" if above is not None else ""
    if least is not None:
        lower = f", {least:g} or more" if most is None and below is None else f" from {least:g}"
    upper = f", below {below:g}" if below is not None else ""
    if most is not None:
        upper = f" to {most:g}" if least is not None else f", up to {most:g}"
    return lower + upper


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _of_model(section: str, model: type[BaseModel]) -> Iterator[Key]:
    said = meanings(model)
    for name, field in model.model_fields.items():
        if _section(field) is None:
            default = "fedavg" if name == "strategy" else field.get_default(call_default_factory=True)
            kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            words = "text or table" if name == "strategy" else range_in_words(kind)
            yield Key(section, name, _toml(default), words, *said.get(name, ("",)))


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _toml(value: Any) -> str:
    """A value as it stands behind the ``=``; a table on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return to_toml({"key": list(value) if isinstance(value, tuple) else value}).strip().removeprefix("key = ")
