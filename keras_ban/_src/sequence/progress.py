"""What is said when a generation is finished: its result, and the time left."""

from keras_ban._src.history.controls import INDEPENDENT, LONGER
from keras_ban._src.history.scores import Scores, by_output, in_words, significance_in_words


class Progress:
    """Estimates the time left of one `fit` of a `BornAgainSequence`.

    An epoch of a student takes as long as those of the students before took on average, soft targets and measuring
    included; until there is one, as long as an epoch of generation 0. Epochs that `EarlyStopping` left out count as
    done, so later generations are expected to stop as early. Controls take as long as generation 0.

    Args:
        training: the `Training`.
    """

    def __init__(self, training):
        self._training = training
        self._took = {}  # The seconds by place.

    def end(self, history, place, seconds):
        """Note what the last record took, whose place this is, and print the line about it.

        `seconds` are those in this process. `None`: it was loaded, which was said when it began.
        """
        if place >= self._training.first:
            # An interrupted generation took longer than in this process.
            self._took[place] = max(seconds or 0.0, history.records[-1].seconds)
        record, parts = history.records[-1], [in_one_line(history)]
        left = self.seconds_left(place)
        if left:
            parts.append(("" if self._training.patience is None else "at most ") + f"about {time_in_words(left)} left")
        parts = [part for part in parts if part]
        if self._training.options["verbose"] != 0 and seconds is not None and parts:
            subject = "The ensemble's student" if record.distilled else f"Generation {record.generation}"
            print(f"{subject}: {'; '.join(parts)}", flush=True)

    def seconds_left(self, place):
        """Return the seconds for what comes after a place. `None`: not known."""
        sequence, first, last = self._training.sequence, self._training.first, self._training.last
        to_come = sum(map(self._training.epochs, range(max(place + 1, first), last + 1)))
        students = [each for each in self._took if each > 0]
        per_epoch = self._seconds_per_epoch(students or [0])
        if per_epoch is None:
            return None
        seconds = to_come * per_epoch
        if sequence.controls:
            of_all = sum(map(self._training.epochs, range(last + 1))) if LONGER in sequence.controls else 0
            of_others = sequence.generations * self._training.epochs(0) if INDEPENDENT in sequence.controls else 0
            seconds += (of_all + of_others) * (self._seconds_per_epoch([0]) or 0)
        return seconds

    def _seconds_per_epoch(self, places):
        places = [place for place in places if place in self._took]
        return sum(self._took[each] for each in places) / sum(map(self._training.epochs, places)) if places else None


def time_in_words(seconds):
    """Return a length of time as text, in round numbers."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def in_one_line(history):
    """Return the result of the last record against its teacher, or an empty text if nothing was measured.

    It is that of the scores; without them the monitored value, and without validation data the loss of the training.
    """
    record = history.records[-1]
    parts = [_of_scores(scores, output, record) for output, scores in by_output(record.scores).items()]
    if not parts and history.monitor in record.metrics:
        parts = [f"{history.monitor} {record.metrics[history.monitor]:.4g}{_of_one_before(history)}"]
    if not parts and record.logs.get("loss"):
        parts = [f"loss {record.logs['loss'][-1]:.4g} while training"]
    return "; ".join(parts)


def _of_scores(scores, output, record):
    of_classes = isinstance(scores, Scores)
    value = f"accuracy {scores.accuracy:.2%}" if of_classes else f"loss {scores.loss:.4g}"
    text = value if output is None else f"{output}: {value}"
    if scores.change is None:
        return text
    change = f"{100 * scores.change:+.2f} points" if of_classes else f"{scores.change:+.4g}"
    teacher = in_words(scores.compared_with, record.generation)
    return f"{text}, {change} against {teacher} ({significance_in_words(scores)})"


def _of_one_before(history):
    """Return the monitored value of the generation before, for a generation that has one."""
    before = history.records[-2].metrics.get(history.monitor) if len(history.records) > 1 else None
    return "" if before is None else f" (generation {history.records[-2].generation}: {before:.4g})"
