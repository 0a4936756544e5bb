"""The models of a run on disk, each of which is read when it is used."""

import collections.abc


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
