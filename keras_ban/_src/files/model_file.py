"""Save a model to a file and load it. Code in files is never executed (`safe_mode`)."""

import contextlib
import functools
import inspect
import json
import pathlib
import tempfile
import types
import zipfile

import keras

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.files.writing import writing


def save(model, path):
    """Write a model without its compile arguments, which are saved once for all generations."""
    with _bare(model):
        model.save(path)


def load(path, custom_objects=None):
    """Load a model from a `.keras` file, without compiling it. `custom_objects` are as in `keras.saving.load_model`.

    Raise `ValueError` if Keras does not know a class of the model, or cannot load it for another reason.
    """
    with _explained(path):
        model = keras.saving.load_model(path, custom_objects, compile=False)
        _check_has_weights(model, path)
        return model


def _check_has_weights(model, path):
    """Raise `ValueError` if the file has weights for layers that Keras could not build. It only warns of that."""
    unbuilt = [layer.name for layer in backend.flat_layers(model) if not layer.built]
    if not unbuilt:
        return
    # Keras needs it, and imports it when it saves or loads.
    import h5py

    stored = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as weights, h5py.File(weights) as file:
        file.visititems(lambda name, each: stored.append(name) if isinstance(each, h5py.Dataset) else None)
    if sum(not name.startswith("optimizer/") for name in stored) > len(model.variables):
        raise ValueError(
            f"Keras cannot build the layers {unbuilt} from the shapes of inputs, and leaves out their weights. Give "
            f"the arguments of {type(model).__name__}'s `call` after the inputs a default (`training=None`), or write "
            "its method `build_from_config(self, config)`, which creates these layers' weights."
        )


