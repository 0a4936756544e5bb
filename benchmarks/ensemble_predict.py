"""Time `EnsembleModel.predict` against a `predict` of each member, and against members stacked into one.

    python benchmarks/ensemble_predict.py --backend jax
    python benchmarks/ensemble_predict.py --backend jax --quick      # does it run? The figures mean nothing.

Four ways to the same average of `--members` models of one architecture:

- separate: `member.predict` for each, averaged by NumPy. The sum of single costs is this without the averaging.
- ensemble: `EnsembleModel(members).predict`, one graph (on torch, which compiles nothing unless asked to, one loop).
- stacked: each weight of the members is stacked on a new leading axis inside the graph, and one member is mapped over
  it by `keras.ops.vectorized_map`. The members are held, as `EnsembleModel` holds them.
- stacked once: the same, stacked beforehand. Holds every weight twice, and no longer sees a member's training.

All ways take turns in one process, in an order drawn anew each round; what is shown is the median over the rounds of
the ratio within a round. The first call, which compiles, is told apart. CPU time counts every thread of the process.
"""

import argparse
import os
import platform
import textwrap
import time

import numpy as np
from _figures import versions
from rich.console import Console
from rich.table import Table
from rich.text import Text

CLASSES = 10
WAYS = ("separate", "singles", "ensemble", "stacked", "stacked once")
RATIOS = (("separate", "ensemble"), ("singles", "ensemble"), ("ensemble", "stacked"), ("ensemble", "stacked once"))
# What runs a batch, by the model's `jit_compile`.
GRAPHS = {
    "tensorflow": {False: "tf.function", True: "XLA"},
    "jax": {False: "none", True: "jit"},
    "torch": {False: "none", True: "torch.compile"},
}


def main():
    arguments = parse_arguments()
    os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    ratios = Table(title=f"{arguments.members} members on {arguments.backend}: CPU time (wall time), medians of ratios")
    seconds = Table(title="CPU milliseconds of a call (wall seconds of the first call, which compiles), medians")
    for table, columns in ((ratios, [f"{slow} / {fast}" for slow, fast in RATIOS]), (seconds, WAYS)):
        for column in ("model", "graph", "batch size", *columns):
            table.add_column(column, justify="left" if column == "model" else "right")
    failures = {}  # Each once, whatever the batch size, in their order.
    for name in arguments.models:
        for batch_size in arguments.batch_sizes:
            keras.utils.set_random_seed(arguments.seed)
            ways, graph, x = prepare(name, batch_size, arguments)
            first_calls, broken = warm_up(ways, x, batch_size)
            failures |= {f"{name}, {way}: {error}": None for way, error in broken.items()}
            rounds = measure(ways, x, batch_size, arguments)
            label = (name, graph, str(batch_size))
            ratios.add_row(*label, *[ratio(rounds, slow, fast) for slow, fast in RATIOS])
            seconds.add_row(*label, *[milliseconds(rounds, first_calls, way) for way in WAYS])
            keras.utils.clear_session()
    console = Console(width=140)
    console.print(ratios)
    console.print(seconds)
    for failure in failures:
        print("failed:", failure)
    print("rounds", arguments.rounds, "| batches a call", arguments.batches, "| seed", arguments.seed)
    ran_on = [f"{name} {version}" for name, version in versions(arguments.backend).items()]
    threads = f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    print(*ran_on, "|", platform.platform(), "|", os.cpu_count(), "CPUs,", threads)


def prepare(name, batch_size, arguments):
    """`(ways, graph, x)`: what to time by its name, what Keras makes of a call, and the data."""
    import keras

    import keras_ban

    first = BUILDERS[name]()
    members = [first, *[keras_ban.reborn(first) for _ in range(arguments.members - 1)]]
    rng = np.random.default_rng(arguments.seed)
    for member in members:
        # BatchNorm begins with means of 0 and variances of 1, which no trained member has.
        for variable in member.non_trainable_weights:
            variable.assign(variable + rng.uniform(0, 0.1, variable.shape))
    ensemble = keras_ban.EnsembleModel(members)
    stacked_model = stacking_model()
    ways = {
        "separate": members,
        "ensemble": [ensemble],
        "stacked": [stacked_model(members)],
        "stacked once": [stacked_model(members, once=True)],
    }
    x = rng.standard_normal((batch_size * arguments.batches, *first.input_shape[1:])).astype("float32")
    if arguments.jit_compile is not None:
        for model in [model for models in ways.values() for model in models]:
            model.compile(jit_compile=arguments.jit_compile)
    return ways, GRAPHS[keras.backend.backend()][ensemble.jit_compile], x


