"""Data parallelism: two devices train as one does."""

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
print("alike", len(losses))
"""


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no data parallelism of its own on torch")
def test_two_devices_train_as_one_does():
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
        [sys.executable, "-c", TWO_DEVICES.replace("{losses}", losses)], capture_output=True, text=True, env=environment
    )

    assert 0 == result.returncode, result.stderr
    assert result.stdout.endswith("alike 6\n")
