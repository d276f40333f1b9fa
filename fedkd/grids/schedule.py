"""Who runs where, and how many at a time, by the seconds that clients were measured to take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import ceil

CHUNK_SECONDS = 0.25  # a call to a worker costs some milliseconds: about 1 % of this


def assign(costs: Mapping[int, float], workers: int, fixed: Mapping[int, int], present: Mapping[int, int]) -> list[list[int]]:
    """Queues of nodes, one per worker, longest first.

    Nodes without a home go, the longest first, to the worker with the least to do (longest-processing-time scheduling,
    Graham 1969); the others stay at home, but for as few as it takes to bring all workers within 5 % of a fair share.

    Parameters
    ----------
    costs
        Seconds that each node is expected to take.
    fixed
        Nodes that must run at a given worker.
    present
        The home of a node: the worker where it ran last.

    >>> assign({0: 3.0, 1: 2.0, 2: 2.0, 3: 1.0}, workers=2, fixed={}, present={})
    [[0, 3], [1, 2]]
    """
    queues: list[list[int]] = [[] for _ in range(workers)]
    load = [0.0] * workers
    homes = {**present, **fixed}
    for node in sorted(costs, key=lambda node: (node not in homes, -costs[node], node)):
        worker = homes.get(node, min(range(workers), key=load.__getitem__))
        queues[worker].append(node)
        load[worker] += costs[node]
    while True:
        heavy, light = max(range(workers), key=load.__getitem__), min(range(workers), key=load.__getitem__)
        gap = load[heavy] - load[light]
        movable = [node for node in queues[heavy] if node not in fixed and 0 < costs[node] < gap]
        if gap <= 0.05 * sum(load) / workers or not movable:
            return [sorted(queue, key=lambda node: (-costs[node], node)) for queue in queues]
        node = min(movable, key=lambda node: (abs(costs[node] - gap / 2), node))
        queues[heavy].remove(node)
        queues[light].append(node)
        load[heavy], load[light] = load[heavy] - costs[node], load[light] + costs[node]


def chunk_size(waiting: int, pace: float | None) -> int:
    """How many of the waiting jobs travel in the next call: `CHUNK_SECONDS` of work, at most a quarter of what waits.

    ``pace`` is the mean seconds of a job so far, None where nothing was measured yet.

    >>> chunk_size(100, 0.1), chunk_size(100, 0.001), chunk_size(100, 9.0), chunk_size(100, None)
    (2, 25, 1, 1)
    """
    wanted = 1 if pace is None else int(CHUNK_SECONDS / max(pace, 1e-6))
    return max(1, min(wanted, ceil(waiting / 4)))


def calls_ahead(pace: float | None) -> int:
    """How many calls a worker is given: short ones never let it idle, a long one in reserve might run elsewhere."""
    return 2 if pace is not None and pace < CHUNK_SECONDS else 1


class Schedule:
    """Which worker runs which node: fixed within a group of messages (a round), spread anew for the next."""

    def __init__(self, workers: int) -> None:
        self.homes: dict[int, int] = {}  # node -> the worker where it ran last
        self._workers = workers
        self._group = ""
        self._bound: set[int] = set()  # nodes that stay until the next group
        self._seconds: dict[int, float] = {}  # of each node, in the last group in which it ran
        self._spent: defaultdict[int, float] = defaultdict(float)  # the same, in this group so far
        self._since_plan: list[float] = []  # seconds of each job

    def plan(self, group: str, nodes: Iterable[int]) -> list[list[int]]:
        """A queue of nodes for each worker. Messages without a group are a group of their own."""
        if group != self._group or not group:
            self._seconds.update(self._spent)
            self._spent.clear()
            self._bound.clear()
        self._group, self._since_plan = group, []
        usual = sum(self._seconds.values()) / len(self._seconds) if self._seconds else 1.0
        costs = {node: self._seconds.get(node, usual) for node in nodes}
        fixed = {node: self.homes[node] for node in costs if node in self._bound}
        return assign(costs, self._workers, fixed, self.homes)

    def may_move(self, node: int) -> bool:
        """Whether another worker may take the node over now."""
        return node not in self._bound

    def begin(self, node: int, worker: int) -> None:
        """A node's job went to a worker."""
        self.homes[node] = worker
        self._bound.add(node)

    def end(self, node: int, seconds: float) -> None:
        """A node's job is done and took so long."""
        self._spent[node] += seconds
        self._since_plan.append(seconds)

    @property
    def pace(self) -> float | None:
        """Mean seconds of the jobs done since the last plan, None before the first is done."""
        return sum(self._since_plan) / len(self._since_plan) if self._since_plan else None
