"""One prediction over all classes, of teachers that know some each: Vongkulbhisal et al. 2019, arXiv 1904.06062, UHC."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedkd.targets.line_search import shortened
from fedkd.targets.target import Target
from fedkd.targets.teachers import constant

_STEPS = 200  # about 10 are needed, more where one class is all but excluded
_TOLERANCE = 1e-11  # of the sums of probabilities that ought to be one
_NEAR = 0.1  # where the answer in log space is a good start: elsewhere it may be far off, on a plain
_STRIDE = 5.0  # farther, in units of a logit, a quadratic model of exponentials says nothing
_RIDGE = 1e-12  # what no chain of likely classes determines stays where it is


def unify(
    logits: Tensor | Sequence[Tensor],
    class_ids: Tensor | Sequence[Sequence[int]],
    classes: int,
    *,
    temperature: float = 1.0,
) -> Target:
    """The distribution q over all classes whose restrictions to the teachers' classes fit their predictions best: CE-X::

        q = softmax(u),   u = argmin -sum_k sum_{c in L_k} p_k[c] log( exp u[c] / sum_{j in L_k} exp u[j] )

    with p_k = softmax(z_k / T) over the classes L_k that teacher k knows. Where all p_k are restrictions of one distribution,
    that is it. The convex problem is solved in float64 to convergence, by its K normalisers v_k = log sum_{j in L_k} q[j]
    instead of the u: where the gradient vanishes, q[c] = sum_k p_k[c] / sum_{k: c in L_k} exp(-v_k), the v_k that make these
    sums true minimise a convex function too, and there are only K of them, whatever the number of classes.

    A teacher says nothing of how likely its classes are beside others, so it takes classes that teachers share to compare the
    rest. Where no chain of shared classes joins two groups of teachers, the mass of each group is not defined: ours is the
    number of its classes over that of all known ones. Classes that nobody knows get 0. A teacher that is sure of some class it
    knows, on a sample of a class it does not, misleads through the classes it shares. Uses no labels.

    Args:
        logits: one (B, C_k) a teacher, columns in the order of its class ids; or (K, B, C), where class_ids is a mask and
            the logits of unknown classes are never read. Any float type; constants.
        class_ids: for each teacher the numbers, below ``classes``, of its classes; or (K, C) bool.
        classes: C, of the result.
        temperature: T > 0.

    Returns:
        probabilities (B, C) at that temperature, float32 or better.

    Raises:
        ValueError: no teacher; logits that do not fit the class ids or one another; a teacher without a class, an id twice or
            not below ``classes``; a temperature that is not positive.

    >>> logits = [torch.tensor([[1.0, 2.0]]).log(), torch.tensor([[1.0, 3.0]]).log()]
    >>> unify(logits, [[0, 1], [1, 2]], 4).probabilities()  # 1 : 2 and 1 : 3 make 1 : 2 : 6, and nobody knows class 3
    tensor([[0.1111, 0.2222, 0.6667, 0.0000]])
    """
    if not temperature > 0:
        raise ValueError(f"unify: temperature {temperature} is not positive")
    if isinstance(class_ids, Tensor):
        logits, class_ids = _listed(logits, class_ids, classes)
    wide, mask = _side_by_side(logits, class_ids, classes)  # (B, K, C), (K, C)
    known = mask.any(0)  # (C,)
    log_p = (wide[..., known].double() / temperature).log_softmax(-1)  # (B, K, known), -inf where the teacher knows nothing
    mask = mask[:, known]
    groups = _groups(mask)  # (K,)
    log_q = _unified(log_p, mask, (groups[:, None] == groups).double())  # (B, known)
    groups_of_classes = groups[mask.int().argmax(0)]  # (known,), that of the first teacher who knows the class
    result = log_q.new_zeros(len(log_q), classes)
    for group in groups.unique():
        columns = known.nonzero().squeeze(1)[groups_of_classes == group]
        result[:, columns] = log_q[:, groups_of_classes == group].softmax(-1) * len(columns) / known.sum()
    return Target(result.to(wide.dtype), "probabilities")


def _listed(logits: Tensor | Sequence[Tensor], mask: Tensor, classes: int) -> tuple[list[Tensor], list[list[int]]]:
    """Each teacher's logits of the classes that it knows, and their numbers: from (K, B, C) and the mask (K, C)."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"unify: class ids as a tensor are a bool mask (K, C), not {mask.dtype}: write a list for each teacher"
        )
    shapes = [tuple(teacher.shape[1:]) for teacher in logits]
    if mask.shape != (len(shapes), classes) or any(shape != (classes,) for shape in shapes):
        raise ValueError(f"unify: a mask {tuple(mask.shape)} needs {len(mask)} logits (B, {classes}), not {shapes} after B")
    known = [row.nonzero().squeeze(1) for row in mask]
    return [teacher[:, row] for teacher, row in zip(logits, known, strict=True)], [row.tolist() for row in known]


