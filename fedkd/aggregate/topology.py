"""Topologies: who talks to whom where peers exchange knowledge without a server, and how much each counts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import networkx
import torch
from torch import Tensor

from fedkd.base.errors import InputError, unknown

#: How often a random graph is drawn anew until it is connected.
DRAWS = 100

#: neighbours[i] = the nodes that node i exchanges with, ascending, without itself.
Neighbours = tuple[tuple[int, ...], ...]


def graph(name: str, nodes: int, *, degree: int = 4, seed: int = 0) -> Neighbours:
    """A connected undirected graph over nodes 0 .. N - 1.

    Args:
        name: a key of ``GRAPHS``: "ring", "torus", "random_regular" or "full".
        nodes: N, at least 2.
        degree: neighbours of each node of a random regular graph; the others have their own.
        seed: of a random graph.

    Raises:
        InputError: an unknown name, or no such graph of so many nodes exists.

    >>> graph("ring", 4)
    ((1, 3), (0, 2), (1, 3), (0, 2))
    """
    if name not in GRAPHS:
        raise unknown("topology", name, GRAPHS)
    if nodes < 2:
        raise InputError(f"topology {name!r} of {nodes} nodes has no edge: take data.clients = 2 or more")
    edges = GRAPHS[name](nodes, degree, seed)
    return tuple(tuple(sorted(edges[node])) for node in range(nodes))


def _ring(nodes: int, degree: int, seed: int) -> networkx.Graph:
    """Each node talks to the one before and the one after."""
    return networkx.cycle_graph(nodes)


def _torus(nodes: int, degree: int, seed: int) -> networkx.Graph:
    """A grid whose edges wrap around, rows by columns as square as N allows; each node has 4 neighbours."""
    sides = torus_sides(nodes)
    if sides is None:
        fitting = [n for n in range(max(9, nodes - 4), max(9, nodes) + 5) if torus_sides(n)]
        raise InputError(
            f"topology 'torus' needs rows x columns of 3 or more, {nodes} nodes give none: take {fitting}, or 'ring'"
        )
    return networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(*sides, periodic=True), ordering="sorted")


def torus_sides(nodes: int) -> tuple[int, int] | None:
    """Rows and columns, both at least 3 and as near to each other as can be; None where there are none.

    >>> torus_sides(12), torus_sides(16), torus_sides(10)
    ((3, 4), (4, 4), None)
    """
    for rows in range(math.isqrt(nodes), 2, -1):
        if nodes % rows == 0:
            return rows, nodes // rows
    return None


def _random_regular(nodes: int, degree: int, seed: int) -> networkx.Graph:
    """One of all graphs in which each node has so many neighbours, drawn until it is connected."""
    if not 1 <= degree < nodes or degree * nodes % 2:
        raise InputError(
            f"topology 'random_regular': {nodes} nodes cannot have {degree} neighbours each: "
            "the degree must be smaller than the number of nodes, and one of the two even"
        )
    rng = random.Random(seed)
    for _ in range(DRAWS):
        drawn = networkx.random_regular_graph(degree, nodes, seed=rng)
        if networkx.is_connected(drawn):
            return drawn
    raise InputError(
        f"topology 'random_regular': {DRAWS} draws of degree {degree} over {nodes} nodes fell apart: raise the degree"
    )


def _full(nodes: int, degree: int, seed: int) -> networkx.Graph:
    """Everyone talks to everyone."""
    return networkx.complete_graph(nodes)


#: Name of a topology -> its graph, from the number of nodes, a degree and a seed.
GRAPHS: dict[str, Callable[[int, int, int], networkx.Graph]] = {
    "ring": _ring,
    "torus": _torus,
    "random_regular": _random_regular,
    "full": _full,
}


def mixing_matrix(neighbours: Sequence[Sequence[int]]) -> Tensor:
    """Metropolis-Hastings weights W, (N, N) float64: symmetric and doubly stochastic, so that gossip keeps the mean.

    Xiao, Boyd and Kim 2007, "Distributed average consensus with least-mean-square deviation"::

        W_ij = 1 / (1 + max(degree_i, degree_j)) for neighbours i and j,   W_ii = 1 - the rest of its row

    Raises:
        InputError: one node names another that does not name it, or itself.

    >>> mixing_matrix(graph("full", 4))[0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    matrix = torch.zeros(len(neighbours), len(neighbours), dtype=torch.float64)  # (N, N)
    for node, others in enumerate(neighbours):
        for other in others:
            if other == node or node not in neighbours[other]:
                raise InputError(f"node {node} names node {other} as its neighbour, but not the other way: edges go both ways")
            matrix[node, other] = 1 / (1 + max(len(others), len(neighbours[other])))
    matrix += (1 - matrix.sum(1)).diag()
    check_doubly_stochastic(matrix)
    return matrix


def check_doubly_stochastic(matrix: Tensor) -> None:
    """Check that a matrix (N, N) is at least 0 and that its rows and its columns sum to 1.

    Raises:
        InputError: naming the first row or column that does not.
    """
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a mixing matrix must be square, this one is {tuple(matrix.shape)}")
    if not bool((matrix >= 0).all()):
        row, column = (int(place) for place in (~(matrix >= 0)).nonzero()[0])
        raise InputError(f"a mixing matrix must be at least 0 everywhere, row {row} column {column} is {matrix[row, column]:g}")
    for what, axis in (("row", 1), ("column", 0)):
        sums = matrix.double().sum(axis)  # (N,)
        if len(wrong := ((sums - 1).abs() > 1e-6).nonzero()):
            place = int(wrong[0])
            raise InputError(
                f"a mixing matrix must keep the mean: {what} {place} sums to {sums[place]:g}, write weights that sum to 1"
            )
