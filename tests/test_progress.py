"""What `BornAgainSequence.fit` says while it trains: the results of generations, and the time left."""

import dataclasses
import re

import keras
import pytest
from helpers.models import classifier
from helpers.sequences import compiled

from keras_ban import BornAgainHistory, GenerationRecord, SoftTargets
from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.scores import Scores
from keras_ban._src.sequence.progress import Progress, in_one_line
from keras_ban._src.sequence.training import Training

FIT = {"batch_size": 96, "verbose": 1, "epochs": 2}


@dataclasses.dataclass
class Settings:
    """What an estimate needs of a sequence."""

    generations: int = 3
    distill_ensemble: bool = False
    controls: tuple = ()


def progress_of(settings, epochs=2, teacher=None, patience=None, verbose=1):
    options = {"epochs": epochs, "verbose": verbose}
    others = {"patience": patience, "compile_arguments": None, "data": None, "unlabeled": None, "run": None}
    return Progress(Training(settings, options=options, teacher=teacher, make_callbacks=list, entropy=0, **others))


def history_of(*seconds, **arguments):
    return BornAgainHistory(
        [GenerationRecord(number, seconds=each) for number, each in enumerate(seconds)], **arguments
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("settings", "epochs", "first", "took", "expected"),
    [
        # Generation 0 stands for the students, until there is one.
        ({}, 2, 0, [10], 30),
        ({}, 2, 0, [10, 20], 40),
        ({}, 2, 0, [10, 20, 40], 30),
        ({}, 2, 0, [10, 20, 40, 30], 0),
        ({}, [30, 10, 10, 20], 0, [60], 80),
        ({}, [30, 10, 10, 20], 0, [60, 10], 30),
        # A given teacher took no time.
        ({}, 2, 1, [0], None),
        ({}, 2, 1, [0, 20], 40),
        ({}, [5, 10, 10], 1, [0, 20], 80),
        ({"distill_ensemble": True}, 2, 0, [10, 20], 60),
        ({"distill_ensemble": True}, 2, 0, [10, 20, 20, 20, 20], 0),
        # Controls are trained as generation 0 is: 4 generations' epochs in one model, and 3 models.
        ({"controls": ("longer",)}, 2, 0, [10, 20], 40 + 40),
        ({"controls": ("longer", "independent")}, 2, 0, [10, 20, 20, 20], 40 + 30),
    ],
)
def test_the_time_left_is_that_of_the_generations_so_far(settings, epochs, first, took, expected):
    progress = progress_of(Settings(**settings), epochs, teacher=classifier() if first == 1 else None, verbose=0)
    for place in range(len(took)):
        progress.end(history_of(*took[: place + 1]), place, 0.0)

    assert expected == progress.seconds_left(len(took) - 1)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("seconds", "patience", "expected"),
    [
        (0.1, None, "about 1 s left"),
        (89, None, "about 89 s left"),
        (90, None, "about 2 min left"),
        (5399, None, "about 90 min left"),
        (5400, 2, "at most about 1.5 h left"),
        (0, None, ""),
    ],
)
def test_the_time_left_is_said_in_round_numbers(seconds, patience, expected, capsys):
    progress = progress_of(Settings(generations=1), patience=patience)

    progress.end(history_of(0.0), 0, seconds)

    assert (f"Generation 0: {expected}\n" if expected else "") == capsys.readouterr().out


@pytest.mark.one_backend
def test_a_generation_that_was_interrupted_took_the_time_of_all_its_parts_and_a_loaded_one_says_nothing(capsys):
    progress = progress_of(Settings(generations=2))

    progress.end(history_of(10.0), 0, None)
    assert 20 == progress.seconds_left(0)
    progress.end(history_of(10.0, 40.0), 1, 5.0)

    assert 40 == progress.seconds_left(1)
    assert "Generation 1: about 40 s left\n" == capsys.readouterr().out