def _side_by_side(columns: Tensor | Sequence[Tensor], ids: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, Tensor]:
    """The teachers' logits over all classes (B, K, C), -inf where they know nothing, and the mask (K, C) of what they know."""
    if not len(ids) or len(ids) != len(columns):
        raise ValueError(f"unify: the class ids of {len(ids)} teachers, and the logits of {len(columns)}")
    samples = len(columns[0])
    for teacher, row in zip(columns, ids, strict=True):
        if not len(row) or len({*row} & {*range(classes)}) != len(row):
            raise ValueError(f"unify: a teacher's class ids are one or more, distinct and below {classes}, not {row}")
        if teacher.shape != (samples, len(row)):
            raise ValueError(f"unify: {len(row)} class ids need logits ({samples}, {len(row)}), not {tuple(teacher.shape)}")
    constants = [constant(teacher) for teacher in columns]
    wide = constants[0].new_full((samples, len(ids), classes), -torch.inf)
    for k, row in enumerate(ids):
        wide[:, k, list(row)] = constants[k].to(wide.dtype)
    mask = torch.tensor([[c in row for c in range(classes)] for row in map(set, ids)], device=wide.device)
    return wide, mask


def _groups(mask: Tensor) -> Tensor:
    """For every teacher of mask (K, C) the first that a chain of shared classes joins it to: (K,)."""
    joined = mask.double() @ mask.T.double() > 0  # (K, K)
    for _ in range(len(mask).bit_length()):
        joined = joined.double() @ joined.double() > 0  # chains of twice the length
    return joined.int().argmax(1)


def _unified(log_p: Tensor, mask: Tensor, same_group: Tensor) -> Tensor:
    """Log q up to a shift within each group, by Newton's method: (B, K, C), (K, C), (K, K) -> (B, C).

    With a_k = -v_k and m[c] = sum_k p_k[c], the convex function is F(a) = sum_c m[c] log sum_{k: c in L_k} exp a_k - sum_k a_k.
    """
    log_m = log_p.logsumexp(1)  # (B, C)
    m = log_m.exp()

    def knowing(a: Tensor) -> Tensor:
        return a[..., None].masked_fill(~mask, -torch.inf)  # (B, K, C)

    def value(a: Tensor) -> Tensor:
        return (m * knowing(a).logsumexp(1)).sum(-1, keepdim=True) - a.sum(-1, keepdim=True)

    def gradient_at(a: Tensor) -> Tensor:
        return (m[:, None] * knowing(a).softmax(1)).sum(-1) - 1  # (B, K)

    a = _in_log_space(log_p, mask, same_group)  # (B, K)
    a = torch.where(gradient_at(a).abs().amax(-1, keepdim=True) < _NEAR, a, 0.0)
    for _ in range(_STEPS):
        gradient = gradient_at(a)
        going = gradient.abs().amax(-1, keepdim=True) > _TOLERANCE  # (B, 1)
        if not bool(going.any()):
            break
        shares = knowing(a).softmax(1)  # (B, K, C), of known classes columns sum to one
        weighted = m[:, None] * shares
        hessian = torch.diag_embed(weighted.sum(-1) + _RIDGE) - weighted @ shares.mT  # (B, K, K)
        step = -torch.linalg.solve(hessian + same_group, gradient)  # the group's shift, which changes nothing, made stiff
        longest = going * (_STRIDE / step.abs().amax(-1, keepdim=True)).clamp_max(1)
        a = a + shortened(value, a, step, (gradient * step).sum(-1, keepdim=True), longest) * step
    unified: Tensor = log_m - knowing(a).logsumexp(1)
    return unified


def _in_log_space(log_p: Tensor, mask: Tensor, same_group: Tensor) -> Tensor:
    """The a (B, K) of the least squares log p_k[c] = u[c] + a_k: exact where the teachers agree, also on what they exclude."""
    finite = log_p.masked_fill(~mask, 0.0)  # (B, K, C)
    known = mask.double()
    shares = known / known.sum(0)  # (K, C)
    # A Laplacian: its null space are the groups' shifts, which change nothing and are made stiff.
    matrix = torch.diag(known.sum(1)) - shares @ known.T + same_group  # (K, K)
    right = finite.sum(-1) - (finite * shares).sum(1) @ known.T
    solution: Tensor = torch.linalg.solve(matrix, right.T)  # (K, B)
    return solution.T