def stacking_model():
    """The class of the experiment; inside a function, because Keras is not imported before its backend is chosen."""
    import keras
    from keras import ops

    class StackedModel(keras.Model):
        def __init__(self, members, once=False):
            super().__init__()
            lists = [[*member.trainable_variables, *member.non_trainable_variables] for member in members]
            self._trainable_count = len(members[0].trainable_variables)
            # A bound method is not tracked, so that where weights are stacked once they are not held twice over.
            self._call_first = members[0].stateless_call
            self._log_count = float(np.log(len(members)))
            self._columns = None
            if once:
                for i, column in enumerate(zip(*lists, strict=True)):
                    values = np.stack([ops.convert_to_numpy(v) for v in column])
                    weight = self.add_weight(
                        shape=values.shape, dtype=column[0].dtype, trainable=False, name=f"stacked_{i}"
                    )
                    weight.assign(values)
            else:
                self.members = members
                self._columns = lists
            self.built = True

        def call(self, inputs):
            if self._columns is None:
                stacked = [weight.value for weight in self.weights]
            else:
                stacked = [ops.stack([v.value for v in column]) for column in zip(*self._columns, strict=True)]

            def call_one(values):
                trainable, rest = values[: self._trainable_count], values[self._trainable_count :]
                return self._call_first(trainable, rest, inputs, training=False)[0]

            logits = ops.vectorized_map(call_one, stacked)
            return ops.logsumexp(ops.log_softmax(logits), axis=0) - self._log_count

    return StackedModel


def warm_up(ways, x, batch_size):
    """Wall seconds of each way's first call; drops ways that fail, or answer something else, and says why."""
    first_calls, broken, expected = {}, {}, None
    for way, models in list(ways.items()):
        begin = time.perf_counter()
        try:
            actual, _ = answer(models, x, batch_size)
            first_calls[way] = time.perf_counter() - begin
            expected = actual if expected is None else expected
            # Logits of up to 10, from float32 sums in another order.
            np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
        except Exception as error:
            if not way.startswith("stacked"):
                raise
            # TensorFlow tells the whole traceback; Keras colours what it tells.
            broken[way] = textwrap.shorten(f"{type(error).__name__}: {Text.from_ansi(str(error)).plain}", 200)
            del ways[way]
    return first_calls, broken


def measure(ways, x, batch_size, arguments):
    """For each round, `{way: (CPU seconds, wall seconds)}`."""
    rng = np.random.default_rng(arguments.seed)
    rounds = []
    for _ in range(arguments.rounds):
        costs = {}
        for way in rng.permutation(list(ways)):
            begin = np.array([time.process_time(), time.perf_counter()])
            _, alone = answer(ways[way], x, batch_size)
            costs[str(way)] = np.array([time.process_time(), time.perf_counter()]) - begin
            if way == "separate":
                costs["singles"] = alone
        rounds.append(costs)
    return rounds


def answer(models, x, batch_size):
    """The models' averaged logits, and what their calls of `predict` cost together."""
    outputs, costs = [], np.zeros(2)
    for model in models:
        begin = np.array([time.process_time(), time.perf_counter()])
        outputs.append(model.predict(x, batch_size=batch_size, verbose=0))
        costs += np.array([time.process_time(), time.perf_counter()]) - begin
    if len(models) == 1:
        return outputs[0], costs
    logits = np.stack(outputs)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.log((shifted / shifted.sum(axis=-1, keepdims=True)).mean(axis=0)), costs


def ratio(rounds, slow, fast):
    if not {slow, fast} <= set(rounds[0]):
        return "failed"
    cpu, wall = np.median([costs[slow] / costs[fast] for costs in rounds], axis=0)
    return f"{cpu:.2f} ({wall:.2f})"


def milliseconds(rounds, first_calls, way):
    if way not in rounds[0]:
        return "failed"
    cpu = 1000 * np.median([costs[way][0] for costs in rounds])
    return f"{cpu:.1f} ({first_calls[way]:.1f} s)" if way in first_calls else f"{cpu:.1f}"


def mlp():
    import keras
    from keras import layers

    hidden = [layers.Dense(256, activation="relu"), layers.Dropout(0.5), layers.Dense(256, activation="relu")]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(CLASSES)])


def resnet():
    """A ResNet of 8 layers on 32x32 images."""
    import keras
    from keras import layers

    def convolution(x, filters, strides=1, size=3):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        shortcut = x if strides == 1 else convolution(x, filters, strides, size=1)
        x = layers.ReLU()(convolution(x, filters, strides))
        x = layers.ReLU()(layers.Add()([convolution(x, filters), shortcut]))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def lstm():
    import keras
    from keras import layers

    return keras.Sequential([keras.Input((32, 16)), layers.LSTM(64), layers.Dense(CLASSES)])


BUILDERS = {"mlp": mlp, "resnet": resnet, "lstm": lstm}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--models", choices=list(BUILDERS), nargs="+", default=list(BUILDERS), help="default: all")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32, 256], help="default: 1 32 256")
    parser.add_argument("--members", type=int, default=5, help="default: 5")
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    parser.add_argument("--batches", type=int, default=2, help="batches in a call of predict; default: 2")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--jit-compile", action=argparse.BooleanOptionalAction, help="default: what Keras chooses for the model"
    )
    parser.add_argument("--quick", action="store_true", help="one round of two members at batch sizes 1 and 2")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batch_sizes, arguments.members, arguments.rounds = [1, 2], 2, 1
    return arguments


if __name__ == "__main__":
    main()
