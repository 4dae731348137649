"""Holds scores before training to readings of their papers in PyTorch, with its autograd in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.prune import by_score, scores

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")
functional = torch.nn.functional

SHAPES = {"conv": (3, 3, 1, 3), "dense": (12, 4)}


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(7)
    params = {name: jnp.asarray(0.5 * rng.standard_normal(shape), jnp.float32) for name, shape in SHAPES.items()}
    params["bias"] = jnp.asarray(0.1 * rng.standard_normal(4), jnp.float32)
    x, y = jnp.asarray(rng.standard_normal((9, 4, 4, 1)), jnp.float32), jnp.arange(9) % 4
    return params, x, y


def apply(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    hidden = jax.nn.relu(jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "VALID", dimension_numbers=numbers))
    return hidden.transpose(0, 3, 1, 2).reshape(len(x), -1) @ params["dense"] + params["bias"][None]


def cross_entropy(params, x, y, temperature=1.0):
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, x) / temperature, y).mean()


def doubles(params):
    theirs = {name: torch.tensor(np.asarray(leaf, np.float64)) for name, leaf in params.items()}
    return {name: leaf.requires_grad_(name != "bias") for name, leaf in theirs.items()}


def torch_apply(theirs, x):
    x = torch.as_tensor(np.asarray(x, np.float64)).permute(0, 3, 1, 2)
    hidden = torch.relu(functional.conv2d(x, theirs["conv"].permute(3, 2, 0, 1)))
    return hidden.flatten(1) @ theirs["dense"] + theirs["bias"]


def torch_loss(theirs, x, y, temperature=1.0):
    return functional.cross_entropy(torch_apply(theirs, x) / temperature, torch.tensor(np.asarray(y)).long())


def matched(theirs):
    return [theirs[name] for name in SHAPES]


def assert_scores(found, expected):
    for name, theirs in zip(SHAPES, expected, strict=True):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(found[name], theirs, rtol=2e-3, atol=2e-5 * np.abs(theirs).max(), err_msg=name)


def test_snip_by_the_gradient_with_respect_to_multipliers_of_one(model):
    # As the paper has it: c multiplies the weight, and its gradient is taken at c = 1.
    params, x, y = model
    theirs = doubles(params)
    ones = {name: torch.ones_like(theirs[name], requires_grad=True) for name in SHAPES}
    product = {name: leaf.detach() * ones.get(name, 1.0) for name, leaf in theirs.items()}
    found = torch.autograd.grad(torch_loss(product, x, y), list(ones.values()))
    total = sum(g.abs().sum() for g in found)
    expected = [g.abs() / total for g in found]
    ours = scores.snip(params, "conv|dense", lambda p: cross_entropy(p, x, y))
    assert_scores(ours, expected)
    np.testing.assert_allclose(sum(float(s.sum()) for s in ours.values()), 1, rtol=1e-6)


def test_grasp_by_back_propagation_of_gradient_times_constant_gradient(model):
    params, x, y = model
    theirs = doubles(params)
    loss = torch_loss(theirs, x, y, 200.0)
    gradient = torch.autograd.grad(loss, matched(theirs), create_graph=True)
    inner = sum((g.detach() * g).sum() for g in gradient)
    product = torch.autograd.grad(inner, matched(theirs))
    removal = [-w * hg for w, hg in zip(matched(theirs), product, strict=True)]  # the paper's S
    ours = scores.grasp(params, "conv|dense", lambda p: cross_entropy(p, x, y, 200.0))
    assert_scores(ours, [-s for s in removal])
    # The highest S go.
    flat = torch.cat([s.flatten() for s in removal]).detach().numpy()
    expected = np.ones(flat.size, bool)
    expected[np.argsort(-flat)[: round(0.6 * flat.size)]] = False
    masks = by_score("conv|dense", 0.6, ours, allocation="global").init(params)
    np.testing.assert_array_equal(np.concatenate([np.ravel(masks[name].mask) for name in SHAPES]), expected)


def test_fisher_by_one_backward_pass_an_example(model):
    params, x, y = model
    theirs = doubles(params)
    squares = [torch.zeros_like(w) for w in matched(theirs)]
    for i in range(len(x)):
        slopes = torch.autograd.grad(torch_loss(theirs, x[i : i + 1], y[i : i + 1]), matched(theirs))
        squares = [s + g**2 / len(x) for s, g in zip(squares, slopes, strict=True)]
    ours = scores.fisher(params, "conv|dense", lambda p, e: cross_entropy(p, e[0][None], e[1][None]), (x, y))
    assert_scores(ours, [0.5 * w**2 * s for w, s in zip(matched(theirs), squares, strict=True)])


def test_synflow_in_rounds(model):
    params, _, _ = model
    rounds, sparsity = 5, 0.7
    theirs = {name: leaf.detach().abs() for name, leaf in doubles(params).items()}
    masks = [torch.ones_like(w) for w in matched(theirs)]
    for k in range(1, rounds + 1):
        kept = {**theirs, **{n: (theirs[n] * m).requires_grad_() for n, m in zip(SHAPES, masks, strict=True)}}
        torch_apply(kept, np.ones((1, 4, 4, 1))).sum().backward()
        expected = [(kept[name].grad * kept[name]).abs() for name in SHAPES]
        flat = torch.cat([s.flatten() for s in expected])
        threshold = flat.sort(descending=True).values[round(flat.numel() * (1 - sparsity) ** (k / rounds)) - 1]
        masks = [(s >= threshold).double() for s in expected]
    ours = scores.synflow(params, "conv|dense", apply, (1, 4, 4, 1), sparsity, rounds)
    assert_scores(ours, expected)
    found = by_score("conv|dense", sparsity, ours, allocation="global").init(params)
    for name, mask in zip(SHAPES, masks, strict=True):
        np.testing.assert_array_equal(found[name].mask, mask.numpy() > 0)