def of_classes(won, lost, compared_with=0):
    return Scores(100, 0.93, 0.25, 0.03, compared_with, 0.8, won, lost)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("record", "expected"),
    [
        # p of McNemar's exact test: two tails of a fair coin, 2 * (1 + 7 + 21) / 2**7 and 2 / 2**12.
        ({"scores": of_classes(5, 2)}, "accuracy 93.00%, +3.00 points against generation 0 (p 0.453, chance?)"),
        ({"scores": of_classes(0, 12)}, "accuracy 93.00%, -12.00 points against generation 0 (p < 0.001)"),
        (
            {"scores": of_classes(5, 5, "ensemble")},
            "accuracy 93.00%, +0.00 points against the ensemble of generations 0 to 0 (p 1.000, chance?)",
        ),
        ({"scores": Scores(100, 0.93, 0.25, 0.03)}, "accuracy 93.00%"),
        ({"scores": LossScores(9, 0.5, 0, -0.25, 0.03)}, "loss 0.5, -0.25 against generation 0 (p 0.030)"),
        (
            {"scores": {"kind": Scores(100, 0.93, 0.25, 0.03), "size": LossScores(9, 0.5, 0, 0.25, 0.05)}},
            "kind: accuracy 93.00%; size: loss 0.5, +0.25 against generation 0 (p 0.050, chance?)",
        ),
        ({"metrics": {"val_loss": 0.5}}, "val_loss 0.5 (generation 0: 0.75)"),
        ({"logs": {"loss": [2.0, 1.5]}}, "loss 1.5 while training"),
        ({}, ""),
    ],
)
def test_the_result_of_a_generation_is_one_line(record, expected):
    first = GenerationRecord(0, metrics={"val_loss": 0.75})

    assert expected == in_one_line(BornAgainHistory([first, GenerationRecord(1, **record)]))


@pytest.mark.one_backend
def test_each_generation_ends_with_its_result_and_the_soft_targets_have_a_label(blobs, capsys):
    sequence = compiled(generations=2, distill_ensemble=True, metrics=["accuracy"])

    sequence.fit(*blobs, **FIT, validation_data=blobs)

    # Keras's bars overwrite themselves.
    lines = capsys.readouterr().out.splitlines()
    ends = [line for line in lines if re.match(r"(Generation \d|The ensemble's student): ", line)]
    records = sequence.history.records
    for name, line, record in zip(
        ["Generation 0", "Generation 1", "Generation 2", "The e"], ends, records, strict=True
    ):
        assert line.startswith(name) and f": accuracy {record.scores.accuracy:.2%}" in line
    assert "against generation 1 (p " in ends[2] and "against the ensemble of generations 0 to 2 (p " in ends[3]
    assert [True, True, True, False] == [" left" in line for line in ends]
    # The ensemble's soft targets are computed as well.
    assert 3 == lines.count("Computing soft targets")
    starts = [line for line in lines if re.match("Generation . of 2, |The ensemble's student, ", line)]
    order = [line for line in lines if line in starts + ends]
    assert [line for pair in zip(starts, ends, strict=True) for line in pair] == order


@pytest.mark.one_backend
@pytest.mark.parametrize("verbose", [0, 2])
def test_there_is_no_label_without_a_bar_and_no_line_if_fit_is_silent(verbose, blobs, capsys):
    compiled().fit(*blobs, **{**FIT, "verbose": verbose})
    said = capsys.readouterr().out

    assert "Computing" not in said
    assert (verbose == 2) is ("Generation 1: loss " in said)
    assert verbose == 2 or said == ""


@pytest.mark.one_backend
def test_a_given_teacher_that_is_not_measured_has_no_line(blobs, capsys):
    compiled(generations=2).fit(*blobs, **{**FIT, "verbose": 2}, teacher=classifier())

    said = capsys.readouterr().out
    assert "Generation 0" not in said.replace("taught by generation 0", "")
    assert "Generation 1: loss " in said


@pytest.mark.one_backend
def test_a_loaded_generation_says_nothing_more(blobs, tmp_path, capsys):
    compiled(directory=tmp_path).fit(*blobs, **{**FIT, "verbose": 0})

    compiled(directory=tmp_path).fit(*blobs, **{**FIT, "verbose": 2})

    said = capsys.readouterr().out
    assert "already in" in said and "Generation 0:" not in said and "Generation 1:" not in said


@pytest.mark.one_backend
def test_soft_targets_computed_alone_have_a_label_too(blobs, capsys):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])

    SoftTargets.from_teacher(model, blobs[0], verbose=1)
    assert capsys.readouterr().out.startswith("Computing soft targets\n")
    SoftTargets.from_teacher(model, blobs[0], verbose=0)

    assert "" == capsys.readouterr().out
