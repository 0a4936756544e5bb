"""Create models of the same architecture."""

import contextlib
import random
import tempfile
import warnings

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.data.model_inputs import is_task, own_layers
from keras_ban._src.files import model_file
from keras_ban._src.sequence.recipes import lost_arguments


def reborn(model: keras.Model) -> keras.Model:
    """Return a new model of the same architecture with independent, fresh initial weights.

    Each generation of a born-again network starts this way (BAN, section 3: same architecture, new random seed).

    - Every integer `seed` in the model's configuration (initializers, dropout, augmentation) is drawn anew. Keras's
      cloning keeps them, so that a student has its teacher's initial weights or dropout masks. Seeds come from Python's
      `random`, like Keras's default seeds. For reproducible seeds, call `keras.utils.set_random_seed` before.
    - Frozen layers (`trainable=False`) stay frozen and keep their weights: a frozen pretrained backbone is part of the
      architecture. So do weights that are frozen one by one, and the kernels below LoRA weights, which start anew. If
      the whole model is frozen, as teachers often are, the new model is trainable.
    - The state from `adapt` (`Normalization`, `TextVectorization`, `StringLookup`, `Discretization`) is kept. BatchNorm
      statistics are not.
    - `model` does not change. The new model shares only the `preprocessor` of a KerasHub task, and is not compiled.

    Args:
        model: a `keras.Model`: Sequential, functional (also with shared layers, several inputs or nested models), or
            subclassed with a `get_config` that holds every constructor argument. Constructors need not take `**kwargs`,
            and functions (`activation=lambda x: ...`) need not be registered, as they must be in a file.

    Returns:
        A `keras.Model` of the same type, with the same layer names.

    Raises:
        TypeError: if `model` is not a `keras.Model`.
        ValueError: if the model cannot be rebuilt from its configuration, its class sets seeds that the configuration
            does not hold, or quantized layers would have to be trained. The message says why. For such a model, pass
            `BornAgainSequence` a callable `build(generation) -> keras.Model`.

    Warns:
        UserWarning: if weights of a custom layer are the same in every copy, for instance because its `build` uses
            `GlorotUniform(seed=1)`.
    """
    checks.check_model("model", model)
    _refuse_quantized(model)
    # Start another stream: after the same `set_random_seed`, a model and its copy would draw the same seeds.
    random.seed(random.getrandbits(128))
    clone = _rebuild(model)
    pairs = _pair_layers(model, clone)
    _warn_of_same_starts(model, pairs)
    for old, new in pairs:
        if new.name != old.name:
            new.name = old.name  # Its constructor takes none.
        if hasattr(old, "adapt"):
            copy_adapted_state(old, new)
    _copy_frozen_weights(model, pairs)
    for old, new in zip(model.variables, clone.variables, strict=False):
        # Private, because a path is fixed where the variable is made, which the two may differ in. Optimizers tell
        # variables apart by it: `exclude_from_weight_decay(var_names=...)`, or a map from patterns to optimizers.
        new._path = old.path
    return clone


def _rebuild(model):
    """Return a model from the configuration of `model`, with fresh seeds. It is built if `model` is."""
    with model_file.copied_in_memory(model), warnings.catch_warnings():
        # Keras builds a layer without a `build` by its shape, in vain. The graph of the model builds it.
        warnings.filterwarnings("ignore", "`build\\(\\)` was called on layer")
        _refuse_lost_arguments(model)
        try:
            # Classes that are not registered with Keras are found by these names.
            with keras.saving.custom_object_scope(model_file.classes_of(model)):
                config = model_file.uncompiled(model, model_file.rebuilt(model.get_config(), _fresh_seed))
                if is_task(model) and "preprocessor" in config:
                    # It has no weights, and its vocabulary is not in the configuration.
                    config["preprocessor"] = model.preprocessor
                clone = type(model).from_config(config)
        except Exception as error:
            raise _cannot_clone(model, f"rebuilding it from its configuration fails: {error}") from error
    if model.built and not clone.built:
        _build_like(model, clone)
    # Keras forgets the policy of a functional or Sequential model, without which `compile` does not scale losses.
    for old, new in zip(backend.flat_layers(model), backend.flat_layers(clone), strict=False):
        if isinstance(old, keras.Model) and type(new) is type(old) and old.dtype_policy.name == "mixed_float16":
            new.dtype_policy = old.dtype_policy
    # Classes with a `get_config` of their own do not know of it.
    for old, new in zip(own_layers(model), own_layers(clone), strict=False):
        if type(new) is type(old) and new.built and getattr(old, "lora_enabled", False) and not new.lora_enabled:
            new.enable_lora(old.lora_rank, lora_alpha=old.lora_alpha)
    return clone


