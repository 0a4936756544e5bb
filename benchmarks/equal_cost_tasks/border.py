"""Tasks of many sizes, to find where being born again pays: classes, examples of each, length of training."""

import math

from equal_cost_tasks import tables, texts

# By the function that makes tasks: the name, the numbers of classes, of examples of each class (on average), and the
# epochs of a plain training on so many examples.
_KINDS = {
    tables.letters: ("letter", (5, 26), (5, 20, 75, 300), 80, 500),
    texts.books: ("bible", (8, 66), (10, 40, 160), 20, 2500),
}
# A short training has a quarter of the epochs.
_LENGTHS = {"": 1.0, "_short": 0.25}
RECIPES = ["plain", "longer", "independent", "chain", "several teachers", "honest teachers, one student"]
COSTS = [1, 2, 4]


def _tasks():
    tasks = {}
    for make, (kind, classes_of, examples_of, epochs, reference) in _KINDS.items():
        for classes in classes_of:
            for examples in examples_of:
                for suffix, length in _LENGTHS.items():
                    labeled = classes * examples
                    # Between equal epochs and equal steps.
                    count = max(1, round(length * epochs * math.sqrt(reference / labeled)))
                    name = f"{kind}_{classes}x{examples}{suffix}"
                    tasks[name] = make(name, classes, labeled, count)
    return tasks


TASKS = _tasks()
