"""What is exported: a model with what goes before and after it in the graph, and the names that clients use."""

import re

import keras
import numpy as np
from keras import ops

from keras_ban._src.export.disagreement import disagreement
from keras_ban._src.sequence.ensemble import EnsembleModel

# What Keras calls an input that was given no name: numbered through, so that it depends on what was built before.
_AUTOMATIC_NAME = re.compile(r"(input_layer|keras_tensor)(_\d+)?")


@keras.saving.register_keras_serializable(package="keras_ban")
class ServedModel(keras.Model):
    """Preprocessing, the model, and its outputs under the names that a client sees; for inference alone.

    Args:
        model: a built `keras.Model`.
        preprocessing: layers that are applied to the inputs, in their order.
        members: whether the outputs of an `EnsembleModel` also hold `members`, `predictive_entropy` and
            `mutual_information` (see `export`).
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
        """What is served of inputs that are preprocessed.

        Args:
            inputs: what the model takes.
            run: `run(model, inputs)` gives a model's outputs: in the graph a call, and to verify it `predict`.
        """
        if not self.members:
            outputs = run(self.model, inputs)
            return named_outputs(outputs) if _is_nested(outputs) else outputs
        ensemble = self.model
        members = [run(member, inputs) for member in ensemble.members]
        if keras.tree.is_nested(members[0]):
            raise ValueError(
                "`members=True` is for ensembles of one output, but the members of this one have several. Leave it out."
            )
        members = ops.stack(members, axis=1)
        served = {"output_0": run(ensemble, inputs), "members": members}
        if ensemble.average != "outputs":
            entropy, information = disagreement(
                members, ensemble.member_weights, ensemble.from_logits, ensemble.activation
            )
            served |= {"predictive_entropy": entropy, "mutual_information": information}
        return served

    def get_config(self):
        return {
            "name": self.name,
            # What it was compiled with plays no part here, and may be of classes that cannot be found elsewhere.
            "model": _without(keras.saving.serialize_keras_object(self.model), "compile_config"),
            "preprocessing": [keras.saving.serialize_keras_object(layer) for layer in self.preprocessing],
            "members": self.members,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(part):
            return keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)

        preprocessing = [restore(layer) for layer in config["preprocessing"]]
        return cls(**{**config, "model": restore(config["model"]), "preprocessing": preprocessing})


def _without(config, key):
    if isinstance(config, dict):
        return {name: _without(value, key) for name, value in config.items() if name != key}
    return [_without(value, key) for value in config] if isinstance(config, list) else config


def named_outputs(outputs):
    """Outputs by the names that clients see: a dict's own keys, else `output_0`, `output_1`, ..."""
    if isinstance(outputs, dict) and not any(keras.tree.is_nested(output) for output in outputs.values()):
        return dict(outputs)
    return {f"output_{i}": output for i, output in enumerate(keras.tree.flatten(outputs))}


def _is_nested(outputs):
    """Whether outputs are more than a tensor, a list of tensors or a dict of tensors, which a signature takes."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return keras.tree.is_nested(outputs) and any(keras.tree.is_nested(output) for output in outputs)


def input_specs(model, preprocessing, examples):
    """What the exported graph takes: `keras.InputSpec`s, in the structure of the model's inputs.

    The size of the batch is free. A name is that of the `keras.Input`, or the key in a dict; inputs without a name of
    their own are `input_0`, `input_1`, ... With preprocessing, sizes and dtypes are those of the examples; without
    examples, the model's sizes and uint8.

    Raises:
        ValueError: a model has not been built, or is subclassed and does not tell what it takes.
    """
    first = model
    while isinstance(first, EnsembleModel):
        first = first.members[0]
    if not first.built:
        raise ValueError(
            f"The model {first.name!r} is not built, so nothing is known of what it takes: call it on a batch first."
        )
    specs = _declared_specs(first)
    if specs is None:
        specs = _specs_like(_need_examples(first, examples))
    if preprocessing:
        specs = keras.tree.map_structure(lambda spec: keras.InputSpec("uint8", spec.shape, name=spec.name), specs)
        if examples is not None:
            keras.tree.assert_same_structure(specs, examples)
            specs = keras.tree.map_structure(_spec_of_example, specs, examples)
    return _give_names(specs)


def _declared_specs(model):
    """Specs from the model alone; `None` where it does not tell."""
    if getattr(model, "inputs", None):
        declared = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(lambda x: keras.InputSpec(x.dtype, (None, *x.shape[1:]), name=x.name), declared)
    shapes = (model.get_build_config() or {}).get("input_shape")
    return None if shapes is None else _specs_of_shapes(shapes, model.input_dtype)


def _specs_of_shapes(shapes, dtype):
    if isinstance(shapes, dict):
        return {name: _specs_of_shapes(shape, dtype) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.InputSpec(dtype, (None, *shapes[1:]))
    return [_specs_of_shapes(shape, dtype) for shape in shapes]


def _need_examples(model, examples):
    if examples is None:
        raise ValueError(
            f"The model {model.name!r} (of type {type(model).__name__}) does not tell what it takes. Pass some inputs "
            "as `examples`."
        )
    return examples


def _specs_like(examples):
    return keras.tree.map_structure(lambda x: keras.InputSpec(x.dtype.name, (None, *x.shape[1:])), examples)


def _spec_of_example(spec, example):
    sizes = example.shape[1:]
    if len(sizes) == len(spec.shape) - 1:
        sizes = tuple(None if free is None else size for free, size in zip(spec.shape[1:], sizes, strict=True))
    return keras.InputSpec(example.dtype.name, (None, *sizes), name=spec.name)


def _give_names(specs):
    if isinstance(specs, dict):
        specs = {key: keras.InputSpec(spec.dtype, spec.shape, name=key) for key, spec in specs.items()}
    flat = [
        keras.InputSpec(spec.dtype, spec.shape, name=_name_of(spec.name, i))
        for i, spec in enumerate(keras.tree.flatten(specs))
    ]
    names = [spec.name for spec in flat]
    if len(set(names)) < len(names):
        raise ValueError(f"Inputs must have names that differ as identifiers: in the graph these would be {names}.")
    return keras.tree.pack_sequence_as(specs, flat)


def _name_of(name, position):
    if name is None or _AUTOMATIC_NAME.fullmatch(name):
        return f"input_{position}"
    # TensorFlow's signatures take identifiers.
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return name if name.isidentifier() else f"input_{name}"


def named_inputs(specs, inputs):
    """Inputs by the names that clients see."""
    return {spec.name: leaf for spec, leaf in zip(keras.tree.flatten(specs), keras.tree.flatten(inputs), strict=True)}


def random_inputs(specs, count, examples, model):
    """`count` random rows of what the graph takes: values drawn from the examples, where there are some.

    Else: of an Embedding's model whole numbers that all its Embeddings know, of uint8 all values, of other whole
    numbers 0 and 1, of others the standard normal. Sizes that are free are those of the examples, else 16.
    """
    rng = np.random.default_rng(0)
    words = [layer.input_dim for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)]

    def draw(spec, example):
        sizes = [16] * (len(spec.shape) - 1) if example is None else example.shape[1:]
        sizes = [free if size is None else size for size, free in zip(spec.shape[1:], sizes, strict=True)]
        shape, dtype = (count, *sizes), np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
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
