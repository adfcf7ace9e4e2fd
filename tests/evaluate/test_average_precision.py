"""Average precision of simple cases, by hand."""

from __future__ import annotations

import pytest
from labelled import detected, label, labelled

from trtdeploy.core.errors import UsageError
from trtdeploy.evaluate.average_precision import average_precision

BOXES = ((10, 10, 40, 50), (60, 20, 90, 60))
OWN = {0: 0, 1: 1}


def test_the_labels_themselves_have_1() -> None:
    data = labelled([label(0, BOXES[0]), label(1, BOXES[1])])
    accuracy = average_precision([detected(BOXES, [0, 1])], data, OWN)
    assert (accuracy.map50_95, accuracy.map50, accuracy.map75) == pytest.approx((1, 1, 1))
    assert accuracy.by_size["all"].recall == pytest.approx(1)
    assert accuracy.by_size["medium"].labels == 2
    assert accuracy.by_size["small"].map50 is None
    assert accuracy.by_class["dog"].labels == 1


@pytest.mark.parametrize(("classes", "expected"), [((1, 0), 0.0), ((0, 0), 0.5), ((), 0.0)])
def test_boxes_of_a_wrong_class_count_against_it(classes: tuple[int, ...], expected: float) -> None:
    data = labelled([label(0, BOXES[0]), label(1, BOXES[1])])
    assert average_precision([detected(BOXES[: len(classes)], classes)], data, OWN).map50 == pytest.approx(expected)


def test_classes_of_the_model_alone_do_not_count() -> None:
    data = labelled([label(1, BOXES[0])], classes=("cat", "dog", "cow"))
    found = [detected((BOXES[1], BOXES[0]), [7, 0])]
    assert average_precision(found, data, {0: 1}).map50_95 == pytest.approx(1)


def test_labels_of_no_class_of_the_model_are_refused() -> None:
    data = labelled([label(1, BOXES[0])])
    with pytest.raises(UsageError, match="none of the 1 images has a label of the model's classes that counts"):
        average_precision([detected([], [])], data, {0: 0})
    with pytest.raises(UsageError, match="that counts"):
        average_precision([detected([], [])], labelled([label(0, BOXES[0], ignored=True)]), OWN)
