"""The examples of serving: answers that no server should give, and requests that none should take."""

import asyncio
import http.server
import importlib.util
import json
import sys
import threading
import types

import numpy as np
import pytest
from helpers.processes import ROOT, run_script

pytestmark = pytest.mark.one_backend
SERVING = ROOT / "examples" / "serving"


def module(name):
    spec = importlib.util.spec_from_file_location(f"serving_{name}", SERVING / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return module("client")


OUTPUT = {"name": "output_0", "shape": [2, 3], "data": [0.0] * 6}
# (status, answer, the message; None: it is right)
ANSWERS = {
    "right": (200, json.dumps({"outputs": [OUTPUT]}), None),
    "an error": (404, '{"error": "no such model"}', "answered 404: .*no such model"),
    "no JSON": (200, "<html>", "must answer as open-inference has it"),
    "nothing": (200, "", "must answer as"),
    "cut short": (200, json.dumps({"outputs": [OUTPUT]})[:-9], "must answer as"),
    "nested deeply": (200, "[" * 100_000, "nested too deeply"),
    "a list": (200, "[]", "it must be an object, received: \\[\\]"),
    "two of one name": (200, '{"outputs": [], "outputs": []}', "two entries 'outputs'"),
    "no outputs": (200, "{}", "lacks 'outputs'"),
    "outputs of another type": (200, '{"outputs": 3}', "TypeError"),
    "no data": (200, '{"outputs": [{"name": "output_0", "shape": [2, 3]}]}', "KeyError: 'data'"),
    "another shape": (200, json.dumps({"outputs": [{**OUTPUT, "shape": [3, 3]}]}), "cannot reshape"),
    "other rows": (200, json.dumps({"outputs": [{**OUTPUT, "shape": [3, 2]}]}), "must be numbers, 2 rows, received"),
    "texts": (200, json.dumps({"outputs": [{**OUTPUT, "data": ["a"] * 6}]}), "must be numbers"),
    "another name": (200, json.dumps({"outputs": [{**OUTPUT, "name": "other"}]}), "there is no output_0"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none_ends_the_client_with_one_line(client, answer):
    status, text, message = ANSWERS[answer]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        if message is None:
            outputs = client.ask(url, "digits", np.zeros((2, 1)))
            assert (2, 3) == outputs["output_0"].shape
            return
        with pytest.raises(SystemExit, match=message) as ended:
            client.ask(url, "digits", np.zeros((2, 1)))
    assert url in ended.value.code and 1 == len(ended.value.code.splitlines())


@pytest.mark.new_process
@pytest.mark.parametrize("script", ["client.py", "load_test.py"])
def test_no_server_is_said_in_one_line(script):
    pytest.importorskip("sklearn")
    # Port 9 is that of the protocol that discards all it gets, which no machine runs any more.
    result = run_script(f"examples/serving/{script}", "--url", "http://127.0.0.1:9")
    assert 1 == result.returncode
    assert "gave no answer" in result.stderr and "Traceback" not in result.stderr


class InferenceError(Exception):
    pass


class Codec:
    """As MLServer's, of the values that these tests send."""

    @staticmethod
    def decode_input(received):
        return np.array(received.data, received.datatype).reshape(received.shape)

    @staticmethod
    def encode_output(name, value):
        return types.SimpleNamespace(name=name, shape=None, data=value)


async def uri(settings):
    return str(settings)


@pytest.fixture
def runtime(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    parts = {
        "mlserver": {"MLModel": object},
        "mlserver.codecs": {"NumpyCodec": Codec},
        "mlserver.errors": {"InferenceError": InferenceError},
        "mlserver.types": {"InferenceResponse": types.SimpleNamespace, "MetadataTensor": types.SimpleNamespace},
        "mlserver.utils": {"get_model_uri": uri},
    }
    for name, names in parts.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**names))
    served = module("saved_model_runtime").SavedModelRuntime()
    served.name = "digits"
    served._inputs = {name: tf.TensorSpec((None, 2), tf.float32, name) for name in ("left", "right")}
    served._signature = lambda left, right: {"output_0": left - right}
    return served


def tensor(name, rows=1, **changed):
    values = {"name": name, "shape": [rows, 2], "datatype": "float32", "data": [float(len(name))] * (2 * rows)}
    return types.SimpleNamespace(**{**values, **changed})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor("left"), tensor("left"), tensor("right")], r"each once, received: \['left', 'left', 'right'\]"),
        ([tensor("left"), tensor("left")], "each once, received"),
        ([tensor("left")], "each once, received"),
        ([], "each once, received"),
        ([tensor("left"), tensor("right", shape=[1, 3])], "right cannot be read as float32"),
        ([tensor("left"), tensor("right", datatype="int64")], "must be float32"),
        ([tensor("left"), tensor("right", shape=[2, 1])], "must be float32"),
        ([tensor("left"), tensor("right", datatype="no dtype")], "right cannot be read"),
    ],
)
def test_the_runtime_takes_each_input_once_and_as_it_is(runtime, inputs, message):
    with pytest.raises(InferenceError, match=message):
        asyncio.run(runtime.predict(types.SimpleNamespace(inputs=inputs)))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_runtime_answers_with_as_many_rows_as_it_was_asked(runtime, rows):
    inputs = [tensor("right", rows), tensor("left", rows)]
    (output,) = asyncio.run(runtime.predict(types.SimpleNamespace(inputs=inputs))).outputs
    assert ("output_0", [rows, 2]) == (output.name, output.shape)
    np.testing.assert_array_equal(np.full((rows, 2), -1.0), output.data)


@pytest.mark.one_backend
def test_the_metadata_name_inputs_and_outputs(runtime, tmp_path):
    import tensorflow as tf

    class Served(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec((None, 2), tf.uint8, "image"), tf.TensorSpec((None,), tf.string, "text")]
        )
        def call(self, image, text):
            return {"share": tf.cast(image, tf.float32) + tf.cast(tf.strings.length(text)[:, None], tf.float32)}

    served = Served()
    tf.saved_model.save(served, str(tmp_path), signatures=served.call)
    runtime.settings = tmp_path
    asyncio.run(runtime.load())

    described = {(each.name, each.datatype, tuple(each.shape)) for each in runtime.inputs}
    assert {("image", "UINT8", (-1, 2)), ("text", "BYTES", (-1,))} == described
    assert [("share", "FP32", [-1, 2])] == [(each.name, each.datatype, each.shape) for each in runtime.outputs]
