import warnings
from collections.abc import Callable, Iterator

import pytest

from fedkd.grids import InProcessGrid, JobGrid, RayGrid
from grids.forgetful import ForgetfulGrid


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests, with a logical GPU; a RayGrid uses it and leaves it running."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=["in-process", "ray", "forgetful"])
def make_grid(request: pytest.FixtureRequest) -> Callable[[], JobGrid]:
    """A factory of each kind of grid."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
        return RayGrid
    return {"in-process": InProcessGrid, "forgetful": ForgetfulGrid}[request.param]
