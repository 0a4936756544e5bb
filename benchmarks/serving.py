"""Time an exported ensemble against `EnsembleModel.predict`, in examples a second.

    python benchmarks/serving.py --backend jax

Three ways to the outputs of the digits' ensemble, in one process, which take turns in an order drawn anew each round:

- predict: `ensemble.predict` of one batch, as a Keras user serves;
- SavedModel: the signature `serving_default` of what `keras_ban.export` wrote, run by TensorFlow;
- ONNX: the same as ONNX, run by ONNX Runtime.

What is shown is the median over the rounds; ratios are medians of the ratio within a round. What a server adds is left
out: `examples/serving/load_test.py` measures that.
"""

import argparse
import os
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np
from _figures import versions

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], required=True)
    parser.add_argument("--members", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64], help="default: 1 64")
    parser.add_argument("--calls", type=int, default=20, help="calls of each way in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import digits
    import keras
    import onnxruntime
    import tensorflow as tf

    import keras_ban

    keras.utils.set_random_seed(0)
    ensemble = keras_ban.EnsembleModel([digits.build_cnn() for _ in range(arguments.members)])
    with tempfile.TemporaryDirectory() as folder:
        keras_ban.export(ensemble, f"{folder}/saved_model")
        keras_ban.export(ensemble, f"{folder}/model.onnx", format="onnx")
        loaded = tf.saved_model.load(f"{folder}/saved_model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, ["CPUExecutionProvider"])
    signature = loaded.signatures["serving_default"]
    ways = {
        "predict": lambda x: ensemble.predict(x, batch_size=len(x), verbose=0),
        "SavedModel": lambda x: signature(input_0=tf.constant(x))["output_0"].numpy(),
        "ONNX": lambda x: session.run(None, {"input_0": x}),
    }
    rng = np.random.default_rng(0)
    for size in arguments.batch_sizes:
        x = rng.random((size, 8, 8, 1), "float32")
        for run in ways.values():
            run(x)
        rounds = [measure(ways, x, arguments.calls, rng) for _ in range(arguments.rounds)]
        for name in ways:
            rate = np.median([size * arguments.calls / each[name] for each in rounds])
            ratio = np.median([each["predict"] / each[name] for each in rounds])
            print(f"batch {size:3d}, {name:>10}: {rate:9,.0f} examples a second, {ratio:6.2f} times predict")
    print(*[f"{name} {version}" for name, version in versions(arguments.backend).items()], end=", ")
    print(
        f"tensorflow {tf.__version__}, onnxruntime {onnxruntime.__version__} |",
        platform.platform(),
        "|",
        os.cpu_count(),
        "CPUs",
    )


def measure(ways, x, calls, rng):
    """Wall seconds of `calls` calls of each way, by its name."""
    seconds = {}
    for name in rng.permutation(list(ways)):
        start = time.perf_counter()
        for _ in range(calls):
            ways[name](x)
        seconds[str(name)] = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
