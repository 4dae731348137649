"""Holds masks learned with the weights to readings of their papers in PyTorch, over a few steps in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import combine, densify, partition
from jaxcompress.prune import movement, sr_ste

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")

RATE, STEPS = 0.05, 6
RNG = np.random.default_rng(0)
W, X, Y = RNG.standard_normal((8, 3)), RNG.standard_normal((20, 8)), RNG.standard_normal((20, 3))


def trained(transform):
    """Trains one layer by plain gradient descent on the squared error, and lists the tree before every step."""

    def loss(params):
        return jnp.mean((jnp.asarray(X, jnp.float32) @ densify(params)["w"] - jnp.asarray(Y, jnp.float32)) ** 2)

    @jax.jit
    def step(params, i):
        moving, fixed = partition(params)
        grads = jax.grad(lambda moving: loss(combine(moving, fixed)))(moving)
        return transform.update(combine(jax.tree.map(lambda w, g: w - RATE * g, moving, grads), fixed), i)

    seen = [transform.init({"w": jnp.asarray(W, jnp.float32)})]
    for i in range(1, STEPS + 1):
        seen.append(step(seen[-1], jnp.int32(i)))
    return [tree["w"] for tree in seen]


def torch_loss(weight):
    return ((torch.tensor(X) @ weight - torch.tensor(Y)) ** 2).mean()


class SparseRefined(torch.autograd.Function):
    """Zhou et al. 2021: N:M weights forward; backward the gradient as it is, and a decay of what was left out."""

    @staticmethod
    def forward(ctx, weight, n, m, decay):
        groups = weight.detach().abs().t().reshape(-1, m)
        mask = torch.ones_like(groups).scatter_(1, groups.argsort(dim=1)[:, : m - n], 0.0)
        ctx.mask, ctx.decay = mask.reshape(weight.t().shape).t(), decay
        ctx.save_for_backward(weight)
        return weight * ctx.mask

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return gradient + ctx.decay * (1 - ctx.mask) * weight, None, None, None


class TopScores(torch.autograd.Function):
    """Sanh et al. 2020: the mask of the highest scores, whose gradient the scores get as it is."""

    @staticmethod
    def forward(ctx, scores, count):
        mask = torch.zeros(scores.numel(), dtype=scores.dtype)
        mask[torch.argsort(-scores.flatten(), stable=True)[:count]] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@pytest.mark.parametrize(("n", "m", "decay"), [(2, 4, 0.2), (1, 4, 0.0)])
def test_sparse_refined_straight_through(n, m, decay):
    weight = torch.tensor(W, requires_grad=True)
    for leaf in trained(sr_ste("w", n, m, decay=decay)):
        np.testing.assert_allclose(leaf.weight, weight.detach(), rtol=1e-4, atol=1e-5)
        used = SparseRefined.apply(weight, n, m, decay)
        np.testing.assert_allclose(leaf.dense(), used.detach(), rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad(torch_loss(used), weight)
        weight = (weight - RATE * gradient).detach().requires_grad_()


def test_movement():
    sparsity = lambda step: jnp.minimum(jnp.asarray(step), 4).astype(jnp.float32) / 8  # 0 to a half in four steps
    weight, scores = torch.tensor(W, requires_grad=True), torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
    for i, leaf in enumerate(trained(movement("w", sparsity))):
        mask = TopScores.apply(scores, 24 - 3 * min(i, 4))
        np.testing.assert_array_equal(leaf.mask, mask.detach() > 0)
        np.testing.assert_allclose(leaf.scores, scores.detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(leaf.weight, weight.detach(), rtol=1e-4, atol=1e-5)
        slopes = torch.autograd.grad(torch_loss(weight * mask), (weight, scores))
        weight, scores = (
            (p - RATE * g).detach().requires_grad_() for p, g in zip((weight, scores), slopes, strict=True)
        )
