"""What is said when a generation is finished: its result, and the time left."""

from keras_ban._src.history import result
from keras_ban._src.history.controls import INDEPENDENT, LONGER


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
        record, parts = history.records[-1], [result.in_one_line(history)]
        left = self.seconds_left(place)
        if left:
            parts.append(("" if self._training.patience is None else "at most ") + f"about {in_words(left)} left")
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


def in_words(seconds):
    """Return a length of time as text, in round numbers."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
