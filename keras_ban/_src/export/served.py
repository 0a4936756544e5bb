"""The model to export, with preprocessing and named outputs, and the specs of its inputs."""

import re

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend
from keras_ban._src.data.model_inputs import declared_specs
from keras_ban._src.ensemble.ensemble import EnsembleModel
from keras_ban._src.export.texts import dtype_of, is_text, words_of
from keras_ban._src.files import model_file
from keras_ban._src.losses.base import as_logits, finite_logits

# Keras's names of unnamed inputs. Their numbers depend on what was built before.
_AUTOMATIC_NAME = re.compile(r"(input_layer|keras_tensor)(_\d+)?")


@keras.saving.register_keras_serializable(package="keras_ban")
class ServedModel(keras.Model):
    """A model for inference, with preprocessing and named outputs.

    Args:
        model: a built `keras.Model`.
        preprocessing: layers to apply to the inputs, in order.
        members: whether an `EnsembleModel` has the additional outputs of `export(members=True)`.
    """

    def __init__(self, model, preprocessing=(), members=False, name="served"):
        super().__init__(name=name, autocast=False)
        self.model = model
        self.preprocessing = list(preprocessing)
        self.members = members
        self.built = True

    def call(self, inputs):
        return self.outputs_of(self.preprocess(inputs), lambda model, x: model(x, training=False))

    def preprocess(self, inputs):
        for layer in self.preprocessing:
            inputs = layer(inputs)
        return inputs

    def outputs_of(self, inputs, run):
        """Return the served outputs for preprocessed inputs.

        `run(model, inputs)` returns a model's outputs. It is a call in the graph, and `predict` for verification.
        """
        if not self.members:
            outputs = run(self.model, inputs)
            return named_outputs(outputs) if _is_nested(outputs) else outputs
        ensemble = self.model
        members = [run(member, inputs) for member in ensemble.members]
        if keras.tree.is_nested(members[0]):
            raise ValueError("`members=True` is for ensembles of one output, but these members have several.")
        members = ops.stack(members, axis=1)
        served = {"output_0": run(ensemble, inputs), "members": members}
        if ensemble.average != "outputs":
            meaning = ensemble.from_logits, ensemble.activation
            entropy, information = disagreement(members, ensemble.member_weights, *meaning)
            served |= {"predictive_entropy": entropy, "mutual_information": information}
        return served

    def get_config(self):
        return {
            "name": self.name,
            # Another process may not find the classes of the compile arguments, which inference does not need.
            "model": model_file.rebuilt(model_file.serialized(self.model), _uncompiled),
            "preprocessing": [keras.saving.serialize_keras_object(layer) for layer in self.preprocessing],
            "members": self.members,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(part):
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        preprocessing = [restore(layer) for layer in config["preprocessing"]]
        return cls(**{**config, "model": restore(config["model"]), "preprocessing": preprocessing})


def _uncompiled(name, value):
    return None if name == "compile_config" else value


def named_outputs(outputs):
    """Return outputs by name: the keys of a dict, else `output_0`, `output_1`, ..."""
    if isinstance(outputs, dict) and not _is_nested(outputs):
        return dict(outputs)
    return {f"output_{i}": output for i, output in enumerate(keras.tree.flatten(outputs))}


def _is_nested(outputs):
    """Return whether outputs are more than a tensor, a list of tensors or a dict of tensors."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return keras.tree.is_nested(outputs) and any(keras.tree.is_nested(output) for output in outputs)


def disagreement(outputs, weights, from_logits=True, activation="softmax"):
    """Return predictive entropy and mutual information of an ensemble's members, in nats.

    The members' `outputs` are `(batch, members, ..., classes)`, logits or probabilities. Their `weights` `w_m` sum to
    1, and members of weight 0 are left out. For an example with the members' distributions `p_m`, with the mean
    probabilities `p = sum_m w_m * p_m` (whatever the ensemble averages) and `H[p] = -sum_c p_c * log(p_c)`:

    - Predictive entropy `H[p]`: the total uncertainty of the ensemble.
    - Mutual information `H[p] - sum_m w_m * H[p_m]`: the part due to disagreement between members. It is 0 if they all
      agree. (Houlsby et al., 2011, eq. 2; for ensembles: Depeweg et al., 2018, eq. 3, Malinin and Gales, 2018, eq. 17.)

    Both are `(batch, ...)`. With `activation="sigmoid"`, each output is a distribution over yes and no, and they are
    `(batch, ..., classes)`.
    """
    counted = [i for i, weight in enumerate(weights) if weight > 0]
    logits = [finite_logits(as_logits(outputs[:, i], from_logits, activation)) for i in counted]
    log_probabilities = [ops.log_softmax(each) for each in logits]
    weighted = [(weights[i], ops.exp(each), each) for i, each in zip(counted, log_probabilities, strict=True)]
    mean = sum(weight * p for weight, p, _ in weighted)
    # p * log(p) is 0 at p = 0.
    log_mean = ops.log(ops.where(mean > 0, mean, ops.ones_like(mean)))
    predictive_entropy = -ops.sum(mean * log_mean, axis=-1)
    expected_entropy = -sum(weight * ops.sum(p * log_p, axis=-1) for weight, p, log_p in weighted)
    # Negative only by rounding.
    return predictive_entropy, ops.maximum(predictive_entropy - expected_entropy, 0.0)


def input_specs(model, preprocessing, examples):
    """Return the `keras.InputSpec`s of the exported graph, in the structure of the model's inputs.

    The batch size is free. Names are as in `export`. With preprocessing, sizes and dtypes are those of the examples, or
    without examples the model's sizes and uint8. Raise `ValueError` if the model is not built, or if it does not
    declare its inputs and there are no examples.
    """
    first = model
    while isinstance(first, EnsembleModel):
        first = first.members[0]
    if not first.built:
        raise ValueError(
            f"The model {first.name!r} is not built, so nothing is known of its inputs: call it on a batch."
        )
    specs = declared_specs(first)
    if specs is None and examples is None:
        raise ValueError(f"The model {first.name!r} does not declare its inputs. Pass some inputs as `examples`.")
    if specs is None:
        specs = keras.tree.map_structure(lambda x: keras.InputSpec(dtype_of(x), (None, *x.shape[1:])), examples)
    if preprocessing:
        specs = keras.tree.map_structure(lambda spec: keras.InputSpec("uint8", spec.shape, name=spec.name), specs)
        if examples is not None:
            keras.tree.assert_same_structure(specs, examples)
            specs = keras.tree.map_structure(_spec_of_example, specs, examples)
    return _give_names(specs)


def _spec_of_example(spec, example):
    sizes = example.shape[1:]
    if len(sizes) == len(spec.shape) - 1:
        sizes = tuple(None if free is None else size for free, size in zip(spec.shape[1:], sizes, strict=True))
    return keras.InputSpec(dtype_of(example), (None, *sizes), name=spec.name)


def _give_names(specs):
    if isinstance(specs, dict):
        specs = {key: keras.InputSpec(spec.dtype, spec.shape, name=key) for key, spec in specs.items()}
    flat = keras.tree.flatten(specs)
    names = [_name_of(spec.name, i) for i, spec in enumerate(flat)]
    if len({name.lower() for name in names}) < len(names):
        raise ValueError(
            f"Inputs must have names that differ as identifiers: in the graph these would be {names}. (Upper and lower "
            "case are the same.) Give each `keras.Input` a `name` of its own. Let a model take each input once."
        )
    named = [keras.InputSpec(spec.dtype, spec.shape, name=name) for spec, name in zip(flat, names, strict=True)]
    return keras.tree.pack_sequence_as(specs, named)


def _name_of(name, position):
    if name is None or _AUTOMATIC_NAME.fullmatch(name):
        return f"input_{position}"
    # Names in TensorFlow's signatures must be identifiers.
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return name if name.isidentifier() else f"input_{name}"


def named_inputs(specs, inputs):
    return {spec.name: leaf for spec, leaf in zip(keras.tree.flatten(specs), keras.tree.flatten(inputs), strict=True)}


def random_inputs(specs, count, examples, model):
    """Return `count` random rows of inputs.

    Values are drawn from the examples. Without examples, they are words of the vocabularies for texts, integers that
    all Embeddings of the model accept, all values of uint8, 0 and 1 for other integers, else standard normal. Free
    sizes are those of the examples, else 16.
    """
    rng = np.random.default_rng(0)
    words = [layer.input_dim for layer in backend.flat_layers(model) if isinstance(layer, keras.layers.Embedding)]

    def draw(spec, example):
        sizes = [16] * (len(spec.shape) - 1) if example is None else example.shape[1:]
        sizes = [free if size is None else size for size, free in zip(spec.shape[1:], sizes, strict=True)]
        shape = (count, *sizes)
        if is_text(spec):
            return rng.choice(words_of(model) if example is None else example.ravel(), shape)
        dtype = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
        if example is not None:
            return rng.choice(example.ravel(), shape).astype(dtype)
        if words:
            return rng.integers(0, min(words), shape).astype(dtype)
        if dtype == np.uint8:
            return rng.integers(0, 256, shape, dtype)
        return (rng.integers(0, 2, shape) if dtype.kind in "iub" else rng.standard_normal(shape)).astype(dtype)

    if examples is None:
        return keras.tree.map_structure(lambda spec: draw(spec, None), specs)
    return keras.tree.map_structure(draw, specs, examples)
