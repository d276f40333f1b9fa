"""An optimiser works without torch's compiler, and with it as torch has it."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
from fedkd.base.compiler import COMPILER, leave_compiler_out

leave_compiler_out()
net = torch.nn.Linear(3, 1, bias=False)
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
net.weight.grad = torch.ones(1, 3)
optimizer.zero_grad()
assert net.weight.grad is None
optimizer.load_state_dict(optimizer.state_dict())
print(COMPILER in sys.modules)

other = torch.compile(net, backend="eager")
net.weight.grad, before = torch.ones(1, 3), net.weight.detach().clone()
assert torch.equal(other(torch.ones(2, 3)), net(torch.ones(2, 3)))
optimizer.step()
assert torch.equal(net.weight, before - 0.5)
optimizer.zero_grad()
kept = vars(torch.optim.Optimizer.zero_grad.__wrapped__)["__dynamo_disable"]
print(COMPILER in sys.modules, getattr(kept, "_torchdynamo_disable", False))
"""


def test_an_optimiser_loads_the_compiler_only_where_something_compiles() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["False", "True True"], done.stderr[-2000:]
