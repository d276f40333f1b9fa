"""Graphs that can be drawn on paper, and mixing matrices that keep the mean."""

import networkx
import pytest
import torch

from fedkd.aggregate.topology import GRAPHS, Neighbours, check_doubly_stochastic, graph, mixing_matrix
from fedkd.base.errors import InputError


def drawn(neighbours: Neighbours) -> networkx.Graph:
    return networkx.Graph({node: list(others) for node, others in enumerate(neighbours)})


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("nodes", [9, 12, 100])
def test_every_graph_is_connected_undirected_and_without_loops(name: str, nodes: int) -> None:
    neighbours = graph(name, nodes)
    assert len(neighbours) == nodes
    assert networkx.is_connected(drawn(neighbours))
    for node, others in enumerate(neighbours):
        assert list(others) == sorted(set(others) - {node})
        assert all(node in neighbours[other] for other in others)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_has_a_mixing_matrix_that_keeps_the_mean_and_in_the_end_reaches_it(name: str) -> None:
    matrix = mixing_matrix(graph(name, 12))
    values = torch.rand(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose((matrix @ values).mean(0), values.mean(0))
    assert torch.allclose(torch.linalg.matrix_power(matrix, 500) @ values, values.mean(0).expand(12, 3))


def test_a_ring_of_five_and_of_two() -> None:
    assert graph("ring", 5) == ((1, 4), (0, 2), (1, 3), (2, 4), (0, 3))
    assert graph("ring", 2) == ((1,), (0,))


def test_a_torus_is_as_square_as_its_number_allows() -> None:
    neighbours = graph("torus", 12)  # 3 rows of 4: node 0 has 3 and 1 beside it, 8 and 4 above and below
    assert neighbours[0] == (1, 3, 4, 8)
    assert {len(others) for others in neighbours} == {4}


@pytest.mark.parametrize("nodes", [2, 7, 10, 13])
def test_a_torus_of_an_awkward_number_says_which_numbers_do(nodes: int) -> None:
    with pytest.raises(InputError, match=f"{nodes} nodes give none: take .*12") as caught:
        graph("torus", nodes)
    assert "\n" not in str(caught.value)


def test_a_random_regular_graph_has_its_degree_and_repeats_with_its_seed() -> None:
    neighbours = graph("random_regular", 20, degree=3, seed=1)
    assert {len(others) for others in neighbours} == {3}
    assert neighbours == graph("random_regular", 20, degree=3, seed=1)
    assert neighbours != graph("random_regular", 20, degree=3, seed=2)


def test_a_random_regular_graph_of_degree_two_is_drawn_until_it_is_one_ring() -> None:
    assert all(networkx.is_connected(drawn(graph("random_regular", 12, degree=2, seed=seed))) for seed in range(20))


def test_a_random_regular_graph_that_never_connects_is_given_up() -> None:
    with pytest.raises(InputError, match="100 draws of degree 1 over 8 nodes fell apart: raise the degree"):
        graph("random_regular", 8, degree=1)


@pytest.mark.parametrize(("nodes", "degree"), [(4, 4), (5, 3), (5, 0)])
def test_a_random_regular_graph_that_cannot_be_is_refused(nodes: int, degree: int) -> None:
    with pytest.raises(InputError, match=f"{nodes} nodes cannot have {degree} neighbours each"):
        graph("random_regular", nodes, degree=degree)


def test_an_unknown_name_and_a_lone_node_are_refused() -> None:
    with pytest.raises(InputError, match="unknown topology 'rng': did you mean 'ring'"):
        graph("rng", 5)
    with pytest.raises(InputError, match="topology 'full' of 1 nodes has no edge"):
        graph("full", 1)


@pytest.mark.parametrize("nodes", [2, 3, 10])
def test_a_full_graph_mixes_to_the_mean_in_one_step(nodes: int) -> None:
    assert torch.allclose(mixing_matrix(graph("full", nodes)), torch.full((nodes, nodes), 1 / nodes, dtype=torch.float64))


def test_a_path_of_three_weighs_by_the_larger_degree() -> None:
    expected = torch.tensor([[2, 1, 0], [1, 1, 1], [0, 1, 2]], dtype=torch.float64) / 3
    assert torch.allclose(mixing_matrix(((1,), (0, 2), (1,))), expected)


@pytest.mark.parametrize("neighbours", [((1,), ()), ((0,),)])
def test_edges_go_both_ways_and_to_another_node(neighbours: Neighbours) -> None:
    with pytest.raises(InputError, match="edges go both ways"):
        mixing_matrix(neighbours)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5]], r"must be square, this one is \(1, 2\)"),
        ([[1.5, -0.5], [-0.5, 1.5]], "row 0 column 1 is -0.5"),
        ([[float("nan"), 1.0], [1.0, 0.0]], "row 0 column 0 is nan"),
        ([[1.0, 0.0], [0.5, 0.0]], "row 1 sums to 0.5"),
        ([[1.0, 0.0], [1.0, 0.0]], "column 0 sums to 2"),
    ],
)
def test_a_matrix_that_would_move_the_mean_is_refused(matrix: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_doubly_stochastic(torch.tensor(matrix))
