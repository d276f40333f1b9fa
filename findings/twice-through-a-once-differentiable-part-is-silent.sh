#!/usr/bin/env bash
# torch 2.13.0 (CPU).
# A function of one's own whose backward is marked `once_differentiable` says in its documentation that who differentiates it
# twice gets an error. Who learns through a step of gradient descent (x' = x - a f'(x), then a loss of x') gets none in two cases, and a
# gradient without its second-order part:
# - the marked function is what is descended: the gradient that reaches it is a constant 1, and then nothing is guarded;
# - the second gradient is taken by `torch.autograd.grad(loss, x)`: the guard lies on a way that does not end in x, and is passed by.
# Only `loss.backward()`, of a function with something that is not linear behind it, raises. So a rehearsal that shall find out whether
# a net can be unrolled must call `backward`, with a square behind the net.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env && env/bin/pip install --quiet torch==2.13.0
cat > twice.py <<'PY'
import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def through_a_step(descended, by_grad):
    x = torch.tensor(2.0, requires_grad=True)
    (first,) = torch.autograd.grad(descended(x), x, create_graph=True)
    loss = (x - 0.01 * first) ** 2
    if by_grad:
        return torch.autograd.grad(loss, x)[0]
    loss.backward()
    return x.grad


for name, behind in (("cube", lambda y: y), ("its square", torch.square)):
    for by_grad in (True, False):
        right = through_a_step(lambda x: behind(x**3), by_grad).item()
        try:
            found = f"{through_a_step(lambda x: behind(Cube.apply(x)), by_grad).item():.4f}"
        except RuntimeError as error:
            found = "an error"
        print(f"{name}, by {'grad' if by_grad else 'backward'}: {found}, right is {right:.4f}")
PY
seen=$(env/bin/python -W ignore twice.py)
echo "$seen"
test "$seen" = "cube, by grad: 3.7600, right is 3.3088
cube, by backward: 3.7600, right is 3.3088
its square, by grad: 0.1600, right is -0.6080
its square, by backward: an error, right is -0.6080"
