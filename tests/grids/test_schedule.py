from fedkd.grids.schedule import Schedule, assign, chunk_size


def test_longest_first_to_the_least_loaded_worker() -> None:
    assert assign({0: 1.0, 1: 5.0, 2: 4.0, 3: 3.0}, workers=2, fixed={}, present={}) == [[1, 0], [2, 3]]


def test_a_node_stays_unless_that_is_unfair() -> None:
    costs = dict.fromkeys(range(4), 1.0)
    assert assign(costs, workers=2, fixed={}, present={0: 1, 1: 1, 2: 0, 3: 0}) == [[2, 3], [0, 1]]
    assert assign(costs, workers=2, fixed={}, present={0: 1, 1: 1, 2: 1, 3: 1}) == [[0, 1], [2, 3]]
    assert assign(costs, workers=2, fixed={0: 1, 1: 1, 2: 1}, present={}) == [[3], [0, 1, 2]]


def test_chunks_grow_with_the_pace_and_shrink_towards_the_end() -> None:
    assert chunk_size(400, pace=0.025) == 10
    assert chunk_size(20, pace=0.025) == 5
    assert chunk_size(2, pace=0.025) == 1
    assert chunk_size(400, pace=60.0) == 1


def test_nodes_are_fixed_within_a_group_and_spread_by_measured_seconds_for_the_next() -> None:
    schedule = Schedule(workers=2)
    assert schedule.plan("1", range(4)) == [[0, 2], [1, 3]]
    for node, worker, seconds in ((0, 0, 9.0), (1, 1, 1.0), (2, 0, 2.0), (3, 1, 1.0)):
        assert schedule.may_move(node)
        schedule.begin(node, worker)
        schedule.end(node, seconds)
    assert schedule.plan("1", range(4)) == [[0, 2], [1, 3]] and not schedule.may_move(0)
    assert schedule.plan("2", range(4)) == [[0], [2, 1, 3]] and schedule.may_move(0)
