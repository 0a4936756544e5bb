"""Give a model the same architecture and a life of its own; or layers of its teacher's, for good."""

import difflib
import inspect
import random
import tempfile

import keras

from keras_ban._src import checks


def reborn(model):
    """Return a new model of the same architecture with independent, fresh initial weights.

    This is how a generation of a born-again network begins (BAN, section 3: same architecture, new random seed).

    - Every integer `seed` in the model's configuration (of initializers, dropout, augmentation) is drawn anew.
      Keras's own cloning keeps them, and so gives a student its teacher's initial weights, or its dropout masks.
      Draws come from Python's `random`, as Keras's own default seeds do: `keras.utils.set_random_seed` before the call
      makes it reproducible.
    - A layer that was frozen (`trainable=False`) stays so and keeps its weights: a frozen pretrained backbone is part
      of the architecture. If the model itself is frozen as a whole, as teachers often are, the new model is trainable.
    - What layers were `adapt`-ed to (`Normalization`, `TextVectorization`, `StringLookup`, `Discretization`) is kept.
      BatchNorm statistics are not.
    - The model given is left as it was, and shares nothing with the new one. The new model is not compiled.

    Args:
        model: a `keras.Model`: Sequential, functional (shared layers, several inputs and nested models included), or
            subclassed with a `get_config` that holds every constructor argument.

    Returns:
        A `keras.Model` of the same type, with the same layer names.

    Raises:
        TypeError: `model` is not a `keras.Model`.
        ValueError: the model cannot be rebuilt from its configuration, or its class holds seeds that the configuration
            does not; the message says why. Such a model takes part in a `BornAgainSequence` through a callable,
            `build(generation) -> keras.Model`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a `keras.Model`, received: {model!r} (of type {type(model).__name__}).")
    # Another stream of seeds: after the same `set_random_seed`, a model and its copy would draw the same ones.
    random.seed(random.getrandbits(128))
    clone = _rebuild(model)
    old_layers, new_layers = (list(m._flatten_layers()) for m in (model, clone))
    if [type(layer) for layer in old_layers] != [type(layer) for layer in new_layers]:
        raise _cannot_clone(model, "its configuration gives other layers than it has")
    pairs = list(zip(old_layers, new_layers, strict=True))
    for old, new in pairs:
        if old.built and new.built and [w.shape for w in old.weights] != [w.shape for w in new.weights]:
            raise _cannot_clone(model, "its configuration gives weights of other shapes than it has")
        kept_seeds = _seeds(old).items() & _seeds(new).items()
        if kept_seeds and (old.trainable or not model.trainable):
            raise _cannot_clone(
                model,
                f"the seeds {dict(kept_seeds)} of its layer {old.name!r} stand in the code of its class, so that a "
                "copy would begin with the same random numbers",
            )

    for old, new in pairs:
        if hasattr(old, "adapt"):
            _copy_adapted_state(old, new)
    if model.trainable:
        _copy_frozen_weights(model, pairs)
    else:
        # One by one: under TensorFlow a flag that is set already is not handed on to the layers within.
        for _, new in pairs:
            new.trainable = True
    return clone


def share_layers(student, teacher, layers):
    """Give a student layers of its teacher's, for good: weights are copied, and frozen in the student.

    So the paper's ResNet students have the first and last layers of their DenseNet teachers (BAN, table 5).

    The student's layers are set to `trainable=False`. What follows is Keras's: a frozen BatchNormalization works with
    the statistics that were copied, in training too, and does not update them. What a teacher's layer was `adapt`-ed to
    is copied too. Teacher and student share no variables afterwards, and the teacher stays as it was. Do this before
    the student is compiled; who compiled it already compiles it again.

    Example:

    ```python
    # Of models whose layers are named alike: keras_ban.share_layers(student, teacher, ["stem", "head"])
    names = {student.layers[0].name: teacher.layers[0].name}  # the first layer, whatever it is called
    keras_ban.share_layers(student, teacher, names)
    ```

    Args:
        student: a built `keras.Model`, which is changed.
        teacher: a built `keras.Model`, a trained one.
        layers: names of layers that both have, or a dict `{student's layer name: teacher's layer name}`. Layers within
            nested models are found too, by a name that no other layer of the model has.

    Returns:
        The student.

    Raises:
        TypeError: student or teacher is not a `keras.Model`, or `layers` is neither a list of names nor a dict.
        ValueError: a model has no layer of a name (names like it are told), or several; a layer is not built; two
            layers have other weights; or both are the same layer. Nothing is changed then.
    """
    checks.check_model("student", student)
    checks.check_model("teacher", teacher)
    pairs = pair_layers(student, teacher, layers)
    of_teacher = {id(layer) for layer in teacher._flatten_layers()}
    same = [own.name for own, _ in pairs if any(id(layer) in of_teacher for layer in own._flatten_layers())]
    if same:
        raise ValueError(
            f"The layers {same} of the student are the teacher's own, and freezing them would change the teacher. Make "
            "the student with layers of its own, `keras_ban.reborn(teacher)` for instance."
        )
    for own, teachers in pairs:
        for place, weight in zip(own.weights, teachers.weights, strict=True):
            # A copy: JAX gives the buffers of what it trains away.
            place.assign(keras.ops.copy(weight.value))
        for new, old in zip(own._flatten_layers(), teachers._flatten_layers(), strict=False):
            if hasattr(old, "adapt") and type(new) is type(old):
                _copy_adapted_state(old, new)
        # One by one, as in `reborn`.
        for layer in own._flatten_layers():
            layer.trainable = False
    return student


def pair_layers(student, teacher, layers):
    """`[(student's layer, teacher's layer), ...]`, checked as `share_layers` says; nothing is changed."""
    pairs = []
    for name, teachers_name in check_shared("layers", layers).items():
        own = _find_layer("student", student, name)
        teachers = _find_layer("teacher", teacher, teachers_name)
        shapes, theirs = ([(w.path.split("/")[-1], tuple(w.shape)) for w in layer.weights] for layer in (own, teachers))
        if [shape for _, shape in shapes] != [shape for _, shape in theirs]:
            raise ValueError(
                f"The student's layer {name!r} has the weights {shapes}, the teacher's layer {teachers_name!r} has "
                f"{theirs}: to be shared, they must have the same shapes in the same order."
            )
        pairs.append((own, teachers))
    return pairs


def check_shared(argument, layers):
    """The layers to share as a dict `{student's layer name: teacher's layer name}`."""
    names = checks.layer_names(layers)
    if not names:
        raise TypeError(
            f"`{argument}` must be a list of layer names, or a dict {{student's layer name: teacher's layer name}}, "
            f"with at least one name, received: {layers!r}."
        )
    return names


def _find_layer(whose, model, name):
    found = [layer for layer in model.layers if layer.name == name]
    within = [layer for layer in model._flatten_layers(include_self=False) if layer.name == name]
    found = found or within
    if len(found) != 1:
        # Those that Keras makes for itself, of inputs and operations, have no weights.
        names = list(dict.fromkeys(layer.name for layer in model._flatten_layers(include_self=False) if layer.weights))
        near = difflib.get_close_matches(name, names)
        raise ValueError(
            f"The {whose} {model.name!r} has {'no layer' if not found else f'{len(found)} layers'} named {name!r}. "
            f"{f'Did you mean one of {near}? ' if near else ''}Its layers with weights are {names}. (Name layers, "
            "`Dense(10, name='head')`: Keras numbers those without a name anew in each model.)"
        )
    if not found[0].built:
        raise ValueError(
            f"The {whose}'s layer {name!r} has no weights yet: begin the {whose} with a `keras.Input`, or call it once."
        )
    return found[0]


def _rebuild(model):
    """A model from the configuration of `model`, with fresh seeds, and with its variables if `model` has them."""
    _refuse_lost_arguments(model)
    # Layers and models that were never registered with Keras are found by their names.
    classes = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    try:
        with keras.saving.custom_object_scope(classes):
            clone = type(model).from_config(_with_fresh_seeds(model.get_config()))
    except Exception as error:
        raise _cannot_clone(model, f"rebuilding it from its configuration fails: {error}") from error
    if model.built and not clone.built:
        clone.build_from_config(model.get_build_config())
        # Keras builds what lies within, and leaves the flag of the model itself to its loader.
        clone.built = len(clone.weights) == len(model.weights)
    return clone


def _with_fresh_seeds(config):
    """`config` with every integer under the key `"seed"` drawn anew."""
    if isinstance(config, dict):
        return {
            key: random.randint(1, 10**9) if key == "seed" and type(value) is int else _with_fresh_seeds(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_with_fresh_seeds(value) for value in config)
    return config


def _refuse_lost_arguments(model):
    """Raise where the constructor takes arguments that the configuration does not hold: they would become defaults."""
    try:
        config = model.get_config()
    except NotImplementedError as error:
        raise _cannot_clone(model, "its class has no `get_config`") from error
    known = {"name", "trainable", "dtype"}
    if isinstance(model, keras.Sequential) or {"layers", "input_layers"} <= set(config):
        known |= {"layers", "inputs", "outputs"}
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                _refuse_lost_arguments(layer)
    # For a subclass without a `get_config` of its own Keras notes the constructor's defaults, not what was given.
    if not type(model).get_config.__module__.startswith("keras."):
        known |= set(config)
        if type(model).from_config.__func__ is not keras.Model.from_config.__func__:
            return
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    _, *parameters = inspect.signature(type(model).__init__).parameters.values()
    lost = [p.name for p in parameters if p.kind in kinds and p.name not in known]
    if lost:
        raise _cannot_clone(model, f"its `get_config` does not hold the constructor's arguments {lost}")


def _seeds(layer):
    """The seeds that were chosen, not drawn, for a layer and for its initializers."""
    initializers = {k: v for k, v in vars(layer).items() if isinstance(v, keras.initializers.Initializer)}
    seeds = {name: initializer.get_config().get("seed") for name, initializer in initializers.items()}
    seeds["seed"] = getattr(layer, "seed", None)
    return {name: seed for name, seed in seeds.items() if type(seed) is int}


def _copy_adapted_state(old, new):
    """Carry over what `adapt` computed, through the hooks by which Keras saves it, where a layer has them."""
    state = {}
    old.save_own_variables(state)
    if state:
        if not new.built and old.built:
            new.build_from_config(old.get_build_config())
        # Copies: JAX gives the buffers of what it trains away.
        new.load_own_variables({key: keras.ops.convert_to_numpy(value).copy() for key, value in state.items()})
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as directory:
            old.save_assets(directory)
            new.load_assets(directory)


def _copy_frozen_weights(model, pairs):
    """Freeze what was frozen, and give it the weights it had."""
    kept = {}
    # A layer comes before those within it, which may be trainable though it is frozen.
    for old, new in pairs:
        new.trainable = old.trainable
        if old.trainable:
            for weight in old.weights:
                kept.pop(id(weight), None)
            continue
        if len(old.weights) != len(new.weights):
            raise _cannot_clone(model, f"its layer {old.name!r} is frozen, and its weights have no place yet")
        kept.update({id(weight): (weight, place) for weight, place in zip(old.weights, new.weights, strict=True)})
    for weight, place in kept.values():
        # A copy, as above.
        place.assign(keras.ops.copy(weight.value))


def _cannot_clone(model, reason):
    return ValueError(
        f"The model {model.name!r} (of type {type(model).__name__}) cannot be born again by cloning: {reason}. "
        "Give `BornAgainSequence` a callable `build(generation)` that returns a new model instead, or complete the "
        "class's `get_config`."
    )
