"""Which columns of a table hold the samples, the labels and the owners: as the user says, else the only ones that can be it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from fedkd.base.errors import InputError, unknown
from fedkd.data.columns.arrow import declared, features_of, is_image, is_list, is_number, is_text, is_whole, type_of
from fedkd.data.columns.features import Features
from fedkd.data.columns.images import Images
from fedkd.data.columns.lists import Lists
from fedkd.data.columns.reader import Reader
from fedkd.data.columns.texts import Texts
from fedkd.data.kinds.tokens import TOKEN_IDS
from fedkd.data.layout import some
from fedkd.data.options import Options
from fedkd.data.tables import Table

LABELS = (("label", "labels"), ("target", "targets", "class", "y"))  # the usual names, those of the first row before the others
IMAGES = (("image", "img"),)
#: Columns that number the rows: no features, unless the user names them.
ROW_NUMBERS = ("", "id", "index", "row", "unnamed: 0", "__index_level_0__")
SEVERAL = "column {!r} holds lists, several {}; fedkd takes {}"


def owner_column(table: Table, options: Options) -> str:
    """Of the owners; empty where there is none."""
    if options.client_column and options.client_column not in table.column_names:
        raise unknown("data.client_column", options.client_column, table.column_names)
    return options.client_column or declared(table, "Owner")


def label_column(table: Table, options: Options, owner: str) -> str:
    """Of the labels."""

    def fits(table: Table, column: str) -> bool:
        wanted = column == given or (column not in owners and column.lower() not in ROW_NUMBERS)
        return wanted and (is_whole(table, column) or is_text(table, column))

    given, owners = options.label_column, {owner} if owner else set()
    _refuse_lists(table, [given] if given else LABELS[0], "labels a sample (multi-label)", "one label a sample")
    called = [column for column in table.column_names if column.lower() in (*LABELS[0], *LABELS[1]) and column != "y"]
    for column in [given] if given in table.column_names else called if not given else []:
        if is_number(table, column) and not is_whole(table, column):
            cure = "regression is not what fedkd does: it takes one class a sample, a whole number or a name"
            raise InputError(f"column {column!r} of labels holds real numbers: {cure} (data.label_column)")
    return _only(table, "label_column", given, fits, "ClassLabel", LABELS)


def is_guessed(table: Table, options: Options, label: str) -> bool:
    """Whether nothing but its values says that this column holds the labels."""
    usual = label.lower() in (*LABELS[0], *LABELS[1]) or features_of(table).get(label, {}).get("_type") == "ClassLabel"
    return not (usual or options.label_column)


def input_reader(table: Table, options: Options, label: str, owner: str) -> tuple[Reader, str]:
    """What reads the samples, and what is to be said of the choice."""
    named = options.feature_columns
    if strange := [column for column in named if column not in table.column_names]:
        raise unknown("data.feature_columns", strange[0], table.column_names)
    besides = {label, owner} if owner else {label}
    if taken := [column for column in named if column in besides]:
        raise InputError(
            f"data.feature_columns names {taken[0]!r}, which holds the {'labels' if taken[0] == label else 'clients'}"
        )
    if options.image_column and named:
        raise InputError("data.image_column and data.feature_columns are both set: leave one out")
    held = [column for column in named or table.column_names if column not in besides]
    if options.image_column or any(is_image(table, column) for column in held):
        return _images(table, options, held), ""
    _refuse_lists(table, IMAGES[0] if not named else (), "images", "one encoded image a row") if _encoded_lists(table) else None
    left = [column for column in held if column.lower() in ROW_NUMBERS and not named and is_whole(table, column)]
    held = [column for column in held if column not in left]
    numbers = some([repr(name) for name in left])
    said = f"left out: {numbers}, which number the rows (name them in data.feature_columns to take them)" if left else ""
    return _reader(table, options, held), said


def _images(table: Table, options: Options, held: Sequence[str]) -> Reader:
    options.refuse_but(
        "layout", "image_column", "feature_columns", "label_column", "client_column", what="the samples are images"
    )
    if options.image_column and options.image_column in table.column_names and is_text(table, options.image_column):
        cure = "set data.tokens = 'characters' and leave data.image_column out, if it is what the samples are"
        raise InputError(f"data.image_column = {options.image_column!r} holds text and no encoded images: {cure}")
    given = options.image_column or (options.feature_columns[0] if len(options.feature_columns) == 1 else "")
    if len(options.feature_columns) > 1:
        raise InputError(f"data.feature_columns names images among {some(options.feature_columns)}: name one column of images")
    return Images((_only(table, "image_column", given, is_image, "Image", IMAGES),), options.channels)


def _reader(table: Table, options: Options, held: Sequence[str]) -> Reader:
    texts, lists = ([column for column in held if fits(table, column)] for fits in (is_text, is_list))
    if options.tokens:
        options.refuse_but(
            "layout",
            "feature_columns",
            "label_column",
            "client_column",
            "missing",
            "tokens",
            "length",
            what="samples are texts",
        )
        if options.missing == "mean":
            raise InputError("data.missing = 'mean': texts have none: set it to 'drop', or leave it out")
        if len(texts) != 1:
            held_texts = f"{len(texts)} columns hold text ({some(texts) or some(held)})"
            raise InputError(f"data.tokens reads one column of text, and {held_texts}: name it in data.feature_columns")
        return Texts((texts[0],), options.tokens, options.length)
    options.refuse_but("layout", "feature_columns", "label_column", "client_column", "missing", what="data.tokens is not set")
    if lists:
        if TOKEN_IDS in lists:
            return Lists(tuple(lists))
        if len(lists) < len(held):
            others = [column for column in held if column not in lists]
            raise InputError(
                f"columns of lists ({some(lists)}) and of single values ({some(others)}) stand beside each other: "
                "name those that are the samples in data.feature_columns"
            )
        return Lists(tuple(lists))
    if strange := [column for column in held if not (is_number(table, column) or is_text(table, column))]:
        kind = table.schema.field(strange[0]).type
        cure = "name the columns to take in data.feature_columns"
        raise InputError(f"column {strange[0]!r} ({kind}) is neither numbers, text, lists nor images: {cure}")
    if texts == list(held) and held:
        _refuse_bare_text(table, texts, options)
    if not held:
        raise InputError(f"no column is left for the samples, among {some(table.column_names)}")
    return Features(tuple(held), options.missing)


def _refuse_bare_text(table: Table, texts: Sequence[str], options: Options) -> None:
    """Where nothing but text is left and nobody named it, it is text rather than categories."""
    import pyarrow.types as types

    if not options.feature_columns and not types.is_dictionary(table.schema.field(texts[0]).type):
        cure = "set data.tokens = 'characters' or to a tokenizer.json; or name categories in data.feature_columns"
        raise InputError(f"the samples are text (column {texts[0]!r}): {cure}")


def _only(
    table: Table, option: str, given: str, fits: Callable[[Table, str], bool], type_: str, usual: Sequence[Collection[str]]
) -> str:
    """The column the user named, else the only one it can be by its declared type, its name or its storage."""
    if given and given not in table.column_names:
        raise unknown(f"data.{option}", given, table.column_names)
    if given and fits(table, given):
        return given
    if given:
        raise InputError(f"column {given!r} ({table.schema.field(given).type}) does not fit data.{option}")
    fitting = [column for column in table.column_names if fits(table, column)]
    features = features_of(table)
    choices = [
        [column for column in fitting if features.get(column, {}).get("_type") == type_],
        *([column for column in fitting if column.lower() in names] for names in usual),
        fitting,
    ]
    if found := next((candidates[0] for candidates in choices if len(candidates) == 1), None):
        return str(found)
    what, among = option.replace("_", " "), some(table.column_names)
    if not fitting:
        raise InputError(f"no column can be the {what}, among {among}: name it in data.{option}, or write a function")
    raise InputError(f"cannot tell the {what} among {among}; set data.{option}")


def _encoded_lists(table: Table) -> bool:
    """Whether a column with the usual name of images holds lists of them."""
    import pyarrow.types as types

    kinds = [type_of(table, name) for name in IMAGES[0] if name in table.column_names and is_list(table, name)]
    return any(hasattr(kind, "value_type") and types.is_struct(kind.value_type) for kind in kinds)


def _refuse_lists(table: Table, columns: Collection[str], wanted: str, one: str) -> None:
    if several := [column for column in columns if column in table.column_names and is_list(table, column)]:
        raise InputError(SEVERAL.format(several[0], wanted, one))
