"""`examples/small_models.py`: the weights of its architectures, and that they learn."""

import itertools

import keras
import numpy as np
import pytest
import small_models
from helpers.models import crossentropy

pytestmark = pytest.mark.one_backend


def trainable(build, *arguments, **options):
    """How many trainable weights the model has, from their shapes: in a `StatelessScope` none are drawn."""
    with keras.StatelessScope(initialize_variables=False):
        model = build(*arguments, **options)
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    "name, depth, width, classes, published, told",
    [
        # The Born-Again paper, table 1, of 100 classes (36M is 36.5M in Zagoruyko & Komodakis).
        ("wide_resnet", 28, 1, 100, "0.38", "| {:,} |"),
        ("wide_resnet", 28, 2, 100, "1.48", "| {:,} |"),
        ("wide_resnet", 28, 5, 100, "9.16", "| {:,} |"),
        ("wide_resnet", 28, 10, 100, "36.5", "| {:,} |"),
        # DenseNet-BC: Huang et al., table 2, of 10 classes.
        ("densenet", 100, 12, 10, "0.8", "{:,} for 100-12 (0.8M)"),
        ("densenet", 190, 40, 10, "25.6", "{:,} for 190-40 (25.6M)"),
    ],
)
def test_models_have_the_weights_that_papers_state_in_millions(name, depth, width, classes, published, told):
    build = getattr(small_models, name)
    weights = trainable(build, depth, width, classes=classes)

    digits = len(published.partition(".")[2])
    assert published == f"{weights / 1e6:.{digits}f}"
    assert told.format(weights) in build.__doc__


@pytest.mark.parametrize(
    "depth, growth, published, difference",
    # The Born-Again paper, table 1, in millions, and how far off the same architecture is.
    [(112, 33, 6.3, "+10.9%"), (90, 60, 16.1, "-5.7%"), (80, 80, 22.4, "-5.8%"), (80, 120, 50.4, "-6.2%")],
)
def test_the_docstring_tells_how_far_densenets_are_from_the_born_again_papers(depth, growth, published, difference):
    weights = trainable(small_models.densenet, depth, growth, classes=100)

    assert difference == f"{weights / 1e6 / published - 1:+.1%}"
    assert f"| {weights:,} | {published}M | {difference} |" in small_models.densenet.__doc__


def test_a_resnet_has_the_weights_of_its_convolutions_normalizations_and_head():
    # A stack of two blocks from a to b filters; a normalization has 2 trainable weights for each filter.
    def stack(a, b):
        return 9 * a * b + 3 * 9 * b * b + a * b + 4 * 2 * b

    expected = 27 * 16 + 2 * 16 + stack(16, 16) + stack(16, 32) + stack(32, 64) + 64 * 10 + 10

    assert expected == trainable(small_models.resnet, strides=(2, 2, 2))
    # The first block keeps the shape, and needs no convolution for its shortcut.
    assert expected - 16 * 16 == trainable(small_models.resnet)
    for weights in (expected, expected - 16 * 16):
        assert f"{weights:,}" in small_models.resnet.__doc__


@pytest.mark.parametrize(
    "name, arguments",
    [
        # Compiling these takes long on JAX.
        pytest.param("wide_resnet", {"depth": 10, "width": 1, "dropout": 0.3}, marks=pytest.mark.slow),
        pytest.param("densenet", {"depth": 10, "growth": 4}, marks=pytest.mark.slow),
        # Not narrower: convolutions of four channels corrupt torch's memory on some processors, in one thread.
        ("resnet", {"widths": (8, 16), "blocks": 1, "strides": (2, 1)}),
    ],
)
def test_each_model_gives_logits_and_learns(name, arguments):
    model = getattr(small_models, name)(**arguments, input_shape=(8, 8, 1), classes=3)
    rng = np.random.default_rng(0)
    y = np.arange(12) % 3
    # A class is a bright column.
    x = 0.3 * rng.standard_normal((12, 8, 8, 1)).astype("float32")
    x[np.arange(12), :, 2 * y] += 2.0
    model.compile(keras.optimizers.SGD(0.1), crossentropy())

    losses = model.fit(x, y, epochs=8, batch_size=12, verbose=0).history["loss"]

    assert (None, 3) == model.output_shape
    assert keras.activations.linear is model.layers[-1].activation
    assert losses[-1] < 0.8 * losses[0]


def test_layers_of_one_shape_do_not_begin_with_the_same_weights():
    model = small_models.resnet(widths=(16, 16), strides=(1, 1), blocks=1, input_shape=(8, 8, 3))
    kernels = [keras.ops.convert_to_numpy(w.value) for w in model.trainable_weights if w.shape == (3, 3, 16, 16)]

    assert 4 == len(kernels)
    assert all(np.abs(first - second).max() > 0.01 for first, second in itertools.pairwise(kernels))
    # He et al.'s for the filters that leave: sqrt(2 / (3 * 3 * 16)); 4 * 2,304 draws are within 4%.
    np.testing.assert_allclose(np.std(kernels), np.sqrt(2 / 144), rtol=0.04)


def test_depths_that_no_model_has_are_refused():
    with pytest.raises(ValueError, match=r"`depth` must be 6 \* n \+ 4 .*, received: 20"):
        small_models.wide_resnet(20, 1)
    with pytest.raises(ValueError, match="`depth` must be 10 or more, received: 9"):
        small_models.densenet(9, 12)
    with pytest.raises(ValueError, match="`widths` and `strides` must be of the same length, received: 3 and 2"):
        small_models.resnet(strides=(1, 2))
