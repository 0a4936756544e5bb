"""Several devices train as one does; several processes: `test_workers.py`."""

import os

import keras
import numpy as np
import pytest
from helpers.models import crossentropy
from helpers.processes import run

import keras_ban
from keras_ban.losses import ConfidenceWeighted, KnowledgeDistillation, PermutedDarkKnowledge

BACKEND = keras.config.backend()
pytestmark = pytest.mark.new_process
SGD = keras.optimizers.SGD


def on_devices(count, function, folder):
    """Run `function` in a process that sees so many devices: a process cannot change their number later."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    result = run(function, environment={"XLA_FLAGS": flags}, directory=folder)

    assert (0, "alike\n") == (result.returncode, result.stdout[-6:]), result.stderr


def examples(count):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((count, 8)).astype("float32"), rng.integers(0, 3, count)
    # The first half is taught with far more confidence than the second.
    teacher = rng.standard_normal((count, 3)) * np.repeat([5.0, 0.5], count // 2)[:, None]
    return x, y, teacher.astype("float32")


def model(outputs=("out",), hidden=None):
    inputs = keras.Input((8,))
    features = inputs if hidden is None else keras.layers.Dense(hidden, name="out")(inputs)
    zeros = {"kernel_initializer": "zeros"} if hidden is None else {}
    heads = [keras.layers.Dense(3, **zeros, name=name if hidden is None else "top")(features) for name in outputs]
    return keras.Model(inputs, heads if len(heads) > 1 else heads[0])


def step(losses):
    """The weights after a step, and the loss."""
    x, y, teacher = examples(32)
    losses = losses if isinstance(losses, list) else [losses]
    student, arguments = model([f"out_{i}" for i in range(len(losses))]), {"distillation_loss": losses}
    targets = {"labels": [y] * len(losses), "soft_targets": [teacher] * len(losses)}
    if len(losses) == 1:
        targets, arguments = {"labels": y, "soft_targets": teacher}, {"distillation_loss": losses[0]}
    if isinstance(losses[0], keras_ban.FeatureMatching):
        # What is matched is the output, through a projection.
        student, targets = model(), y
        arguments = {"teacher": model(hidden=6), "feature_matching": losses[0]}
        rng = np.random.default_rng(1)
        arguments["teacher"].set_weights([rng.standard_normal(shape) for shape in ((8, 6), (6,), (6, 3), (3,))])
    distiller = keras_ban.Distiller(student=student, label_weight=0, **arguments)
    for projection in distiller.projections.values():
        projection.set_weights([np.eye(3, 6)])
    distiller.compile(SGD(0.5))
    logs = distiller.fit(x, targets, batch_size=32, shuffle=False, verbose=0).history
    return student.get_weights(), logs["loss"][0]


def two_devices():
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    cases = [
        # Of keras.distillation, one that Keras scales by the number of replicas and one that it does not.
        [
            ConfidenceWeighted(),
            KnowledgeDistillation(temperature=2.0),
            keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence()),
            keras.distillation.LogitsDistillation(loss="mse"),
        ],
        keras_ban.FeatureMatching(["out"], "mse"),
        keras_ban.FeatureMatching(["out"], keras.losses.MeanAbsoluteError()),
    ]
    alone = [step(case) for case in cases]
    if BACKEND == "tensorflow":
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert 2 == strategy.num_replicas_in_sync
        with strategy.scope():
            compare_two(alone, cases)
            compare_soft_targets()
    else:
        import jax

        assert 2 == len(jax.devices())
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        compare_two(alone, cases)
    print("alike")


def compare_two(alone, cases):
    for (expected, expected_loss), (actual, actual_loss) in zip(alone, map(step, cases), strict=True):
        for e, a in zip(expected, actual, strict=True):
            np.testing.assert_allclose(a, e, atol=1e-6)  # float32, and sums in another order
        np.testing.assert_allclose(actual_loss, expected_loss, rtol=1e-5)
    # Each replica permutes its own examples, so there is no single device to compare with.
    weights, loss = step(PermutedDarkKnowledge(seed=1))
    assert all(np.isfinite(each).all() for each in weights) and np.isfinite(loss) and weights[0].any()


def compare_soft_targets():
    """Each replica answers to the whole of a batch that is predicted: soft targets must have each row once."""
    x, y, _ = examples(32)
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    sequence = keras_ban.BornAgainSequence(student, generations=1, directory="run", seed=1, keep_soft_targets=True)
    sequence.compile("adam", crossentropy())
    sequence.fit(x, y, batch_size=16, epochs=1, verbose=0)
    kernel, bias = sequence.models[0].get_weights()
    np.testing.assert_allclose(np.load("run/soft-targets-00.npy"), x @ kernel + bias, atol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no data parallelism of its own on torch")
def test_two_devices_train_as_one_does(tmp_path):
    on_devices(2, two_devices, tmp_path)


def train_wide(x, y):
    keras.utils.set_random_seed(0)
    teacher, student = (
        keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(16, "relu", name=f"{role}_wide"),
                keras.layers.Dense(3, name=f"{role}_out"),
            ],
            name=role,
        )
        for role in ("teacher", "student")
    )
    distiller = keras_ban.Distiller(student=student, teacher=teacher, distillation_loss=ConfidenceWeighted())
    distiller.compile(SGD(0.5, momentum=0.9), crossentropy(), metrics=["accuracy"])
    logs = distiller.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    return logs, student, teacher


def four_devices():
    import jax
    from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel, list_devices

    x, y, _ = examples(40)
    expected, alone, _ = train_wide(x, y)
    devices = list_devices()
    assert 4 == len(devices)
    layout = LayoutMap(DeviceMesh((2, 2), ["batch", "model"], devices))
    layout[".*student_wide.*kernel"] = (None, "model")
    layout[".*teacher_wide.*kernel"] = ("model", None)
    ways = [DataParallel(), ModelParallel(layout_map=layout, batch_dim_name="batch")]
    for way in ways:
        keras.distribution.set_distribution(way)
        logs, student, teacher = train_wide(x, y)
        for name in expected:
            np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)
        for one, other in zip(student.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)  # float32, and sums in another order
    spec = jax.sharding.PartitionSpec
    assert spec(None, "model") == student.layers[0].kernel.value.sharding.spec
    assert spec("model", None) == teacher.layers[0].kernel.value.sharding.spec
    assert (8, 8) == student.layers[0].kernel.value.addressable_shards[0].data.shape

    keras.distribution.set_distribution(ways[0])
    message = "over 4 devices, but the last batch of each epoch, of 6 examples, does not divide"
    with pytest.raises(ValueError, match=message):
        train_wide(x[:38], y[:38])
    print("alike")


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="layouts of variables are JAX's")
def test_four_devices_train_as_one_does_whole_models_on_each_or_their_kernels_spread(tmp_path):
    on_devices(4, four_devices, tmp_path)
