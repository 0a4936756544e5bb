"""`benchmarks/born_again.py`: what it measures, and the table that it makes of its file."""

import argparse
import json

import born_again
import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


def logits_of(*probabilities):
    # Logits are known but for a constant.
    return np.log(np.array(probabilities)) + 3.0


def test_a_model_is_measured_by_its_probabilities_and_against_its_teacher():
    teacher = logits_of([[0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    model = logits_of([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]])
    # The teacher is right on images 0 and 1, the model on 0 alone.
    measured = born_again.measure(model, np.array([0, 1, 0]), teacher)

    assert (3, 1 / 3, 0, 1) == tuple(measured[key] for key in ("images", "accuracy", "mended", "broken"))
    assert measured["nll"] == pytest.approx(-np.log([0.9, 0.2, 0.4]).mean(), rel=1e-12)


def test_an_ensemble_is_measured_by_the_average_of_its_probabilities():
    members = logits_of([[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.1, 0.9]])
    measured = born_again.measure(members, np.array([0, 1]), members[1:])

    assert measured["nll"] == pytest.approx(-np.log([0.55, 0.65]).mean(), rel=1e-12)
    assert (1.0, 1, 0) == tuple(measured[key] for key in ("accuracy", "mended", "broken"))


def line(method, seed, *accuracies, **more):
    models = [{"images": 100, "accuracy": a, "nll": 1 - a, "mended": 9, "broken": 1} for a in accuracies]
    settings = {"backend": "jax", "epochs": 20, "learning_rate": 0.002}
    return {"method": method, "seed": seed, "models": models, "seconds": 36.0, "measured_on": "test"} | {
        "settings": settings,
        "versions": {},
        "machine": "",
        **more,
    }


def test_the_table_and_the_plot_are_made_of_the_file_alone(tmp_path, capsys):
    ensemble = {"images": 100, "accuracy": 0.75, "nll": 0.25, "mended": 20, "broken": 0}
    ensembles = {"ensemble": ensemble, "ensemble with the teacher": ensemble}
    lines = [
        line("teacher", 0, 0.50),
        line("teacher", 1, 0.60),
        line("independent", 0, 0.5, 0.5, 0.5, **ensembles),
        line("independent", 1, 0.6, 0.6, 0.6, **ensembles),
        line("ban+l", 0, 0.5, 0.5, 0.5, 0.5, **ensembles, **{"ensemble with both": ensemble}),
        line("long", 0, 0.52),
        line("long", 1, 0.64),
        line("smoothing", 2, 0.99),  # No teacher of this seed: nothing to compare it with.
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    arguments = argparse.Namespace(out=tmp_path, report=True)

    born_again.report(arguments, born_again.read_lines(arguments))

    printed = capsys.readouterr().out
    row = next(row for row in printed.splitlines() if row.startswith("│ long"))
    # Changes of 2 and 4 points: 3 on average, a standard error of 1, of 45 points of error 6.7%; by flipping the signs
    # of two changes half of all cases are as far off; 18 of 20 changed predictions are mended.
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert ["long", "2", "58.00 (6.00)", "+3.00 (1.00)", "6.7", "0.500", "0.0004", "0.420 (0.060)"] == cells
    assert "smoothing" not in printed
    names = [row.split("│")[1].strip() for row in printed.splitlines() if row.startswith("│ ban+l")]
    last = ["student of the ensemble", "ensemble", "ensemble with the teacher", "ensemble with both"]
    assert [f"ban+l, {name}" for name in ["generation 1", "generation 2", "generation 3", *last]] == names
    assert (tmp_path / "born_again.png").stat().st_size > 1000


def test_results_of_other_settings_are_not_mixed(tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps(line("teacher", 0, 0.5)) + "\n")
    arguments = {"out": tmp_path, "report": False, "measure_on": "test", "backend": "jax", "epochs": 20}

    assert 1 == len(born_again.read_lines(argparse.Namespace(**arguments, learning_rate=0.002)))
    with pytest.raises(SystemExit, match="learning_rate.*choose another --out"):
        born_again.read_lines(argparse.Namespace(**arguments, learning_rate=0.1))
