"""A run on disk, as a sequence is restored from it. Each model is read when it is used."""

import collections.abc
import contextlib
import functools

from keras_ban._src.files import model_file
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.sequence.initial_weights import FRESH
from keras_ban._src.sequence.recipes import CompileArguments, from_config
from keras_ban._src.sequence.soup import LastFit

_PLAIN: tuple[str, ...] = ("generations", "soft_targets", "top_k", "teach_from", "distill_ensemble", "shared_layers")
_PLAIN = (*_PLAIN, "controls", "initial_weights", "soften_teachers")


class StoredRun:
    """What a run directory holds of a `BornAgainSequence`.

    Args:
        directory: its path.
        custom_objects: as in `keras.saving.load_model`.

    Attributes:
        models: the finished generations, as `StoredModels`.
        history: their `BornAgainHistory`.
        settings: the sequence's arguments, by name.
        seed: the seed of the run.
        last_fit: the `LastFit`.
        lacks: the arguments that no file holds, in words.
    """

    def __init__(self, directory, custom_objects=None):
        run = RunDirectory(directory).read()
        if not run.entries:
            raise ValueError(f"{directory} holds a run of which no generation is finished yet: continue it by `fit`.")
        begun_with = run.manifest["begun_with"]
        generations = range(len(run.entries))
        paths = [run.model_file(generation) for generation in generations]
        model_file.check_configurations(paths, custom_objects)
        readers = [functools.partial(_read, run, generation, custom_objects) for generation in generations]
        self.models = StoredModels(readers)
        self.history, self.seed = run.history(), run.manifest["seed"]
        self._directory, self._custom_objects = directory, custom_objects
        with _as_written(directory):
            self._read_settings(begun_with, paths)

    def _read_settings(self, begun_with, paths):
        self.settings = {name: begun_with[name] for name in _PLAIN if name in begun_with}
        starts = self.settings.setdefault("initial_weights", FRESH)
        for name in ("distillation_loss", "label_weight", "feature_matching"):
            try:
                self.settings[name] = from_config(name, begun_with.get(name), self._custom_objects)
            except ValueError as error:
                raise ValueError(
                    f"{self._directory} cannot be loaded as a sequence: {error}. Register your own classes and "
                    "functions with `keras.saving.register_keras_serializable`, or pass them as `custom_objects`. "
                    "Where that does not help, make the sequence as it was made, with this `directory`, and call "
                    "`fit`, which loads what is finished. The models are whole, and need none of it: "
                    f"`keras.saving.load_model('{paths[0]}')`."
                ) from error
        self.last_fit = LastFit.of_run(begun_with)
        lacks = {
            "a callable `model`": len(begun_with["model"]) > 1,
            "an `augmentation`": begun_with["augmentation"] is not None,
            f"the weights of `model` (initial_weights={starts!r})": starts != FRESH,
        }
        self.lacks = [name for name, is_so in lacks.items() if is_so]
        self._compile = begun_with["compile"]

    def compile_arguments(self):
        """The arguments of `compile`; `ValueError` if one could not be serialized or is not known."""
        with _as_written(self._directory):
            if self._compile["optimizer"] is None:
                raise TypeError("`optimizer` is None")
            return CompileArguments.from_config(self._compile, self._custom_objects)


@contextlib.contextmanager
def _as_written(directory):
    """Raise `ValueError` if settings are missing, or of other types than a run writes."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{directory}/run.json holds settings that no run has written ({error!r}). Restore it from a copy. The "
            "models can still be loaded with `keras.saving.load_model`."
        ) from error


def _read(run, generation, custom_objects):
    """Read a model. Its file is checked again, since it may have changed after the run was loaded."""
    return model_file.load(run.model_file(generation), custom_objects)


class StoredModels(collections.abc.Sequence):
    """A list of models that are read when they are first used, and then kept. A slice is a plain list of models.

    Args:
        readers: a function without arguments for each model, which reads it.
    """

    def __init__(self, readers):
        self._readers = list(readers)
        self._read = {}
        self._compile_arguments = None

    def compile_with(self, compile_arguments):
        """Compile the models that were read, and each of the others when it is read. Only the first call counts."""
        if self._compile_arguments is None:
            self._compile_arguments = compile_arguments
            for model in self._read.values():
                compile_arguments.compile(model)

    def __len__(self):
        return len(self._readers)

    def __getitem__(self, index):
        places = range(len(self))[index]
        return [self._model(place) for place in places] if isinstance(index, slice) else self._model(places)

    def _model(self, place):
        if place not in self._read:
            model = self._readers[place]()
            if self._compile_arguments is not None:
                self._compile_arguments.compile(model)
            self._read[place] = model
        return self._read[place]

    # As those of a list.
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other):
        return list(self) == list(other) if isinstance(other, (list, StoredModels)) else NotImplemented

    def __add__(self, other):
        return list(self) + list(other) if isinstance(other, (list, StoredModels)) else NotImplemented

    def __radd__(self, other):
        return other + list(self) if isinstance(other, list) else NotImplemented

    def __repr__(self):
        models = [repr(self._read[place]) if place in self._read else "not read yet" for place in range(len(self))]
        return f"StoredModels([{', '.join(models)}])"
