"""The hardest images by name, and how often the true class is among the first k."""

from __future__ import annotations

import pytest
import sklearn.metrics as oracle
import torch

from cnnlab.evaluation.hardest import hardest_images
from cnnlab.evaluation.metrics import classification_metrics, ranks

CLASSES = ["cat", "dog", "frog"]


def test_the_worst_and_the_closest_come_first() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8]])
    hardest = hardest_images(probabilities.log(), torch.tensor([0, 2, 1, 2]), list("abcd"), CLASSES, count=2)
    assert [one["picture"] for one in hardest["by_loss"]] == ["b", "c"]
    worst = hardest["by_loss"][0]
    assert (worst["true"], worst["predicted"]) == ("frog", "dog")
    assert worst["probability_true"] == pytest.approx(0.05)
    assert worst["probability_predicted"] == pytest.approx(0.9)
    assert worst["loss"] == pytest.approx(2.9957, abs=1e-4)
    assert [(one["picture"], one["second"]) for one in hardest["by_margin"]] == [("c", "dog"), ("a", "dog")]
    assert [one["margin"] for one in hardest["by_margin"]] == pytest.approx([0.05, 0.5])


def test_few_images_and_a_single_class_are_enough() -> None:
    hardest = hardest_images(torch.tensor([[1.0]]), torch.tensor([0]), ["a"], ["all"])
    assert [len(part) for part in hardest.values()] == [1, 1]
    assert hardest["by_margin"][0]["margin"] == 0


def test_equal_images_keep_their_order() -> None:
    hardest = hardest_images(torch.zeros(9, 3), torch.zeros(9, dtype=torch.int64), list("abcdefghi"), CLASSES, 5)
    assert "".join(one["picture"] for one in hardest["by_loss"]) == "abcde"
    assert "".join(one["picture"] for one in hardest["by_margin"]) == "abcde"


@pytest.mark.parametrize(("classes", "expected"), [(2, ["1"]), (4, ["1", "2", "3"]), (30, ["1", "2", "3", "5", "10"])])
def test_top_k_is_that_of_scikit_learn(classes: int, expected: list[str]) -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, classes, generator=random), torch.randint(classes, (200,), generator=random)
    metrics = classification_metrics(logits, labels, [str(i) for i in range(classes)])
    assert list(metrics["topk_accuracy"]) == expected
    assert metrics["topk_accuracy"]["1"] == metrics["accuracy"]
    for k, accuracy in metrics["topk_accuracy"].items():
        if classes > 2:
            theirs = oracle.top_k_accuracy_score(labels, logits.numpy(), k=int(k), labels=range(classes))
            assert accuracy == pytest.approx(theirs)


def test_of_equal_logits_the_first_class_wins() -> None:
    assert ranks(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]), torch.tensor([0, 1])).tolist() == [0, 1]


def test_the_most_confused_pairs_are_named() -> None:
    logits = torch.eye(3)[[0, 1, 1, 2]]
    metrics = classification_metrics(logits, torch.tensor([0, 0, 0, 2]), CLASSES)
    assert metrics["most_confused"] == [{"true": "cat", "predicted": "dog", "n": 2}]