def check_form(path):
    """Raise `ValueError` if a file is no model as Keras writes it. No model is made of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            json.loads(archive.read("config.json"))
            archive.getinfo("model.weights.h5")
    except Exception as error:  # zipfile and zlib raise many types for damaged files.
        raise ValueError(f"{path} is not a model as Keras writes it: {error}") from error


def check_configurations(paths, custom_objects=None):
    """Raise `ValueError` as `load`, if Keras cannot make the models in these files. No weights are read.

    Of models of the same classes, the first one is made, and not kept.
    """
    made = []
    for path in paths:
        with _explained(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
            named = [each for each in parts_of(config) if isinstance(each, dict) and "class_name" in each]
            keys = ("module", "class_name", "registered_name")
            classes = {tuple(str(each.get(key)) for key in keys) for each in named}
            if classes not in made:
                keras.saving.deserialize_keras_object({**config, "compile_config": None}, custom_objects)
                made.append(classes)


def parts_of(config):
    """Yield a configuration, and all dicts, lists and values in it."""
    yield config
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, (list, tuple)) else ()
    for each in inner:
        yield from parts_of(each)


def rebuilt(config, new_value=lambda name, value: value):
    """Return a copy of a configuration in plain dicts and lists, with `new_value(name, value)` for values of dicts."""
    if isinstance(config, dict):
        return {name: rebuilt(new_value(name, each), new_value) for name, each in config.items()}
    if isinstance(config, (list, tuple)):
        made = [rebuilt(each, new_value) for each in config]
        return tuple(made) if isinstance(config, tuple) else made
    return config


@contextlib.contextmanager
def _explained(path):
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be loaded: {error}\nRegister your own classes and functions with "
            "`keras.saving.register_keras_serializable`, or pass them as `custom_objects`."
        ) from error


def serialized(model):
    """Return a model as plain data for a file. A model that compiles itself is not compiled when it is made of them."""
    with _uncompiled_config(model):
        made = keras.saving.serialize_keras_object(model)
    _mark_as_shared(getattr(model, "preprocessor", None), made["config"].get("preprocessor"))
    return {name: value for name, value in made.items() if name != "compile_config" or not _compiles_itself(model)}


def _mark_as_shared(layer, config):
    """Let Keras load a layer of several models once, as it saves it. (It loses its own mark of the first of them.)"""
    if isinstance(layer, keras.layers.Layer) and isinstance(config, dict):
        config["shared_object_id"] = id(layer)
        for name, part in config["config"].items():
            _mark_as_shared(getattr(layer, name, None), part)


def uncompiled(model, config):
    """Return the configuration of a model, so that the model made from it is not compiled."""
    return {**config, "compile": False} if _compiles_itself(model) and "compile" not in config else config


def _compiles_itself(model):
    """Whether the constructor compiles, unless `compile=False`, as that of a KerasHub task.

    The optimizer that it makes would be missing in a file, and Keras would not load the file.
    """
    made = [vars(base)["__init__"] for base in type(model).__mro__ if "__init__" in vars(base)]
    made = [inspect.signature(each).parameters for each in made]
    first = [parameter.kind for parameter in made[0].values()]
    takes = "compile" in made[0] or inspect.Parameter.VAR_KEYWORD in first
    return takes and any("compile" in parameters for parameters in made)


@contextlib.contextmanager
def _uncompiled_config(model):
    """Return a context in which the configuration of a model is `uncompiled`."""
    if not _compiles_itself(model):
        yield
        return
    config = uncompiled(model, model.get_config())
    model.get_config = lambda: config
    try:
        yield
    finally:
        del model.get_config


def classes_of(model):
    """Return the custom classes and functions of a model and its layers, by the names that Keras writes for them.

    Keras finds its own classes by their modules. By name, its layer `Add` and the operation of `+` would be one.

    Raise `ValueError` if two classes have one name.
    """
    layers = backend.flat_layers(model)
    # A dict keeps their order.
    custom = dict.fromkeys(map(type, [*layers, *(each for layer in layers for each in _parts_of(layer))]))
    custom = [each for each in custom if each.__module__.split(".")[0] != "keras"]
    operations = {each for layer in layers for each in getattr(layer, "operations", ())}
    taken = {type(each).__name__: type(each) for each in operations if not isinstance(each, keras.layers.Layer)}
    classes = {}
    for each in custom:
        name = keras.saving.get_registered_name(each)
        other = classes.get(name, taken.get(name))
        if other is not None:
            raise ValueError(
                f"The model {model.name!r} has two classes that Keras knows as {name!r}: "
                f"{each.__module__}.{each.__qualname__} and {other.__module__}.{other.__qualname__}. Decorate yours "
                "with `@keras.saving.register_keras_serializable(package=...)`, or give it another name."
            )
        classes[name] = each
    functions = {}
    for each in (each for layer in layers for each in _functions_of(layer).values()):
        functions.setdefault(keras.saving.get_registered_name(each), {})[id(each)] = each
    # Keras knows functions by name alone.
    functions = {name: each for name, found in functions.items() if len(found) == 1 for each in found.values()}
    # Files from before a class was registered hold its own name.
    return functions | {each.__name__: each for each in custom if each.__name__ not in taken} | classes


_PARTS = (keras.initializers.Initializer, keras.regularizers.Regularizer, keras.constraints.Constraint)


def _parts_of(layer):
    """Return the initializers, regularizers and constraints of a layer."""
    return [each for each in vars(layer).values() if isinstance(each, _PARTS)]


def _functions_of(layer):
    """Return the functions of a layer that are not Keras's, such as its activation, by the names of its attributes."""
    found = {name: each for name, each in vars(layer).items() if isinstance(each, types.FunctionType)}
    return {name: each for name, each in found.items() if each.__module__.split(".")[0] != "keras"}


def changed_functions(model, copy):
    """Return a sentence about a function of a layer that is another in the copy. `None` if there is none."""
    for old, new in zip(backend.flat_layers(model), backend.flat_layers(copy), strict=False):
        for name, function in _functions_of(old).items():
            found = vars(new).get(name)
            if isinstance(found, types.FunctionType) and found.__code__ is not function.__code__:
                return (
                    f"the function {function.__name__!r} of its layer {old.name!r} would become Keras's own of this "
                    "name. Give it another name"
                )
    return None


