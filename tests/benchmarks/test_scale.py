"""`benchmarks/scale.py`: its formulas against numbers worked out by hand and against files, and docs/scale.md."""

import dataclasses
import sys

import _calibrating
import keras
import numpy as np
import pytest
import scale
from helpers.processes import ROOT, run_script

import keras_ban

pytestmark = pytest.mark.one_backend
BACKEND = keras.config.backend()
# Numbers of which a calculation by hand keeps count.
SMALL = scale.Scenario(
    examples=1000,
    validation=100,
    outputs=2,
    classes=50,
    bytes_of_example=30.0,
    weights=400,
    epochs=5,
    batch=10,
    step_rate=50.0,
    forward_rate=200.0,
)
MACHINE = scale.Machine(
    gpus=2, price=36.0, disk_rate=1e4, gpu_memory_rate=6e4, link_rate=1e4, dense_rate=2e4, top_k_rate=1e4
)


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (4000, {"classes": 1000}),
        (2000, {"classes": 1000, "dtype": "float16"}),
        (20 * (2 + 2) + 2, {"classes": 1000, "top_k": 20}),
        (20 * (2 + 2) + 2, {"classes": 65_536, "top_k": 20}),
        (20 * (4 + 2) + 2, {"classes": 65_537, "top_k": 20}),
        (5 * (1 + 4) + 4, {"classes": 256, "top_k": 5, "dtype": "float32"}),
        (1024 * 50_000 * 4, {"classes": 50_000, "outputs": 1024}),
        (10 * 82, {"classes": 1000, "top_k": 20, "views": 10}),
    ],
)
def test_the_bytes_of_a_row_are_those_counted_by_hand(expected, arguments):
    assert expected == scale.row_bytes(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"dtype": "float16"}, {"top_k": 7}, {"top_k": 7, "dtype": "float32"}])
def test_a_file_of_soft_targets_has_the_bytes_of_the_formula(tmp_path, arguments):
    teacher = keras.Sequential([keras.Input((3, 4)), keras.layers.Dense(300)])
    x = np.random.default_rng(0).standard_normal((50, 3, 4)).astype("float32")
    path = tmp_path / "targets.npy"
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, path=path, verbose=0, **arguments)

    expected = scale.file_bytes(50, scale.row_bytes(classes=300, outputs=3, **arguments))

    assert expected == targets.nbytes
    assert 0 < path.stat().st_size - expected < 2048  # what the file says of itself


def test_a_file_of_several_views_has_the_bytes_of_the_formula(tmp_path):
    teacher = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    x = np.random.default_rng(0).random((8, 4, 4, 1)).astype("float32")
    flips = keras.layers.RandomFlip()
    options = {"augmentation": flips, "views": 3, "top_k": 2, "verbose": 0}
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, path=tmp_path / "targets.npy", **options)

    assert scale.file_bytes(8, scale.row_bytes(classes=10, top_k=2, views=3)) == targets.nbytes


def test_a_teacher_passes_once_for_each_student_epoch_view_and_member():
    assert 3 * 90 == scale.teacher_passes(3, 90)
    assert 3 * 10 == scale.teacher_passes(3, 10)
    assert (1 + 2 + 3) * 10 == scale.teacher_passes(3, 10, members="ensemble")


def test_a_model_takes_its_steps_its_validations_and_its_teachers_passes():
    # 1,000 examples at 50 a second; 100 of validation at 200 a second, in each epoch and twice more.
    plain = 5 * 1000 / 50 + 7 * 100 / 200
    # Six passes over 2 * 50 floats of 4 bytes, at 2 * 60,000 bytes a second, are 0.02 s an example on top of 0.02.
    student = 5 * 1000 * (0.02 + 0.02) + 7 * 100 / 200

    assert plain == pytest.approx(scale.model_seconds(SMALL, MACHINE), rel=1e-12)
    assert student + 60 == pytest.approx(scale.model_seconds(SMALL, MACHINE, 60.0), rel=1e-12)
    assert plain + 3 * (student + 60) == pytest.approx(scale.sequence_seconds(SMALL, MACHINE, 3, 60.0), rel=1e-12)
    assert 36 * 4 * 2 == pytest.approx(scale.cost(4 * 3600, dataclasses.replace(SMALL, machines=2), MACHINE))


