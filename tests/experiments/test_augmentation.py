"""Augmented images are those given, moved or mirrored, by their key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.augmentation import augmented, cropped, flipped

KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).integers(1, 256, (40, 6, 5, 3), np.uint8)


def test_an_image_is_mirrored_or_left():
    out = np.asarray(flipped(IMAGES, KEY))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(out, IMAGES, strict=True)]
    left = [np.array_equal(a, b) for a, b in zip(out, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert 10 < sum(mirrored) < 30


def test_an_image_is_moved_by_up_to_four_pixels():
    out, around = np.asarray(cropped(IMAGES, KEY)), np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    moved = set()
    for image, wide in zip(out, around, strict=True):
        places = [(y, x) for y in range(9) for x in range(9) if np.array_equal(image, wide[y : y + 6, x : x + 5])]
        assert len(places) == 1
        moved |= set(places)
    assert len(moved) > 20 and {y for y, _ in moved} == {x for _, x in moved} == set(range(9))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_methods_follow_one_another_by_keys_of_their_own(dtype):
    images = jnp.asarray(IMAGES.astype(dtype))
    out = jax.jit(lambda images, key: augmented(images, key, ("flip", "crop")))(images, KEY)
    keys = [jax.random.fold_in(KEY, i) for i in range(2)]
    np.testing.assert_array_equal(out, cropped(flipped(images, keys[0]), keys[1]))
    assert out.dtype == dtype and out.shape == images.shape
    assert not np.array_equal(out, augmented(images, jax.random.key(4), ("flip", "crop")))
    np.testing.assert_array_equal(augmented(images, KEY, ()), images)
