"""Lets MLServer serve a SavedModel that `keras_ban.export` wrote: the signature `serving_default`, as it stands.

`GET /v2/models/digits` names its inputs and outputs. A request must bring each input of the signature, and no other, in
its dtype and shape. Otherwise it is answered with 400.
"""

import numpy as np
import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse, MetadataTensor
from mlserver.utils import get_model_uri


class SavedModelRuntime(MLModel):
    async def load(self):
        uri = await get_model_uri(self.settings)  # Relative to the settings.
        self._loaded = tf.saved_model.load(uri)  # Held: a signature alone keeps no weights.
        self._signature = self._loaded.signatures["serving_default"]
        self._inputs = self._signature.structured_input_signature[1]
        self.inputs = [metadata(*each) for each in self._inputs.items()]
        self.outputs = [metadata(*each) for each in self._signature.structured_outputs.items()]
        return True

    async def predict(self, payload):
        received = {each.name: each for each in payload.inputs}
        # As a list: a name that comes twice would hide one of the two.
        if sorted(each.name for each in payload.inputs) != sorted(self._inputs):
            names = sorted(each.name for each in payload.inputs)
            raise InferenceError(f"The inputs are {sorted(self._inputs)}, each once, received: {names}.")
        inputs = {name: to_tensor(received[name], spec) for name, spec in self._inputs.items()}
        outputs = self._signature(**inputs)
        return InferenceResponse(model_name=self.name, outputs=[encode(*each) for each in outputs.items()])


def metadata(name, spec):
    """Describe a tensor as the Open Inference Protocol does: `FP32`, and -1 for an axis of any size."""
    datatype = "BYTES" if spec.dtype == tf.string else spec.dtype.name.upper().replace("FLOAT", "FP")
    return MetadataTensor(name=name, datatype=datatype, shape=[-1 if size is None else size for size in spec.shape])


def encode(name, value):
    output = NumpyCodec.encode_output(name, value.numpy())
    output.shape = list(value.shape)  # MLServer makes columns of vectors.
    return output


def to_tensor(received, spec):
    try:
        value = NumpyCodec.decode_input(received)
    except Exception as error:
        raise InferenceError(f"{spec.name} cannot be read as {received.datatype} {received.shape}: {error}") from error
    # Clients that send float64 mean float32; nothing else is converted.
    value = value.astype(np.float32) if value.dtype == np.float64 else value
    if value.dtype != spec.dtype.as_numpy_dtype or not spec.shape.is_compatible_with(value.shape):
        raise InferenceError(
            f"{spec.name} must be {spec.dtype.name} {tuple(spec.shape)}, received: {value.dtype} {value.shape}."
        )
    return tf.constant(value)
