"""The data behind the [data] section: loaded once a process, and again where what they are made of has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any

from fedkd.base.errors import InputError, hold_notices
from fedkd.base.user_code import import_object, path_of
from fedkd.experiment.algorithm.data_section import Data

if TYPE_CHECKING:
    from fedkd.data import Federation, Source


def federation_of(data: Data, seed: int) -> Federation:
    """Who holds which samples of one data set that is dealt out: drawn by this seed.

    Raises:
        InputError: data that cannot be loaded, or a partition that cannot be drawn.
    """
    from fedkd.data.sources import source_stamp

    public = source_stamp(data.public_source) if data.public_source else ""
    named = data.source if isinstance(data.source, str) and ":" not in data.source else ""
    stamp = source_stamp(named, data.path, data.tokens) if named else ""
    return _federation(data, seed, stamp, public)


def forget_data() -> None:
    """Ask functions that give data anew, and draw anew: between two runs a function may have come to mean another set."""
    _federation.cache_clear()


@lru_cache(maxsize=2)
def _federation(data: Data, seed: int, stamp: str, public_stamp: str) -> Federation:
    from fedkd.data import build_federation, load_source

    with hold_notices():
        source = read_source(data)
        options = public_options(data, of_images=source.kind.name == "image")
        public_source = load_source(data.public_source, **options) if data.public_source else None
        settings = data.model_dump(include=signature(build_federation).parameters.keys() - {"source", "public_source"})
        federation = build_federation(source, arguments=data.arguments, public_source=public_source, seed=seed, **settings)
        federation.partition_table()  # a draw that cannot be made is an error of the input
    return federation


def public_options(data: Data, *, of_images: bool = False) -> dict[str, Any]:
    """How the public set is read: as the source is; one ``of_images`` says itself which columns hold them and their labels."""
    keys = ["channels", "feature_columns", "missing", "tokens", "length"]
    keys += [] if of_images else ["label_column", "client_column"]
    return {key: getattr(data, key) for key in keys}


def read_source(data: Data, *, held_out: float | None = None) -> Source:
    """The data set of the section; ``held_out`` as ``load_source`` has it. Loaded once, while its files stay as they are."""
    from fedkd.data import load_source
    from fedkd.data.objects import Given, source_of
    from fedkd.data.options import Options

    function = import_object(data.source) if isinstance(data.source, str) and ":" in data.source else data.source
    options = {field.name: getattr(data, field.name) for field in fields(Options) if field.name != "held_out"}
    options |= {} if held_out is None else {"held_out": held_out}
    if isinstance(function, str):
        return load_source(function or data.path, path=data.path, **options)
    unnamed = "the given data" if isinstance(function, Given) else "the function"
    name = data.source if isinstance(data.source, str) else path_of(function) or unnamed
    return source_of(_called(function) if callable(function) else function, name, Options(**options))


def _called(function: Callable[..., Any]) -> Any:
    """What a user's function gives. What it raises passes through."""
    try:
        signature(function).bind()
    except TypeError as error:
        name = path_of(function) or getattr(function, "__name__", type(function).__name__)
        raise InputError(f"data.source: {name} is called without arguments ({error}): give them defaults") from None
    return function()
