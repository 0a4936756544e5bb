"""What a history knows of each output of its models: scores, and answers on each example."""

import dataclasses

import numpy as np

from keras_ban._src.history.scores import ENSEMBLE, Scores, by_output
from keras_ban._src.history.table import best_of


@dataclasses.dataclass
class Output:
    """The scores of all models on one output.

    Attributes:
        name: the name of the output. `None` if there is one alone.
        scores: `Scores` or `LossScores` by the labels of models: generations in their order, the ensemble last.
        chosen: the label of the chosen generation; without one, of the last.
        class_names: a name for each class, or `None`.
    """

    name: str | None
    scores: dict
    chosen: str
    class_names: list | None = None

    @property
    def answers(self):
        """The `Answers` of each model that has some, by its label."""
        return self._of_examples("answers")

    @property
    def losses(self):
        """The losses of the examples of each model that has some, by its label."""
        return self._of_examples("losses")

    def _of_examples(self, name):
        found = {label: getattr(scores, name, None) for label, scores in self.scores.items()}
        return {label: each for label, each in found.items() if each is not None}

    @property
    def examples(self):
        """The number of examples that are known one by one."""
        return next((len(each.labels) for each in self.answers.values()), 0) or max(
            map(len, self.losses.values()), default=0
        )

    @property
    def is_paired(self):
        """Whether the examples came in one order for all models."""
        labels = [each.labels for each in self.answers.values()]
        return all(np.array_equal(each, labels[0]) for each in labels)

    @property
    def shown(self):
        """The labels of the models that details are shown of: the first, the chosen and the ensemble."""
        labels = [next(iter(self.scores)), self.chosen, ENSEMBLE]
        return [label for label in dict.fromkeys(labels) if label in self.scores]

    def heading(self, text):
        return text if self.name is None else f"{text}: output {self.name!r}"


def label_of(record):
    return "distilled student" if record.distilled else f"generation {record.generation}"


def in_sentence(label):
    """Return the label of a model, with an article if it needs one."""
    return f"the {label}" if label in (ENSEMBLE, "distilled student") else label


def outputs_of(history, class_names=None):
    """Return the `Output` of each output that has scores."""
    best = best_of(history)
    chosen = label_of(history.records[-1 if best is None else best])
    models = {label_of(record): record.scores for record in history.records} | {ENSEMBLE: history.ensemble}
    found = {}
    for label, scores in models.items():
        for name, each in by_output(scores).items():
            found.setdefault(name, {})[label] = each
    found = [Output(name, scores, chosen) for name, scores in found.items() if chosen in scores]
    _name_classes(found, class_names)
    return found


def _name_classes(outputs, class_names):
    """Set the names of classes. Raise `ValueError` if they do not fit."""
    of_classes = {each.name: each for each in outputs if isinstance(each.scores[each.chosen], Scores)}
    if class_names is not None:
        named = class_names if isinstance(class_names, dict) else dict.fromkeys(list(of_classes)[:1], class_names)
        if not of_classes or set(named) - set(of_classes) or (len(of_classes) > 1 and named is not class_names):
            raise ValueError(
                "`class_names` must be a list of the names of classes, of several outputs a dict of such lists. The "
                f"outputs with classes are {[name for name in of_classes if name is not None] or len(of_classes)}, "
                f"received: {class_names!r}."
            )
        for name, names in named.items():
            of_classes[name].class_names = [str(each) for each in names]
    for name, output in of_classes.items():
        count = next((each.classes for each in output.answers.values()), None)
        if output.class_names is None and count is not None:
            output.class_names = [f"class {number}" for number in range(count)]
        elif count is not None and len(output.class_names) != count:
            of_output = "" if name is None else f" of output {name!r}"
            raise ValueError(
                f"`class_names` must have a name for each of the {count} classes{of_output}, received "
                f"{len(output.class_names)} names."
            )
