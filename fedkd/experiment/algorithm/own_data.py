"""Each client its own data: what a client and the server know, made of what they read and what was told on joining."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch

from fedkd.base.errors import InputError, hold_notices
from fedkd.base.inputs import count, rows
from fedkd.base.randomness import generator
from fedkd.experiment.algorithm.data_section import Data
from fedkd.experiment.algorithm.own_sources import holds_clients, of_client, of_server, public_source

if TYPE_CHECKING:
    from fedkd.data import Samples, Source
    from fedkd.data.own import Agreement, Form, OwnAtClient, OwnAtServer, Told


@final
@dataclass(frozen=True, eq=False)
class ServersOwn:
    """What the server itself holds."""

    source: Source | None  # its test split is the global test set
    public: Source | None
    classes: tuple[str, ...]  # of the run


def at_client(
    data: Data, seed: int, client: int, agreement: Agreement, *, given: bool = False, simulated: bool = True
) -> OwnAtClient:
    """What a client knows.

    Args:
        data: the section, its path that of this node.
        seed: of the draws.
        client: its id.
        agreement: what all agreed on, or only the classes, where the node just joins.
        given: whether the path was given to this node alone.
        simulated: whether the node is one of a simulation, so that what is here is of all clients.

    Raises:
        InputError: data that cannot be loaded, or have other classes.
    """
    from fedkd.data.own import OwnAtClient
    from fedkd.data.own.classes import in_classes

    with hold_notices():
        source = in_classes(of_client(data, client, given=given, simulated=simulated), agreement.classes)
        if agreement.vocabulary:
            source = replace(source, vocabulary=agreement.vocabulary)
        public = public_source(data, source, beside=holds_clients(data))
        federation = OwnAtClient(
            source=source,
            clients=data.clients,
            public=None,
            validation=None,
            seed=seed,
            normalise=data.normalise,
            public_content=public.content_hash if public else "",
            client=client,
            agreement=agreement,
            test_share=data.client_test,
            labelled_share=data.labelled,
        )
        return replace(federation, public=_public_set(data, seed, public, federation))


def servers_own(data: Data) -> ServersOwn:
    """What the server holds, and the class names that follow.

    Raises:
        InputError: data that cannot be loaded, or that do not say which classes there are.
    """
    from fedkd.data.own.classes import in_classes

    with hold_notices():
        source = of_server(data)
        public = public_source(data, source, beside=True)
    named = source or (public if data.public_labels else None)
    classes = data.classes or (named.classes if named else ())
    if not classes:
        raise InputError(
            'data.classes: with data.partition = "own" and no samples at the server nobody says which classes there are: '
            'list their names, as data.classes = ["ant", "bee"]'
        )
    return ServersOwn(in_classes(source, classes) if source else None, public, classes)


def at_server(data: Data, seed: int, held: ServersOwn, told: tuple[Told, ...]) -> OwnAtServer:
    """What the server knows, from what it holds and what the clients told, in order of their ids.

    Raises:
        InputError: two clients have samples of different forms, or the server's own differ from theirs.
    """
    from fedkd.data import Source
    from fedkd.data.kinds import find_kind
    from fedkd.data.own import OwnAtServer, agreed

    form, here = _one_form(held, told), held.source or held.public
    vocabulary = here.vocabulary if here else 0
    agreement = agreed(held.classes, told, everyones_moments=data.normalise == "global", vocabulary=vocabulary)
    if form.kind == "tokens" and not agreement.vocabulary:
        raise InputError(
            "data.source: as [privacy] is on, no client tells its largest token, and the server has no samples: give it some"
        )
    source = held.source
    if source is None:
        blank, no_label = form.blank(), torch.tensor([-1])
        nothing = rows(blank, slice(0, 0))
        features = held.public.features if held.public else ()
        source = Source(
            "the clients' own", blank, no_label, nothing, no_label[:0], agreement.classes,
            kind=find_kind(form.kind), vocabulary=agreement.vocabulary, features=features,
        )  # fmt: skip
    elif agreement.vocabulary:
        source = replace(source, vocabulary=agreement.vocabulary)
    federation = OwnAtServer(
        source=source,
        clients=data.clients,
        public=None,
        validation=None,
        seed=seed,
        normalise=data.normalise,
        public_content=held.public.content_hash if held.public else "",
        told=told,
        agreement=agreement,
        test_limit=data.test_limit,
    )
    public = _public_set(data, seed, held.public, federation)
    return replace(federation, public=public, validation=_validation_set(data, seed, federation))


def simulated(data: Data, seed: int) -> OwnAtServer:
    """What the server knows once all have joined, where the data of all clients are here."""
    from fedkd.data.own import Agreement

    held = servers_own(data)
    joining = Agreement(held.classes)
    told = tuple(at_client(data, seed, id, joining).told(counted=True) for id in range(data.clients))
    return at_server(data, seed, held, told)


def _one_form(held: ServersOwn, told: tuple[Told, ...]) -> Form:
    """The form of all samples: of the server's own if it has some, else of client 0's."""
    from fedkd.data.own import Form

    here = held.source or held.public
    form, whose = (Form.of(here), "the server's") if here else (told[0].form, "those of client 0")
    for client, each in enumerate(told):
        if each.form != form:
            cure = "bring all to one form (data.channels for images, data.length for text, the same columns of a table)"
            raise InputError(f"client {client} has samples of another form, {each.form}, and {whose} are {form}: {cure}")
        if each.counts and told[0].counts and len(each.counts.mean) != len(told[0].counts.mean):
            numbers = f"{len(each.counts.mean)} means, client 0 {len(told[0].counts.mean)}"
            raise InputError(f"client {client} tells {numbers}: give all nodes the same fedkd")
    return form


def _public_set(data: Data, seed: int, other: Source | None, federation: OwnAtClient | OwnAtServer) -> Samples | None:
    from fedkd.data.own.classes import in_classes
    from fedkd.data.public import public_from

    if other is None:
        return None
    source = federation.source
    other = in_classes(other, source.classes) if data.public_labels else other
    public = public_from(other, source, count=data.public, labels=data.public_labels, seed=seed, normalise="none")
    return replace(public, moments=federation.moments_for(public.inputs, public.indices))


def _validation_set(data: Data, seed: int, federation: OwnAtServer) -> Samples | None:
    """Labelled training samples of the server's own, drawn as from one data set that is dealt out."""
    if not data.validation:
        return None
    source = federation.source
    drawn = torch.randperm(count(source.train_inputs), generator=generator(seed, "train limit"))
    labelled = drawn[source.train_labels[drawn] >= 0][: data.validation]
    if len(labelled) < data.validation:
        cure = "lower it, or give the server a train split"
        raise InputError(
            f"data.validation = {data.validation}, but the server has {len(labelled)} labelled training samples: {cure}"
        )
    return federation.training(labelled)