def _build_like(model, clone):
    """Build a copy for the shapes of the inputs of `model`. If they do not tell enough, data must build it."""
    # Shapes of several inputs are in containers of Keras, which JAX does not take.
    config = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model.get_build_config()))
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        clone.build_from_config(config)
        if len(clone.weights) < len(model.weights) and "input_shape" in (config or {}):
            # Keras leaves out `training`, which may be an argument without a default.
            clone(keras.tree.map_shape_structure(keras.KerasTensor, config["input_shape"]), training=False)
    # Keras builds the layers, but its loader sets the flag of the model itself.
    clone.built = len(clone.weights) == len(model.weights)


def _pair_layers(model, clone):
    """Return `[(layer, its copy), ...]`. Raise `ValueError` if the copy is another model, or is not independent."""
    old_layers, new_layers = own_layers(model), own_layers(clone)
    if [type(layer) for layer in old_layers] != [type(layer) for layer in new_layers]:
        raise _cannot_clone(model, "its configuration gives other layers than it has")
    variables = {id(variable) for variable in model.variables}
    of_both = {id(layer) for layer in old_layers} & {id(layer) for layer in new_layers}
    # Layers without variables, such as ReLU, may be in both. Those that are not built yet may get variables.
    shared = [
        layer.name
        for layer in new_layers[1:]
        if not variables.isdisjoint(map(id, layer.variables)) or (id(layer) in of_both and not layer.built)
    ]
    if shared or not variables.isdisjoint(map(id, clone.variables)):
        raise _cannot_clone(
            model,
            f"its `get_config` holds layers or variables themselves, so a copy would share {shared or 'them'} with it "
            "(`get_config` must return `keras.saving.serialize_keras_object(layer)`, and `from_config` must read it)",
        )
    pairs = list(zip(old_layers, new_layers, strict=True))
    for old, new in pairs:
        if old.dtype_policy != new.dtype_policy and "dtype" in model_file.untaken_arguments(old):
            raise _cannot_clone(model, f"the constructor of its layer {old.name!r} does not take its `dtype`")
        if old.built and new.built and [w.shape for w in old.weights] != [w.shape for w in new.weights]:
            raise _cannot_clone(model, "its configuration gives weights of other shapes than it has")
        kept_seeds = _seeds(old).items() & _seeds(new).items()
        if kept_seeds and (old.trainable or not model.trainable):
            seeds = f"the seeds {dict(kept_seeds)} of its layer {old.name!r}"
            raise _cannot_clone(model, f"{seeds} stand in the code of its class, so a copy would have them, too")
    return pairs


def _refuse_quantized(model):
    """Raise `ValueError` if quantized weights would have to be trained. Above them, LoRA weights can be."""
    layers = backend.flat_layers(model)
    if any(getattr(layer, "lora_enabled", False) for layer in layers):
        return
    for layer in layers:
        mode = getattr(layer, "quantization_mode", None)
        # Keras trains float8.
        if mode not in (None, "float8") and (layer.trainable or not model.trainable):
            raise _cannot_clone(
                model,
                f"its layer {layer.name!r} is quantized to {mode!r}, and Keras does not train quantized weights (train "
                "the model first, and then `quantize` it; frozen layers, and layers with LoRA, may be quantized)",
            )


def _warn_of_same_starts(model, pairs):
    """Warn if custom layers start from the same weights in each copy. A second copy shows it."""
    found = {
        id(new_weight): (new_weight, number, i)
        for number, (old, new) in enumerate(pairs)
        if _may_hide_a_seed(new)
        for i, (old_weight, new_weight) in enumerate(zip(old.weights, new.weights, strict=False))
        if new_weight.trainable and (old_weight.trainable or not model.trainable)
    }
    found = [each for each in found.values() if _varies(each[0])]
    if not found:
        return
    states = random.getstate(), np.random.get_state()
    others = own_layers(_rebuild(model))
    random.setstate(states[0])
    np.random.set_state(states[1])
    same = [
        weight.path
        for weight, number, i in found
        if keras.ops.all(keras.ops.equal(weight.value, others[number].weights[i].value))
    ]
    if same:
        warnings.warn(
            f"The weights {same} of the model {model.name!r} (of type {type(model).__name__}) start from the "
            "same values in every generation. If they should be drawn at random, their initializers have a seed in the "
            "code of a class: take the seed from the class's `get_config`, or leave it out.",
            stacklevel=3,
        )


def _may_hide_a_seed(layer):
    """Whether a layer has initial weights from code that is not Keras's."""
    initializers = [each for each in vars(layer).values() if isinstance(each, keras.initializers.Initializer)]
    return any(type(each).__module__.split(".")[0] != "keras" for each in [layer, *initializers])


def _varies(weight):
    value = keras.ops.reshape(weight.value, (-1,))
    return value.shape[0] > 1 and bool(keras.ops.any(keras.ops.not_equal(value, value[0])))


