"""Ask a server of `keras_ban.export`'s SavedModels what the digits of scikit-learn are; the standard library speaks.

    python examples/serving/client.py                                                            # MLServer
    python examples/serving/client.py --url http://127.0.0.1:8501 --protocol tensorflow-serving

Prints for each image its label, what the ensemble says, and how far its members disagree, if they are served.
"""

import argparse
import http.client
import json
import pathlib
import sys
import urllib.error
import urllib.request

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import user_files

ANSWER = {"outputs": object}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the server (default: %(default)s)")
    parser.add_argument("--model", default="digits", help="its name there (default: %(default)s)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="open-inference", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=8, help="how many images (default: %(default)s)")
    arguments = parser.parse_args()
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[: arguments.count, ..., None] / 16.0).astype("float32")
    outputs = ask(arguments.url, arguments.model, images, arguments.protocol)
    said = np.argmax(outputs["output_0"], axis=-1)
    unsure = outputs.get("mutual_information", np.full(len(said), np.nan))
    for label, answer, information in zip(digits.target, said, unsure, strict=False):
        print(f"label {label}, the server says {answer}, disagreement {information:.4f} nats")


def ask(url, model, inputs, protocol="open-inference"):
    """The outputs of a served model, by their names."""
    path, body, read = PROTOCOLS[protocol](model, inputs)
    try:
        request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return outputs_of(response.read(), read, len(inputs))
    except urllib.error.HTTPError as error:
        with error:
            said = user_files.short(error.read(500).decode(errors="replace"))
        sys.exit(f"{url}{path} answered {error.code}: {said}")
    except (OSError, http.client.HTTPException) as error:
        message = user_files.reason(getattr(error, "reason", error))
        sys.exit(f"{url}{path} gave no answer ({message}). Is the server running, and does it serve {model!r}?")
    except ValueError as error:
        sys.exit(f"{url}{path} must answer as {protocol} has it: {user_files.reason(error)}")


def outputs_of(answer, read, count):
    """The outputs in an answer to so many inputs, by their names. Raise `ValueError` if there are none."""
    try:
        outputs = {name: np.asarray(value) for name, value in read(user_files.parse_json(answer, ANSWER)).items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {user_files.reason(error)}") from error
    if "output_0" not in outputs:
        raise ValueError(f"there is no output_0 among the outputs {sorted(outputs)}")
    for name, value in outputs.items():
        if value.dtype.kind not in "biuf" or value.shape[:1] != (count,):
            raise ValueError(f"{name} must be numbers, {count} rows, received: {value.dtype} {value.shape}")
    return outputs


def open_inference(model, inputs):
    """The protocol of MLServer, Triton and KServe (version 2)."""
    data = {"name": "input_0", "shape": list(inputs.shape), "datatype": "FP32", "data": inputs.ravel().tolist()}

    def read(answer):
        return {each["name"]: np.reshape(each["data"], each["shape"]) for each in answer["outputs"]}

    return f"/v2/models/{model}/infer", {"inputs": [data]}, read


def tensorflow_serving(model, inputs):
    """TensorFlow Serving's REST: columns, by name; one output alone comes without a name."""

    def read(answer):
        outputs = answer["outputs"]
        outputs = outputs if isinstance(outputs, dict) else {"output_0": outputs}
        return {name: np.asarray(value) for name, value in outputs.items()}

    return f"/v1/models/{model}:predict", {"inputs": {"input_0": inputs.tolist()}}, read


PROTOCOLS = {"open-inference": open_inference, "tensorflow-serving": tensorflow_serving}

if __name__ == "__main__":
    main()
