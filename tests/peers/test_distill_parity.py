"""Holds every loss of distillation, and its gradients, to a reading of its paper in PyTorch, in float64.

The readings keep PyTorch's layout (channels first) and use its own functions where it has them. Tensors are drawn when
the test runs; values agree to 1e-6 and so do gradients by all that a loss is differentiable in.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")
functional = torch.nn.functional

BATCH, CLASSES = 6, 7
LABELS = np.arange(BATCH) % CLASSES
TOLERANCE = 1e-6


def drawn(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng([seed, *shape]).standard_normal(shape)


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def first(maps):
    """Brings the channels of maps to the front, as PyTorch has them."""
    return maps.permute(0, 3, 1, 2)


def check(ours, theirs, *arrays):
    """Holds ``mean of ours(*arrays)`` and its gradients by all arrays to those of ``theirs``, on trees of arrays."""
    with jax.enable_x64(True):
        given = jax.tree.map(jnp.asarray, arrays)
        assert all(x.dtype == jnp.float64 for x in jax.tree.leaves(given))
        value, slopes = jax.jit(jax.value_and_grad(lambda a: jnp.mean(ours(*a))))(given)
    tensors = jax.tree.map(leaf, arrays)
    expected = theirs(*tensors)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=TOLERANCE, atol=TOLERANCE)
    for slope, tensor in zip(jax.tree.leaves(slopes), jax.tree.leaves(tensors), strict=True):
        wanted = np.zeros(slope.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(slope, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def logits_pair():
    return drawn(BATCH, CLASSES, scale=2.0), drawn(BATCH, CLASSES, seed=1, scale=3.0)


def maps_pair(student=(BATCH, 6, 6, 4), teacher=(BATCH, 6, 6, 4)):
    return drawn(*student), drawn(*teacher, seed=1)


# Logits


def test_kd():
    def paper(student, teacher):
        soft = functional.softmax(teacher.detach() / 4.0, dim=1)
        return 16.0 * functional.kl_div(functional.log_softmax(student / 4.0, 1), soft, reduction="batchmean")

    check(lambda s, t: distill.kd(s, t, 4.0), paper, *logits_pair())


def test_standardized_kd():
    def standard(logits):
        return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True, correction=0) + 1e-7)

    def paper(student, teacher):
        soft = functional.softmax(standard(teacher.detach()) / 2.0, dim=1)
        return 4.0 * functional.kl_div(functional.log_softmax(standard(student) / 2.0, 1), soft, reduction="batchmean")

    check(lambda s, t: distill.kd(distill.standardized(s), distill.standardized(t), 2.0), paper, *logits_pair())


def test_dkd():
    def paper(student, teacher):
        p, q = functional.softmax(teacher.detach() / 4, 1), functional.softmax(student / 4, 1)
        total = 0.0
        for row, label in enumerate(LABELS):
            others = [k for k in range(CLASSES) if k != label]
            binary = [torch.stack([x[row, label], x[row, others].sum()]) for x in (p, q)]
            among = [x[row, others] / x[row, others].sum() for x in (p, q)]
            tckd = (binary[0] * (binary[0] / binary[1]).log()).sum()
            nckd = (among[0] * (among[0] / among[1]).log()).sum()
            total = total + 16 * (1.5 * tckd + 6.0 * nckd)
        return total / BATCH

    ours = lambda s, t: distill.dkd(s, t, jnp.asarray(LABELS), temperature=4.0, alpha=1.5, beta=6.0)
    check(ours, paper, *logits_pair())


def test_dist():
    def distance(a, b):
        return 1 - functional.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)

    def paper(student, teacher):
        q, p = functional.softmax(student / 2, 1), functional.softmax(teacher.detach() / 2, 1)
        return 4 * (1.5 * distance(q, p).mean() + 0.5 * distance(q.T, p.T).mean())

    check(lambda s, t: distill.dist(s, t, temperature=2.0, inter=1.5, intra=0.5), paper, *logits_pair())


def test_nkd():
    def paper(student, teacher):
        teacher, total = teacher.detach(), 0.0
        for row, label in enumerate(LABELS):
            others = [k for k in range(CLASSES) if k != label]
            s, t = functional.softmax(student[row], 0)[label], functional.softmax(teacher[row], 0)[label]
            p, q = (functional.softmax(x[row, others] / 2, 0) for x in (teacher, student))
            total = total - t * s.log() - 1.5 * 4 * (p * q.log()).sum()
        return total / BATCH

    ours = lambda s, t: distill.nkd(s, t, jnp.asarray(LABELS), temperature=2.0, gamma=1.5)
    check(ours, paper, *logits_pair())


def test_teacher_free():
    def paper(student):
        output = torch.full((BATCH, CLASSES), 0.1 / (CLASSES - 1), dtype=torch.float64)
        output[torch.arange(BATCH), torch.tensor(LABELS)] = 0.9
        soft = functional.softmax(output / 20, dim=1)
        return functional.kl_div(functional.log_softmax(student, 1), soft, reduction="batchmean")

    ours = lambda s: distill.teacher_free(s, jnp.asarray(LABELS), correct=0.9, temperature=20.0)
    check(ours, paper, logits_pair()[0])


# Features


def test_hint_behind_a_regressor():
    params = {
        "layer1": {"kernel": drawn(4, 5), "bias": drawn(5)},
        "layer2": {"kernel": drawn(5, 3), "bias": drawn(3)},
    }

    def paper(params, student, teacher):
        one, two = params["layer1"], params["layer2"]
        hidden = functional.conv2d(first(student), one["kernel"].T[:, :, None, None], one["bias"]).relu()
        made = functional.conv2d(hidden, two["kernel"].T[:, :, None, None], two["bias"])
        return functional.mse_loss(made, first(teacher).detach())

    ours = lambda p, s, t: distill.hint(distill.regress(p, s), t)
    check(ours, paper, params, *maps_pair(teacher=(BATCH, 6, 6, 3)))


@pytest.mark.parametrize(("size", "channels"), [(6, 4), (3, 9), (4, 5), (8, 2)])
def test_attention_of_any_size(size, channels):
    def paper(student, teacher):
        small = min(6, size)
        maps = [functional.adaptive_avg_pool2d(first(x), small) for x in (student, teacher.detach())]
        ours, theirs = (functional.normalize(x.pow(2).mean(1).reshape(BATCH, -1)) for x in maps)
        return (ours - theirs).pow(2).mean()

    check(distill.attention, paper, *maps_pair(teacher=(BATCH, size, size, channels)))


def test_fsp():
    def flow(front, behind):
        front = functional.adaptive_avg_pool2d(first(front), behind.shape[1])
        return front.flatten(2) @ first(behind).flatten(2).transpose(1, 2) / behind.shape[1] ** 2

    def paper(student, teacher):
        return (flow(*student) - flow(*[maps.detach() for maps in teacher])).pow(2).mean()

    pair = lambda seed: (drawn(BATCH, 6, 6, 4, seed=seed), drawn(BATCH, 3, 3, 5, seed=seed))
    check(distill.fsp, paper, pair(0), pair(1))


def test_nst():
    def paper(student, teacher):
        total = 0.0
        student, teacher = first(student), functional.adaptive_avg_pool2d(first(teacher).detach(), 6)
        for ours, theirs in zip(student, teacher, strict=True):
            ours, theirs = (functional.normalize(x.flatten(1), dim=1) for x in (ours, theirs))
            kernels = [(a @ b.T).pow(2).mean() for a, b in ((theirs, theirs), (ours, ours), (ours, theirs))]
            total = total + kernels[0] + kernels[1] - 2 * kernels[2]
        return total / BATCH

    check(distill.nst, paper, *maps_pair(teacher=(BATCH, 9, 9, 3)))


def test_vid():
    widths = [4, 3, 3, 3]
    mean = {f"layer{i + 1}": {"kernel": drawn(*widths[i : i + 2]), "bias": drawn(3)} for i in range(3)}

    def paper(params, student, teacher):
        x = student
        for index, name in enumerate(sorted(params["mean"])):
            x = (x.relu() if index else x) @ params["mean"][name]["kernel"] + params["mean"][name]["bias"]
        variance = functional.softplus(params["variance"]) + 1e-5
        return (0.5 * ((teacher.detach() - x) ** 2 / variance + variance.log())).mean()

    check(distill.vid, paper, {"mean": mean, "variance": drawn(3)}, *maps_pair(teacher=(BATCH, 6, 6, 3)))


def test_activation_boundary():
    def paper(student, teacher):
        below = ((student + 1.5) ** 2) * ((student > -1.5) & (teacher <= 0))
        above = ((student - 1.5) ** 2) * ((student <= 1.5) & (teacher > 0))
        return (below + above).mean()

    check(lambda s, t: distill.activation_boundary(s, t, margin=1.5), paper, *maps_pair())


def test_overhaul_with_the_margins_of_a_normalization():
    scale, bias = np.array([1.0, -0.5, 2.0, 0.1]), np.array([0.3, 0.2, -1.0, 2.0])

    def margin(s, b):
        s = abs(s)
        below = 0.5 * (1 + math.erf(-b / s / math.sqrt(2)))
        if below <= 0.001:
            return -3 * s
        return b - s * math.exp(-((b / s) ** 2) / 2) / math.sqrt(2 * math.pi) / below

    cut = torch.tensor([margin(*pair) for pair in zip(scale, bias, strict=True)])[:, None, None]

    def paper(student, teacher):
        student, teacher = first(student), torch.maximum(first(teacher).detach(), cut)
        counts = (student > teacher) | (teacher > 0)
        return (functional.mse_loss(student, teacher, reduction="none") * counts).mean()

    check(
        lambda s, t: distill.overhaul(s, t, distill.margins(jnp.asarray(scale), jnp.asarray(bias))), paper, *maps_pair()
    )


def batch_normed(x, scale, bias):
    return functional.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)


def connected(layer, x):
    kernel = layer["kernel"].permute(3, 2, 0, 1)
    return batch_normed(functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2), layer["scale"], layer["bias"])


def layer(size, inputs, outputs, seed):
    return {
        "kernel": drawn(size, size, inputs, outputs, seed=seed),
        "scale": 1 + 0.1 * drawn(outputs, seed=seed),
        "bias": drawn(outputs, seed=seed + 50),
    }


def test_connector():
    params = layer(1, 4, 3, 5)

    def paper(params, student, teacher):
        return functional.mse_loss(connected(params, first(student)), first(teacher).detach())

    ours = lambda p, s, t: distill.hint(distill.connect(p, s), t)
    check(ours, paper, params, *maps_pair(teacher=(BATCH, 6, 6, 3)))


def test_factor_transfer():
    chains = {"paraphraser": (5, 5, 2, 2), "translator": (4, 4, 2, 2)}
    encoder, translator = (
        {f"layer{i + 1}": layer(3, *chain[i : i + 2], seed=i) for i in range(3)} for chain in chains.values()
    )

    def factors(params, x):
        for name in sorted(params):
            x = functional.leaky_relu(connected(params[name], x), 0.1)
        return x

    def paper(translator, encoder, student, teacher):
        ours = factors(translator, first(student))
        theirs = functional.adaptive_avg_pool2d(factors(encoder, first(teacher)).detach(), 6)
        ours, theirs = (functional.normalize(x.permute(0, 2, 3, 1).flatten(1)) for x in (ours, theirs))
        return (ours - theirs).abs().mean()

    def ours(translator, encoder, student, teacher):
        return distill.factor_transfer(distill.translated(translator, student), distill.translated(encoder, teacher))

    check(ours, paper, translator, encoder, *maps_pair(teacher=(BATCH, 8, 8, 5)))


def test_reconstruction_by_a_paraphraser():
    params = {
        "encoder": {f"layer{i + 1}": layer(3, *(5, 5, 2, 2)[i : i + 2], seed=i) for i in range(3)},
        "decoder": {f"layer{i + 1}": layer(3, *(2, 2, 5, 5)[i : i + 2], seed=i) for i in range(3)},
    }

    def paper(params, teacher):
        x = first(teacher)
        for part, number in itertools.product(("encoder", "decoder"), (1, 2, 3)):
            x = functional.leaky_relu(connected(params[part][f"layer{number}"], x), 0.1)
        return functional.mse_loss(x, first(teacher))

    with jax.enable_x64(True):
        made = distill.reconstruction(jax.tree.map(jnp.asarray, params), jnp.asarray(drawn(BATCH, 6, 6, 5)))
    expected = paper(jax.tree.map(leaf, params), leaf(drawn(BATCH, 6, 6, 5)))
    np.testing.assert_allclose(np.mean(np.asarray(made)), expected.item(), rtol=TOLERANCE)


def hcl(ours, theirs):
    total, weight, whole = functional.mse_loss(ours, theirs), 1.0, 1.0
    for places in (4, 2, 1):
        if places >= ours.shape[2]:
            continue
        weight /= 2
        pooled = [functional.adaptive_avg_pool2d(x, places) for x in (ours, theirs)]
        total, whole = total + weight * functional.mse_loss(*pooled), whole + weight
    return total / whole


@pytest.mark.parametrize("size", [8, 4, 3])
def test_hierarchical(size):
    shape = (BATCH, size, size, 4)
    check(distill.hierarchical, lambda s, t: hcl(first(s), first(t).detach()), *maps_pair(shape, shape))


def test_review():
    channels, wide = ((3, 4, 5), (6, 7, 8)), 4
    params = {}
    for stage, (inputs, outputs) in enumerate(zip(*channels, strict=True), 1):
        params[f"stage{stage}"] = {"narrow": layer(1, inputs, wide, stage), "out": layer(3, wide, outputs, 9 + stage)}
        if stage < 3:
            params[f"stage{stage}"]["attention"] = {"kernel": drawn(1, 1, 2 * wide, 2, seed=stage), "bias": drawn(2)}
    sizes = (8, 4, 2)
    student, teacher = (
        [drawn(BATCH, n, n, c, seed=seed) for n, c in zip(sizes, chosen, strict=True)]
        for seed, chosen in enumerate(channels)
    )

    def paper(params, student, teacher):
        behind, total = None, 0.0
        for stage in (3, 2, 1):
            layers = params[f"stage{stage}"]
            x = connected(layers["narrow"], first(student[stage - 1]))
            if behind is not None:
                y = functional.interpolate(behind, x.shape[2:], mode="nearest")
                kernel = layers["attention"]["kernel"].permute(3, 2, 0, 1)
                z = functional.conv2d(torch.cat([x, y], 1), kernel, layers["attention"]["bias"]).sigmoid()
                x = x * z[:, :1] + y * z[:, 1:]
            behind = x
            total = total + hcl(connected(layers["out"], x), first(teacher[stage - 1]).detach())
        return total

    check(distill.review, paper, params, student, teacher)


# Relations


def embeddings_pair():
    return drawn(BATCH, 5), drawn(BATCH, 3, 3, seed=1)


def flat(x):
    return x.flatten(1)


def test_rkd_distance():
    def distances(x):
        rows = [torch.stack([(a - b).norm() for b in x]) for a in x]
        found = torch.stack(rows)
        return found / found[~torch.eye(BATCH, dtype=bool)].mean()

    def paper(student, teacher):
        off = ~torch.eye(BATCH, dtype=bool)  # a distance to oneself is 0 in both, and its slope is left out
        ours, theirs = distances_of(student), distances_of(flat(teacher).detach())
        return functional.smooth_l1_loss(ours[off], theirs[off], reduction="sum") / BATCH**2

    def distances_of(x):
        squares = ((x[:, None] - x[None]) ** 2).sum(2)
        off = ~torch.eye(BATCH, dtype=bool)
        found = torch.zeros_like(squares)
        found[off] = squares[off].sqrt()
        return found / found[off].mean()

    np.testing.assert_allclose(distances_of(leaf(drawn(6, 5))).detach(), distances(leaf(drawn(6, 5))).detach())
    check(distill.rkd_distance, paper, *embeddings_pair())


def test_rkd_angle():
    def angles(x):
        directions = functional.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(directions, directions.transpose(1, 2))

    def paper(student, teacher):
        return functional.smooth_l1_loss(angles(student), angles(flat(teacher).detach()))

    check(distill.rkd_angle, paper, *embeddings_pair())


def test_similarity():
    def paper(student, teacher):
        ours, theirs = (functional.normalize(x @ x.T, dim=1) for x in (student, flat(teacher).detach()))
        return (ours - theirs).pow(2).sum() / BATCH**2

    check(distill.similarity, paper, *embeddings_pair())


def test_correlation_congruence():
    def kernel(x):
        x = functional.normalize(x, dim=1)
        terms = [math.exp(-0.8) * 0.8**p / math.factorial(p) * (x @ x.T) ** p for p in range(3)]
        return terms[0] + terms[1] + terms[2]

    def paper(student, teacher):
        return (kernel(student) - kernel(flat(teacher).detach())).pow(2).sum() / BATCH**2

    check(distill.correlation_congruence, paper, *embeddings_pair())


def test_the_expansion_of_correlations_goes_to_the_gaussian_kernel():
    x = torch.nn.functional.normalize(torch.tensor(drawn(BATCH, 5)), dim=1)
    y = torch.nn.functional.normalize(torch.tensor(drawn(BATCH, 5, seed=1)), dim=1)
    exact = [torch.exp(-0.4 * torch.cdist(a, a) ** 2) for a in (x, y)]
    with jax.enable_x64(True):
        made = distill.correlation_congruence(*(jnp.asarray(a.numpy()) for a in (x, y)), gamma=0.4, order=14)
    np.testing.assert_allclose(np.mean(np.asarray(made)), (exact[0] - exact[1]).pow(2).mean().item(), rtol=1e-6)


def test_pkt():
    def near(x):
        x = x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-7)
        found = (x @ x.T + 1) / 2
        return found / found.sum(1, keepdim=True)

    def paper(student, teacher):
        ours, theirs = near(student), near(flat(teacher).detach())
        return (theirs * ((theirs + 1e-7) / (ours + 1e-7)).log()).mean()

    check(distill.pkt, paper, *embeddings_pair())


# Contrast


@pytest.mark.parametrize("constants", [(-1.0, -1.0), (40.0, 90.0)])
def test_crd_and_the_memory_after_it(constants):
    examples, features = 20, 5
    bank = [
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (drawn(examples, features), drawn(examples, 5, seed=1))
    ]
    chosen, others = np.arange(BATCH) * 3, np.random.default_rng(3).integers(0, examples, (BATCH, 8))
    compared = torch.tensor(np.concatenate([chosen[:, None], others], 1))

    def estimation(outputs):
        noise = 8 / examples
        own = (outputs[:, 0] / (outputs[:, 0] + noise + 1e-7)).log()
        rest = (noise / (outputs[:, 1:] + noise + 1e-7)).log()
        return -(own.sum() + rest.sum()) / BATCH

    def paper(student, teacher):
        student, teacher = (x / x.norm(dim=1, keepdim=True) for x in (student, teacher))
        total = 0.0
        for memory, given, constant in ((bank[1], student, constants[0]), (bank[0], teacher, constants[1])):
            outputs = (torch.tensor(memory)[compared] @ given[:, :, None]).squeeze(2).div(0.07).exp()
            outputs = outputs / (constant if constant > 0 else outputs.mean().item() * examples)
            total = total + estimation(outputs)
        return total

    def state():
        return distill.Memory(*map(jnp.asarray, bank), *map(jnp.asarray, constants))

    pair = drawn(BATCH, features, seed=2), drawn(BATCH, features, seed=3)
    check(lambda s, t: distill.crd(state(), s, t, jnp.asarray(chosen), jnp.asarray(others))[0], paper, *pair)
    with jax.enable_x64(True):
        moved = distill.crd(state(), *map(jnp.asarray, pair), jnp.asarray(chosen), jnp.asarray(others))[1]
    for ours, old, new in zip(moved[:2], bank, pair, strict=True):
        wanted = old.copy()
        wanted[chosen] = 0.5 * old[chosen] + 0.5 * new / np.linalg.norm(new, axis=1, keepdims=True)
        np.testing.assert_allclose(ours, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-12)


def test_in_batch():
    def paper(student, teacher):
        outputs = functional.normalize(student) @ functional.normalize(teacher).T / 0.1
        return functional.cross_entropy(outputs, torch.arange(BATCH))

    check(lambda s, t: distill.in_batch(s, t, temperature=0.1), paper, drawn(BATCH, 5), drawn(BATCH, 5, seed=1))


# Without a trained teacher


def test_mutual():
    def paper(*logits):
        total = 0.0
        for own, other in itertools.permutations(range(3), 2):
            p, q = functional.softmax(logits[other].detach(), 1), functional.log_softmax(logits[own], 1)
            total = total + functional.kl_div(q, p, reduction="batchmean") / 2
        return total / 3

    check(lambda *a: distill.online.mutual(a), paper, *(drawn(BATCH, CLASSES, seed=seed) for seed in range(3)))


def test_ensemble_of_branches():
    def paper(gate, *branches):
        weights = functional.softmax(gate, 1)
        teacher = sum(weights[:, i : i + 1] * branch for i, branch in enumerate(branches)).detach()
        soft = functional.softmax(teacher / 3, 1)
        losses = [
            9 * functional.kl_div(functional.log_softmax(b / 3, 1), soft, reduction="batchmean") for b in branches
        ]
        return sum(losses) / len(losses)

    branches = [drawn(BATCH, CLASSES, seed=seed) for seed in range(3)]
    check(lambda gate, *b: distill.online.ensemble(gate, b), paper, drawn(BATCH, 3), *branches)


def test_own_teacher():
    def paper(*exits):
        soft = functional.softmax(exits[-1].detach() / 3, 1)
        losses = [
            9 * functional.kl_div(functional.log_softmax(e / 3, 1), soft, reduction="batchmean") for e in exits[:-1]
        ]
        return sum(losses) / len(losses)

    check(lambda *e: distill.online.own_teacher(e), paper, *(drawn(BATCH, CLASSES, seed=seed) for seed in range(3)))


def test_averaged_teachers():
    def paper(student, *teachers):
        soft = sum(functional.softmax(t.detach() / 4, 1) for t in teachers) / len(teachers)
        return 16 * functional.kl_div(functional.log_softmax(student / 4, 1), soft, reduction="batchmean")

    ours = lambda s, *t: distill.kd(s, distill.online.averaged(t, 4.0), 4.0)
    check(ours, paper, *(drawn(BATCH, CLASSES, seed=seed) for seed in range(3)))


# Without data


def test_statistics_of_normalizations():
    running = {"bn1": (drawn(4), np.abs(drawn(4, seed=1))), "bn2": (drawn(5), np.abs(drawn(5, seed=1)))}

    def paper(one, two):
        total = 0.0
        for name, x in (("bn1", first(one)), ("bn2", first(two))):
            mean, variance = x.mean([0, 2, 3]), x.permute(1, 0, 2, 3).reshape(x.shape[1], -1).var(1, unbiased=False)
            total = total + (mean - torch.tensor(running[name][0])).norm(2)
            total = total + (variance - torch.tensor(running[name][1])).norm(2)
        return total

    def ours(one, two):
        expected = jax.tree.map(jnp.asarray, running)
        return distill.data_free.normalization(distill.data_free.statistics({"bn1": one, "bn2": two}), expected)

    check(ours, paper, drawn(BATCH, 6, 6, 4), drawn(BATCH, 3, 3, 5))


def test_total_variation():
    def paper(images):
        x = first(images)
        pairs = [
            x[:, :, :, :-1] - x[:, :, :, 1:],
            x[:, :, :-1, :] - x[:, :, 1:, :],
            x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
            x[:, :, :-1, :-1] - x[:, :, 1:, 1:],
        ]
        return sum(torch.norm(pair) for pair in pairs)

    check(distill.data_free.total_variation, paper, drawn(BATCH, 6, 6, 3))


def test_competition():
    def paper(student, teacher):
        q, p = functional.softmax(student, 1), functional.softmax(teacher, 1)
        middle = (0.5 * (p + q)).log()
        halves = [functional.kl_div(middle, x, reduction="batchmean") for x in (p, q)]
        return 1 - 0.5 * (halves[0] + halves[1])

    check(distill.data_free.competition, paper, *logits_pair())


def test_losses_of_a_generator():
    def paper(teacher, features):
        labels = teacher.argmax(1)
        mean = functional.softmax(teacher, 1).mean(0)
        return functional.cross_entropy(teacher, labels) - features.abs().mean() + (mean * mean.log()).sum()

    def ours(teacher, features):
        free = distill.data_free
        return free.one_hot(teacher) + free.activation(features) + free.balance(teacher)

    check(ours, paper, logits_pair()[1], drawn(BATCH, 3, 3, 4))


def test_disagreement():
    def paper(student, teacher):
        return -functional.kl_div(
            functional.log_softmax(student, 1), functional.softmax(teacher, 1), reduction="batchmean"
        )

    check(distill.data_free.disagreement, paper, *logits_pair())