def _fresh_seed(name, value):
    """Return a new seed in place of an integer seed. Other values are returned."""
    return random.randint(1, 10**9) if name == "seed" and type(value) is int else value


def _refuse_lost_arguments(model):
    """Raise `ValueError` if the configuration lacks constructor arguments. They would become defaults."""
    try:
        config = model.get_config()
    except NotImplementedError as error:
        raise _cannot_clone(model, "its class has no `get_config`") from error
    except Exception as error:
        raise _cannot_clone(model, f"it has no configuration: {error}") from error
    known = {"name", "trainable", "dtype"}
    if isinstance(model, keras.Sequential) or {"layers", "input_layers"} <= set(config):
        known |= {"layers", "inputs", "outputs"}
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                _refuse_lost_arguments(layer)
    # For a subclass without its own `get_config`, Keras saves the constructor's defaults, not the arguments.
    if not type(model).get_config.__module__.startswith("keras."):
        known |= set(config)
        if type(model).from_config.__func__ is not keras.Model.from_config.__func__:
            return
    lost = lost_arguments(type(model), known)
    if lost:
        raise _cannot_clone(model, f"its `get_config` does not hold the constructor's arguments {lost}")


def _seeds(layer):
    """Return the seeds that were passed to a layer, its initializers and generators, without those that Keras drew."""
    kinds = (keras.initializers.Initializer, keras.random.SeedGenerator)
    seeded = {name: value for name, value in vars(layer).items() if isinstance(value, kinds)}
    seeds = {name: value.get_config().get("seed") for name, value in seeded.items()}
    seeds["seed"] = getattr(layer, "seed", None)
    return {name: seed for name, seed in seeds.items() if type(seed) is int}


def copy_values(sources, targets):
    """Assign the values of variables to others, in their order."""
    for source, target in zip(sources, targets, strict=True):
        # A copy, because JAX deletes the buffers of trained variables.
        target.assign(keras.ops.copy(source.value))


def copy_adapted_state(old, new):
    """Copy the state from `adapt`, with the methods by which Keras saves it."""
    state = {}
    old.save_own_variables(state)
    if state:
        if not new.built and old.built:
            new.build_from_config(old.get_build_config())
        # Copies, because JAX deletes the buffers of trained variables.
        new.load_own_variables({key: keras.ops.convert_to_numpy(value).copy() for key, value in state.items()})
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as directory:
            old.save_assets(directory)
            new.load_assets(directory)


def _copy_frozen_weights(model, pairs):
    """Copy the flags `trainable`, and the weights that are frozen. Make a model trainable that is frozen as a whole."""
    frozen_at_birth = {id(weight) for _, new in pairs for weight in new.weights if not weight.trainable}
    kept, frozen = {}, []
    # A layer comes before its inner layers, which may be trainable although it is frozen.
    for old, new in pairs:
        # One by one: under TensorFlow, setting a flag to its current value does not reach the inner layers.
        new.trainable = old.trainable or not model.trainable
        untrained = _untrained_weights(old)
        if len(old.weights) != len(new.weights) and (untrained or not new.trainable):
            raise _cannot_clone(model, f"its layer {old.name!r} is frozen, but the copy has no weights for it yet")
        for number, (weight, place) in enumerate(zip(old.weights, new.weights, strict=False)):
            if not new.trainable:
                kept[id(weight)] = (weight, place)
                continue
            kept.pop(id(weight), None)
            # What no layer of this kind trains, such as the statistics of BatchNormalization, is fresh.
            one_by_one = model.trainable and not weight.trainable and id(place) not in frozen_at_birth
            if one_by_one or number in untrained:
                kept[id(weight)] = (weight, place)
                frozen.append(place)
    # Now, because the flag of a layer sets those of its weights.
    for place in frozen:
        place.trainable = False
    for weight, place in kept.values():
        place.assign(keras.ops.copy(weight.value))


def _untrained_weights(layer):
    """Return which weights of a layer stay as they are when it is trained: quantized ones, and kernels below LoRA's."""
    if not getattr(layer, "lora_enabled", False) and getattr(layer, "quantization_mode", None) in (None, "float8"):
        return []
    # The flags of a layer of this kind that was never frozen as a whole, which sets them all.
    with model_file.copied_in_memory(layer), keras.saving.custom_object_scope(model_file.classes_of(layer)):
        fresh = type(layer).from_config({**layer.get_config(), "trainable": True})
    fresh.build_from_config(layer.get_build_config())
    return [number for number, weight in enumerate(fresh.weights) if not weight.trainable]


def _cannot_clone(model, reason):
    return ValueError(
        f"The model {model.name!r} (of type {type(model).__name__}) cannot be born again by cloning: {reason}. "
        "Give `BornAgainSequence` a callable `build(generation)` that returns a new model instead, or complete the "
        "class's `get_config`."
    )
