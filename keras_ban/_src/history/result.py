"""The result of one generation, in one line."""

from keras_ban._src.history.scores import Scores, by_output, in_words, significance_in_words


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
    if isinstance(scores, Scores):
        value, change = f"accuracy {scores.accuracy:.2%}", f"{100 * (scores.change or 0):+.2f} points"
    else:
        value, change = f"loss {scores.loss:.4g}", f"{scores.change or 0:+.4g}"
    text = value if output is None else f"{output}: {value}"
    if scores.change is None:
        return text
    teacher = in_words(scores.compared_with, record.generation)
    return f"{text}, {change} against {teacher} ({significance_in_words(scores)})"


def _of_one_before(history):
    """Return the monitored value of the generation before, for a generation that has one."""
    before = history.records[-2].metrics.get(history.monitor) if len(history.records) > 1 else None
    return "" if before is None else f" (generation {history.records[-2].generation}: {before:.4g})"
