"""Several devices train as one does; several processes: `test_workers.py`."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

BACKEND = keras.config.backend()
TWO_DEVICES = """
import contextlib
import numpy as np
import keras
if keras.config.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_ban

def step(loss):
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, kernel_initializer="zeros", name="out")])
    arguments, targets = {"distillation_loss": loss}, {"labels": y, "soft_targets": teacher}
    if isinstance(loss, keras_ban.FeatureMatching):
        # What is matched is the output, through a projection.
        same = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="out"), keras.layers.Dense(3)])
        same.set_weights(fixed)
        arguments, targets = {"teacher": same, "feature_matching": loss}, y
    model = keras_ban.Distiller(student=student, label_weight=0, **arguments)
    for projection in model.projections.values():
        projection.set_weights([np.eye(3, 6)])
    model.compile(keras.optimizers.SGD(0.5))
    logs = model.fit(x, targets, batch_size=32, shuffle=False, verbose=0).history
    return student.get_weights()[0], logs["loss"][0]

rng = np.random.default_rng(0)
x, y = rng.standard_normal((32, 8)).astype("float32"), rng.integers(0, 3, 32)
# The first half is taught with far more confidence than the second.
teacher = (rng.standard_normal((32, 3)) * np.repeat([5.0, 0.5], 16)[:, None]).astype("float32")
fixed = [rng.standard_normal(shape) for shape in ((8, 6), (6,), (6, 3), (3,))]
losses = {losses}
alone = [step(loss) for loss in losses]
if keras.config.backend() == "tensorflow":
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        together = [step(loss) for loss in losses]
else:
    import jax
    assert len(jax.devices()) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    together = [step(loss) for loss in losses]
for (expected, expected_loss), (actual, actual_loss) in zip(alone, together, strict=True):
    np.testing.assert_allclose(actual, expected, atol=1e-6)  # float32, and sums in another order
    np.testing.assert_allclose(actual_loss, expected_loss, rtol=1e-5)
# Each replica permutes its own examples, so there is no single device to compare with.
with strategy.scope() if keras.config.backend() == "tensorflow" else contextlib.nullcontext():
    weights, loss = step(keras_ban.losses.PermutedDarkKnowledge(seed=1))
assert np.isfinite(weights).all() and np.isfinite(loss) and weights.any()
if keras.config.backend() == "tensorflow":
    # Each replica answers to the whole of a batch that is predicted: soft targets must have each row once.
    with strategy.scope():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
        sequence = keras_ban.BornAgainSequence(model, generations=1, directory="run", seed=1, keep_soft_targets=True)
        sequence.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        sequence.fit(x, y, batch_size=16, epochs=1, verbose=0)
    expected = x @ sequence.models[0].get_weights()[0] + sequence.models[0].get_weights()[1]
    np.testing.assert_allclose(np.load("run/soft-targets-00.npy"), expected, atol=1e-5)
print("alike", len(losses))
"""


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no data parallelism of its own on torch")
def test_two_devices_train_as_one_does(tmp_path):
    losses = """[
        keras_ban.losses.ConfidenceWeighted(),
        keras_ban.losses.KnowledgeDistillation(temperature=2.0),
        # Of keras.distillation, one that Keras scales by the number of replicas and one that it does not.
        keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence()),
        keras.distillation.LogitsDistillation(loss="mse"),
        keras_ban.FeatureMatching(["out"], "mse"),
        keras_ban.FeatureMatching(["out"], keras.losses.MeanAbsoluteError()),
    ]"""
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent.parent)}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

    result = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES.replace("{losses}", losses)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )

    assert 0 == result.returncode, result.stderr
    assert result.stdout.endswith("alike 6\n")


FOUR_DEVICES = """
import numpy as np
import jax
import keras
import keras_ban

def models():
    keras.utils.set_random_seed(0)
    def layers(role):
        return keras.layers.Dense(16, "relu", name=f"{role}_wide"), keras.layers.Dense(3, name=f"{role}_out")

    return [keras.Sequential([keras.Input((8,)), *layers(role)], name=role) for role in ("teacher", "student")]

def train():
    teacher, student = models()
    model = keras_ban.Distiller(
        student=student, teacher=teacher, distillation_loss=keras_ban.losses.ConfidenceWeighted()
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss, metrics=["accuracy"])
    logs = model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
    return logs, student, teacher

rng = np.random.default_rng(0)
x, y = rng.standard_normal((40, 8)).astype("float32"), rng.integers(0, 3, 40)
expected, alone, _ = train()

devices = keras.distribution.list_devices()
assert len(devices) == 4
layout = keras.distribution.LayoutMap(keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices))
layout[".*student_wide.*kernel"] = (None, "model")
layout[".*teacher_wide.*kernel"] = ("model", None)
ways = [keras.distribution.DataParallel(), keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")]
for way in ways:
    keras.distribution.set_distribution(way)
    logs, student, teacher = train()
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)
    for one, other in zip(student.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # float32, and sums in another order
spec = jax.sharding.PartitionSpec
assert student.layers[0].kernel.value.sharding.spec == spec(None, "model")
assert teacher.layers[0].kernel.value.sharding.spec == spec("model", None)
assert student.layers[0].kernel.value.addressable_shards[0].data.shape == (8, 8)

keras.distribution.set_distribution(ways[0])
x, y = x[:38], y[:38]
try:
    train()
except ValueError as error:
    assert "over 4 devices, but the last batch of each epoch, of 6 examples, does not divide" in str(error), error
else:
    raise AssertionError("Six examples were divided by four.")
print("alike on four")
"""


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="layouts of variables are JAX's")
def test_four_devices_train_as_one_does_whole_models_on_each_or_their_kernels_spread():
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent.parent)}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

    result = subprocess.run([sys.executable, "-c", FOUR_DEVICES], capture_output=True, text=True, env=environment)

    assert 0 == result.returncode, result.stderr
    assert result.stdout.endswith("alike on four\n")
