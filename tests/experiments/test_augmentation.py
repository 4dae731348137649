"""Augmented images are those given, moved or mirrored, by their key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.augmentation import Views, augmented, flipped, moved

KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).integers(1, 256, (40, 6, 5, 3), np.uint8)


def test_an_image_is_mirrored_or_left():
    out = np.asarray(flipped(IMAGES, KEY))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(out, IMAGES, strict=True)]
    left = [np.array_equal(a, b) for a, b in zip(out, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert 10 < sum(mirrored) < 30


@pytest.mark.parametrize("pixels", [2, 4])
def test_an_image_is_moved_by_up_to_so_many_pixels(pixels):
    margin, width = (pixels, pixels), 2 * pixels + 1
    out, around = np.asarray(moved(IMAGES, KEY, pixels=pixels)), np.pad(IMAGES, ((0, 0), margin, margin, (0, 0)))
    seen = set()
    for image, wide in zip(out, around, strict=True):
        places = [
            (y, x) for y in range(width) for x in range(width) if np.array_equal(image, wide[y : y + 6, x : x + 5])
        ]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 15 and {y for y, _ in seen} == {x for _, x in seen} == set(range(width))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_methods_follow_one_another_by_keys_of_their_own(dtype):
    images = jnp.asarray(IMAGES.astype(dtype))
    out = jax.jit(lambda images, key: augmented(images, key, ("flip", "crop")))(images, KEY)
    keys = [jax.random.fold_in(KEY, i) for i in range(2)]
    np.testing.assert_array_equal(out, moved(flipped(images, keys[0]), keys[1], pixels=4))
    assert out.dtype == dtype and out.shape == images.shape
    assert not np.array_equal(out, augmented(images, jax.random.key(4), ("flip", "crop")))
    np.testing.assert_array_equal(augmented(images, KEY, ()), images)
    jittered = augmented(images, KEY, ("jitter",))
    np.testing.assert_array_equal(jittered, moved(images, keys[0], pixels=2))


def test_a_view_of_an_image_hangs_on_its_place_alone():
    views = Views(("crop", "flip"), 3, KEY)
    rows = np.arange(len(IMAGES))
    whole = [np.asarray(views.of(IMAGES, rows, view)) for view in range(3)]
    for view, images in enumerate(whole):
        np.testing.assert_array_equal(views.of(IMAGES[7:3:-1], rows[7:3:-1], view), images[7:3:-1])
    differ = [np.mean(np.any(whole[0] != other, axis=(1, 2, 3))) for other in whole[1:]]
    assert min(differ) > 0.9