@contextlib.contextmanager
def copied_in_memory(model):
    """Return a context in which the configuration of a model gives a copy also where a file would not.

    In it, each lambda has a name of its own, and so has each function that shares its name with another function, or
    with one of Keras's. The names are unique in the process, because layers may keep them in their configurations. All
    other functions keep their names. Configurations lack what constructors do not take (see `untaken_arguments`).
    """
    layers = backend.flat_layers(model)
    functions = list({id(each): each for layer in layers for each in _functions_of(layer).values()}.values())
    names = [each.__name__ for each in functions]
    functions = {
        each: name
        for each, name in zip(functions, names, strict=True)
        if keras.saving.get_registered_name(each) == name
        and (name == "<lambda>" or names.count(name) > 1 or isinstance(keras.activations.serialize(each), str))
    }
    changed = []
    try:
        for function in functions:
            function.__name__ = f"function_{id(function)}"
        # The configuration of a layer may hold those of layers within it, which come after it.
        for layer in reversed(layers):
            untaken = untaken_arguments(layer)
            if untaken:
                config = {name: each for name, each in layer.get_config().items() if name not in untaken}
                # A copy, because the dicts and lists of a layer hold the layer, which is not copied.
                layer.get_config = functools.partial(rebuilt, config)
                changed.append(layer)
        yield
    finally:
        for function, name in functions.items():
            function.__name__ = name
        for layer in changed:
            del layer.get_config


# Of each layer; and of functional models, also of subclasses with a constructor of their own in Keras 3.12.
_WRITTEN_BY_KERAS = {"name", "trainable", "dtype", "layers", "input_layers", "output_layers"}
_READ_BY_CONSTRUCTOR = (keras.layers.Layer.from_config.__func__, keras.Model.from_config.__func__)


def untaken_arguments(layer):
    """Return what Keras writes of each layer, and the constructor of this one does not take.

    `def __init__(self, units)`, without `**kwargs`, takes no `name`, no `trainable` and no `dtype`.
    """
    taken = inspect.signature(type(layer).__init__).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    if takes_all or type(layer).from_config.__func__ not in _READ_BY_CONSTRUCTOR:
        return set()
    with contextlib.suppress(Exception):  # Whoever reads the configuration to use it reports the error.
        return (_WRITTEN_BY_KERAS - set(taken)) & set(layer.get_config())
    return set()


def on_this_worker(model):
    """Return the model. With several workers, return an uncompiled copy for `process_group.alone`.

    The engine divides the computations of its models between the workers. Each worker can run the copy by itself.
    """
    return copied(model) if process_group.shared() else model


def copied(model):
    """Return an uncompiled copy of a model, with all its weights and assets, as a file would give it."""
    with tempfile.TemporaryDirectory() as folder, writing(folder):
        path = pathlib.Path(folder, "model.keras")
        save(model, path)
        return process_group.alone(lambda: load(path, classes_of(model)))


def check_can_be_kept(model):
    """Raise `ValueError` if a model cannot be saved and loaded. Called before training.

    A model that is not built has no weights to save: only its configuration is tried.
    """
    try:
        if model.built:
            with tempfile.TemporaryDirectory() as folder, writing(folder):
                save(model, pathlib.Path(folder, "model.keras"))
                loaded = load(pathlib.Path(folder, "model.keras"), classes_of(model))
        else:
            with _bare(model):
                config = keras.saving.serialize_keras_object(model)
            loaded = keras.saving.deserialize_keras_object(config, classes_of(model))
        changed = changed_functions(model, loaded)
        if changed:
            raise ValueError(changed)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"The model {model.name!r} (of type {type(model).__name__}) cannot be kept in a directory: {error}\n"
            f"{_how_to_be_kept(model)}, or leave out `directory`."
        ) from error


def _how_to_be_kept(model):
    layers = backend.flat_layers(model)
    untaken = [type(layer).__name__ for layer in layers if untaken_arguments(layer)]
    if untaken:
        return f"Let `{untaken[0]}.__init__` take `**kwargs`, and pass them on: `super().__init__(**kwargs)`"
    if any(each.__name__ == "<lambda>" for layer in layers for each in _functions_of(layer).values()):
        return "Write functions with a name (`def`) in place of each `lambda`"
    return "Complete the `get_config` of its class"


@contextlib.contextmanager
def _bare(model):
    """Return a context in which Keras saves the model without its optimizer and compile arguments."""
    optimizer = getattr(model, "optimizer", None)
    try:
        if optimizer is not None:
            model.optimizer = None
        model.get_compile_config = lambda: None
        with _uncompiled_config(model):
            yield
    finally:
        del model.get_compile_config
        if optimizer is not None:
            model.optimizer = optimizer
