"""What is said when a generation is finished: its result, and the time left."""

from keras_ban._src.history import result
from keras_ban._src.history.controls import INDEPENDENT, LONGER
from keras_ban._src.sequence.per_generation import epochs_at


class Progress:
    """Estimates the time left of one `fit` of a `BornAgainSequence`.

    An epoch of a student takes as long as those of the students before took on average, soft targets and measuring
    included; until there is one, as long as an epoch of generation 0. Epochs that `EarlyStopping` left out count as
    done, so later generations are expected to stop as early. Controls take as long as generation 0.

    Args:
        sequence: the `BornAgainSequence` with the settings.
        epochs: as `per_generation.check_epochs` returns them.
        first: the first generation that is trained: 0, or 1 with a given teacher.
        patience, verbose: as in `BornAgainSequence.fit`.
    """

    def __init__(self, sequence, epochs, first, patience, verbose):
        self._sequence = sequence
        self._epochs = epochs
        self._first = first
        self._patience = patience
        self._verbose = verbose
        self._took = {}  # The seconds by place.

    def end(self, history, place, seconds):
        """Note what the last record took, whose place this is, and print the line about it.

        `seconds` are those in this process. `None`: it was loaded, which was said when it began.
        """
        if place >= self._first:
            # An interrupted generation took longer than in this process.
            self._took[place] = max(seconds or 0.0, history.records[-1].seconds)
        line = self.line(history, place)
        if self._verbose != 0 and seconds is not None and line:
            print(line, flush=True)

    def line(self, history, place):
        """Return the line. It is empty if nothing is known."""
        record, parts = history.records[-1], [result.in_one_line(history)]
        subject = "The ensemble's student" if record.distilled else f"Generation {record.generation}"
        seconds = self.seconds_left(place)
        if seconds:
            parts.append(("" if self._patience is None else "at most ") + f"about {_in_words(seconds)} left")
        parts = [part for part in parts if part]
        return f"{subject}: {'; '.join(parts)}" if parts else ""

    def seconds_left(self, place):
        """Return the seconds for what comes after a place. `None`: not known."""
        sequence = self._sequence
        last = sequence.generations + sequence.distill_ensemble
        to_come = sum(self._planned(each) for each in range(max(place + 1, self._first), last + 1))
        students = [each for each in self._took if each > 0]
        per_epoch = self._seconds_per_epoch(students or [0])
        if per_epoch is None:
            return None
        seconds = to_come * per_epoch
        if sequence.controls:
            of_all = sum(self._planned(each) for each in range(last + 1)) if LONGER in sequence.controls else 0
            of_others = sequence.generations * self._planned(0) if INDEPENDENT in sequence.controls else 0
            seconds += (of_all + of_others) * (self._seconds_per_epoch([0]) or 0)
        return seconds

    def _planned(self, place):
        return epochs_at(self._epochs, place, self._first)

    def _seconds_per_epoch(self, places):
        places = [place for place in places if place in self._took]
        return sum(self._took[each] for each in places) / sum(map(self._planned, places)) if places else None


def _in_words(seconds):
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
