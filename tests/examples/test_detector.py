"""`examples/detector.py`: its images, and a short run."""

import re

import detector
import numpy as np
import pytest


def test_boxes_enclose_their_shapes():
    x, y = detector.images(200, seed=3)
    for image, (left, top, right, bottom) in zip(x[..., 0], np.round(y["box"] * 16).astype(int), strict=True):
        assert 0 <= left < right <= 16 and 0 <= top < bottom <= 16
        inside = np.zeros((16, 16), bool)
        inside[top:bottom, left:right] = True
        # A cross covers a fifth of its box at least. The means of noise are below 0.1.
        assert image[~inside].mean() < 0.1 < image[inside].mean()
        # The shape touches the edges of its box.
        edges = [image[top, left:right], image[bottom - 1, left:right]]
        edges += [image[top:bottom, left], image[top:bottom, right - 1]]
        assert all(edge.max() > 0.4 for edge in edges)
    box = np.array([[0.0, 0.0, 0.5, 0.5]])
    np.testing.assert_allclose([1 / 7], detector.iou(box, box + 0.25))


@pytest.mark.one_backend
def test_a_short_run_reports_teacher_and_students(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["detector.py", "--epochs", "2", "--examples", "400"])

    detector.main()

    lines = capsys.readouterr().out.splitlines()
    assert ["teacher", "student on labels alone", "student of the teacher"] == [line.split(":")[0] for line in lines]
    assert all(float(re.search(r"IoU (\S+),", line).group(1)) > 0.1 for line in lines)
