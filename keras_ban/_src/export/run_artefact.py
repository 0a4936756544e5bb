"""A script that runs an exported model as a server would, in a process without keras_ban.

    python -P run_artefact.py ARTEFACT FORMAT INPUTS OUTPUTS SIZE ...

`INPUTS` and `OUTPUTS` are `.npz` files with an array for each tensor, `in/name` or `out/name`. Inputs are run in
batches of these sizes. All later batches have the last size.
"""

import itertools
import sys

import numpy as np


def saved_model(path):
    # Only one of the three need be installed.
    import tensorflow as tf

    signatures = tf.saved_model.load(path).signatures
    if not {"serve", "serving_default"} <= set(signatures):
        raise ValueError(f"The signatures must include 'serve' and 'serving_default', received: {list(signatures)}.")
    run = signatures["serving_default"]

    def predict(inputs):
        outputs = run(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    return predict


def onnx(path):
    # Only one of the three need be installed.
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def litert(path):
    # Only one of the three need be installed.
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path).get_signature_runner("serving_default")
    return lambda inputs: run(**inputs)


def main(artefact, format, inputs, outputs, *sizes):
    predict = {"tf_saved_model": saved_model, "onnx": onnx, "litert": litert}[format](artefact)
    with np.load(inputs) as arrays:
        rows = {name.removeprefix("in/"): arrays[name] for name in arrays.files}
    results, start, count = {}, 0, len(next(iter(rows.values())))
    sizes = itertools.chain(map(int, sizes), itertools.repeat(int(sizes[-1])))
    while start < count:
        stop = start + next(sizes)
        for name, value in predict({name: each[start:stop] for name, each in rows.items()}).items():
            # NumPy itself has no bfloat16.
            results.setdefault(f"out/{name}", []).append(value.astype("float32") if value.dtype.kind == "V" else value)
        start = stop
    np.savez(outputs, **{name: np.concatenate(batches) for name, batches in results.items()})
    # The exported model must not need keras_ban. (TensorFlow itself imports Keras.)
    assert not [name for name in sys.modules if name.split(".")[0] == "keras_ban"]


if __name__ == "__main__":
    main(*sys.argv[1:])
