"""The [data] section of the experiment file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from fedkd.base.errors import InputError, unknown
from fedkd.experiment.algorithm.section import Names, Section


class Data(Section):
    """Which samples, and who holds them. Arguments of the partition stand beside it, as extra keys."""

    model_config = ConfigDict(extra="allow")
    #: Keys that had another name once: still read.
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"natural_column": "client_column"})
    source: str | Callable[[], Any] = "digits"
    """The data set: a name (digits, breast_cancer, wine, fashion_mnist, cifar10, shoulder_exercises, word_languages), a Hugging
    Face id, a path to files, or "my_module:data". With partition own what the server has, "" for nothing.
    ``source = "fashion_mnist"``
    """
    path: str = ""
    """Where the files of a named data set lie, if not in their usual place. ``path = "/srv/images"``"""
    layout: str = ""
    """What the levels of image folders mean. Empty: found by looking, and asked about where it is unclear.
    ``layout = "split/client/class"``
    """
    channels: Literal["", "grey", "colour"] = ""
    """Read all images in grey or in colour. Empty: in colour if any of them is. ``channels = "grey"``"""
    image_column: str = ""
    """The table's column of images. Empty: the only one that can be it. ``image_column = "img"``"""
    feature_columns: Names = ()
    """The table's columns that make up a sample: numbers, categories, lists, or one of text. Empty: all but those of labels and
    clients. ``feature_columns = ["age", "blood_group"]``
    """
    label_column: str = ""
    """The table's column of labels. Empty: the only one that can be it. ``label_column = "fine_label"``"""
    client_column: str = ""
    """The table's column that says whose a sample is, for partition "natural_id". ``client_column = "writer_id"``"""
    missing: Literal["", "mean", "drop"] = ""
    """What is done where a table has no value: fill in the training mean, or drop the row. Empty: refuse it, and say where.
    ``missing = "mean"``
    """
    tokens: str = ""
    """How a table's text is read: "characters", or the path of a tokenizer.json of the tokenizers library.
    ``tokens = "characters"``
    """
    length: int = Field(0, ge=0)
    """Tokens of a text: shorter ones are padded with 0, longer ones cut. 0: as the longest training text, at most 256.
    ``length = 64``
    """
    clients: int = Field(10, ge=1)
    """How many clients there are. ``clients = 20``"""
    partition: str = "dirichlet"
    """How the training samples are dealt out to clients: dirichlet, iid, shared, natural_id, or a partitioner of flwr-datasets.
    Its arguments stand beside it, such as alpha (0.5 for dirichlet). With own nothing is dealt out: the data at each node (its
    data-path, or in a simulation a folder of client/) are its client's, whole. ``partition = "iid"``
    """
    classes: Names = ()
    """With partition own: the names of all classes, in order. Empty: those of the server's own samples.
    ``classes = ["ant", "bee"]``
    """
    client_test: float = Field(0.2, ge=0, lt=1)
    """Share of its samples that each client keeps for its own test, and never trains on. With partition own only where its data
    have no test split. ``client_test = 0.1``
    """
    public: int = Field(0, ge=0)
    """Samples that are set apart for all clients and the server, before the rest is dealt out; 0 is none. ``public = 1000``"""
    public_labels: bool = False
    """Whether the labels of the public samples may be used. ``public_labels = true``"""
    public_source: str = ""
    """Another data set that the public samples are taken from. Empty: the training samples. ``public_source = "fashion_mnist"``
    """
    validation: int = Field(0, ge=0)
    """Labelled samples that are set apart for the server; 0 is none. ``validation = 500``"""
    labelled: float = Field(1.0, ge=0, le=1)
    """Share of each client's training samples whose labels may be used. ``labelled = 0.1``"""
    train_limit: int = Field(0, ge=0)
    """How many training samples are used at all, drawn by the seed before anything is set apart; 0 is all.
    ``train_limit = 5000``
    """
    test_limit: int = Field(0, ge=0)
    """How many samples of the global test set are used, drawn by the seed; 0 is all. ``test_limit = 1000``"""
    views: str = ""
    """The augmentation, for strategies that train on random views. Empty: the usual one of the kind of samples: fedx for images
    (or simclr), corrupt for vectors, jitter_scale for sequences, drop_tokens for tokens. Of your own: "my_module:views", a
    function (inputs, rng) -> inputs of normalised samples. ``views = "simclr"``
    """
    normalise: Literal["global", "client", "none"] = "global"
    """By whose mean and standard deviation inputs are normalised: those of all clients' training samples (global), of each
    client's own (client), or by none. To compute global ones of real clients reveals sums of their features: with a few
    clients, or one who sends twice, those of single rows. ``normalise = "client"``
    """
    split_seed: int = Field(-1, ge=-1)
    """The seed of who holds what; -1 takes the run's. Set it to keep one split while the run's seed varies. ``split_seed = 0``
    """

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {cls.renamed.get(key, key): value for key, value in given.items() if key not in cls.renamed or value}

    @field_validator("source", mode="before")
    @classmethod
    def _as_name_or_function(cls, given: object) -> object:
        if isinstance(given, Path):
            return str(given if given.is_absolute() else Path.cwd() / given)
        if isinstance(given, str) or callable(given):
            return given
        from fedkd.data.objects import TAKEN, Given, is_taken

        if is_taken(given):
            return Given(given)
        raise InputError(f"data.source: give a name, a path, a function, or {TAKEN}; got {type(given).__name__}")

    @property
    def arguments(self) -> dict[str, Any]:
        """The partition's own arguments."""
        given = dict(self.model_extra or {})
        return given or ({"alpha": 0.5} if self.partition == "dirichlet" else {})

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        from fedkd.data.partition import EACH_ITS_OWN, check_partition
        from fedkd.data.views import PRESETS

        if self.partition == EACH_ITS_OWN and self.train_limit:
            raise InputError(f'data.train_limit = {self.train_limit}: with data.partition = "own" all are used: set it to 0')
        check_partition(self.partition, self.arguments, known=type(self).model_fields, clients=self.clients)
        if self.views and ":" not in self.views and self.views not in PRESETS:
            raise unknown("data.views", self.views, PRESETS)
        return self