def test_an_epoch_waits_for_the_disk_where_that_is_slower_than_its_steps():
    # 30 + 970 bytes an example at 10,000 bytes a second are 0.1 s, and a step takes 0.04.
    assert 5 * 100 + 3.5 == pytest.approx(scale.model_seconds(SMALL, MACHINE, 0.0, bytes_of_row=970), rel=1e-12)
    # Two machines have two disks, and 80% of twice the rate.
    both = dataclasses.replace(SMALL, machines=2, efficiency=0.8)
    assert 5 * 50 + 1.75 == pytest.approx(scale.model_seconds(both, MACHINE, 0.0, bytes_of_row=970), rel=1e-12)
    assert 5 * 1000 / 80 + 1.75 == pytest.approx(scale.model_seconds(both, MACHINE), rel=1e-12)


def test_a_teachers_pass_takes_its_way_to_the_file():
    # 100,000 outputs: of 4 bytes over two links of 10,000 bytes a second; then 20,000 or 10,000 a second and process.
    assert [5.0, 5 + 20 + 2.5, 5 + 20 + 5] == [
        scale.pass_seconds(SMALL, MACHINE, kept) for kept in (None, "dense", "top_k")
    ]


def test_gradients_go_around_a_ring_of_machines_twice():
    assert 0.0 == scale.all_reduce_seconds(1000, 1, 100.0)
    assert 2 * 3 / 4 * 1000 * 2 / 100 == pytest.approx(scale.all_reduce_seconds(1000, 4, 100.0), rel=1e-12)


def test_a_sequence_is_predicted_from_the_line_through_its_parts():
    costs = {
        "step, plain": scale_line(slope=2.0, intercept=1.0),
        "step, soft targets cached": scale_line(slope=3.0, intercept=1.0),
        "teacher's pass": scale_line(slope=0.5, intercept=2.0),
        "evaluation": scale_line(slope=0.25, intercept=0.0),
        "prediction": scale_line(slope=0.25, intercept=1.0),
    }
    plain, student, teacher = 2 * 80 + 1, 3 * 80 + 1, 0.5 * 80 + 2
    by_hand = 2 * plain + 3 * (2 * student + teacher) + 4 * (3 * 0.25 * 20 + 0.25 * 20 + 1)

    assert by_hand == pytest.approx(_calibrating.of_parts(costs, 80, 2, clock=1), rel=1e-12)


def scale_line(slope, intercept):
    """Through two points of a line; the CPU's seconds are twice those of the wall."""
    found = _calibrating.line_through(*((n, (2 * (slope * n + intercept), slope * n + intercept)) for n in (10, 30)))
    np.testing.assert_allclose(found, [[2 * slope, slope], [2 * intercept, intercept]], atol=1e-12)
    return found


def test_the_tables_of_the_documentation_are_those_that_the_script_prints(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale.py"])
    scale.main()
    printed = capsys.readouterr().out
    document = (ROOT / "docs" / "scale.md").read_text()
    lines = document.splitlines()
    blocks = [block for block in printed.split("\n\n") if block.startswith("|")]

    assert 6 == len(blocks)
    for block in blocks:
        assert block in document, f"docs/scale.md has another table than the script prints:\n{block}"
    for number, source in enumerate(scale.SOURCES, start=1):
        assert f"{number}. {source}" in lines


def test_the_script_prints_the_scenarios_that_are_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale.py", "--scenario", "tokens"])
    scale.main()
    printed = capsys.readouterr().out

    assert "tokens" in printed and "imagenet-8" not in printed


@pytest.mark.slow
@pytest.mark.new_process
def test_a_calibration_predicts_sequences_that_it_did_not_measure():
    options = ["--calibrate", "--model", "MLP", "--small", 256, 512, "--sizes", "768x1", "--rounds", 1, "--repeats", 1]

    printed = run("scale.py", *options)

    assert "768x1" not in printed and "| 6,144" in printed
    assert "by formula 408" in printed


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no data parallelism of its own on torch")
def test_scaling_is_told_for_each_kind_and_number_of_devices():
    printed = run("scaling.py", "--model", "MLP", "--devices", 1, 2, "--examples", 64, "--rounds", 1)

    assert 2 == printed.count("Distiller, soft targets cached, against plain fit")
    assert 2 == printed.count("| 2 devices")


def run(script, *arguments):
    # For the interpreters that the script starts.
    environment = {"PYTHONPATH": str(ROOT)}
    result = run_script(f"benchmarks/{script}", "--backend", BACKEND, *arguments, environment=environment)
    assert 0 == result.returncode, result.stderr
    return result.stdout
