"""RandAugment (Cubuk et al., 2020): operations drawn at random, of about one strength, one after the other.

Operations, number and strengths are those of KerasCV's `RandAugment`: three of ten operations, each left out once in
eleven times, of strength 0.5 with a standard deviation of 0.15. KerasCV's own draws numbers that no seed fixes, so that
a run could not be continued with the same images.
"""

import numpy as np

COUNT, SHARE, MEAN, DEVIATION = 3, 10 / 11, 0.5, 0.15


def rand_augment(image, rng):
    """Return an image `(height, width, 3)` in uint8, changed by operations that `rng` draws."""
    for _ in range(COUNT):
        if rng.random() < SHARE:
            image = OPERATIONS[rng.integers(len(OPERATIONS))](image, rng)
    return image


def _strength(rng):
    return np.clip(rng.normal(MEAN, DEVIATION), 0, 1)


def _signed_strength(rng):
    return _strength(rng) * rng.choice([-1, 1])


def _auto_contrast(image, rng):
    # Optional.
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.autocontrast(Image.fromarray(image)))


def _equalize(image, rng):
    # Optional.
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def _solarize(image, rng):
    values = np.clip(np.arange(256) + 110 * _strength(rng), 0, 255)
    return np.where(values < 255 * (1 - _strength(rng)), values, 255 - values).astype("uint8")[image]


def _less_colour(image, rng):
    # Optional.
    from PIL import Image, ImageEnhance

    return np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(1 - _strength(rng)))


def _contrast(image, rng):
    # Optional.
    from PIL import Image, ImageEnhance

    return np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(rng.uniform(1 - MEAN, 1 + MEAN)))


def _brightness(image, rng):
    return np.clip(np.arange(256) + 255 * rng.uniform(-MEAN, MEAN), 0, 255).astype("uint8")[image]


def _shear_x(image, rng):
    height, width, _ = image.shape
    rows = np.arange(height)[:, None]
    shift = _signed_strength(rng) * (rows - (height - 1) / 2)
    return image[rows, _reflected(np.arange(width) + shift, width)]


def _translate_x(image, rng):
    width = image.shape[1]
    return image[:, _reflected(np.arange(width) + width * rng.uniform(-MEAN, MEAN), width)]


def _shear_y(image, rng):
    return _shear_x(image.swapaxes(0, 1), rng).swapaxes(0, 1)


def _translate_y(image, rng):
    return _translate_x(image.swapaxes(0, 1), rng).swapaxes(0, 1)


def _reflected(positions, length):
    """Return the nearest positions in an image that is continued by its mirror images."""
    positions = np.rint(positions).astype(int) % (2 * length)
    return np.minimum(positions, 2 * length - 1 - positions)


OPERATIONS = [_auto_contrast, _equalize, _solarize, _less_colour, _contrast, _brightness]
OPERATIONS += [_shear_x, _shear_y, _translate_x, _translate_y]
