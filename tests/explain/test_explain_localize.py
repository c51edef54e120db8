"""A classifier of single shapes finds them on larger canvases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cnnlab
from cnnlab.data.canvases import Canvas, digit_canvases
from cnnlab.data.decode import Layout
from cnnlab.data.preprocess import Preprocess
from cnnlab.errors import DataError, ModelError
from cnnlab.evaluation.localization import localization_metrics, match_boxes
from cnnlab.explain import Found, Localization, Localizer
from cnnlab.explain.images import find_objects
from cnnlab.explain.localize import _Shapes, intersection_over_union
from cnnlab.explain.object_scale import ObjectScale, measure_objects


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 28, 28) uint8 rings, crosses and triangles, bright on black, 16 to 22 pixels large; their labels."""
    random = np.random.Generator(np.random.PCG64(seed))
    labels = random.integers(3, size=count)
    images = np.zeros((count, 28, 28), np.uint8)
    for number, label in enumerate(labels):
        half = random.uniform(8, 11)
        y, x = np.mgrid[:112, :112] / 4 - (13.5 + random.uniform(-1, 1, 2))[:, None, None]
        thick = random.uniform(1.2, 2)
        if label == 0:
            ink = abs(np.hypot(x, y) - half + thick) < thick
        elif label == 1:
            ink = (np.minimum(abs(x), abs(y)) < thick) & (np.maximum(abs(x), abs(y)) < half)
        else:
            edge = np.maximum(abs(x) * 2 - (y + half), y - half)
            ink = (edge < 0) & (edge > -2.2 * thick)
        images[number] = ink.reshape(28, 4, 28, 4).mean(axis=(1, 3)) * random.integers(160, 256)  # soft edges
    return images, labels


def ring() -> np.ndarray:
    """(1, 28, 28)"""
    images, labels = shapes(20, seed=5)
    return images[labels == 0][:1]


def normalise(images: np.ndarray) -> Tensor:
    return (torch.from_numpy(images).float()[:, None] / 255 - 0.13) / 0.31


def trained(arrays: np.ndarray, labels: np.ndarray) -> nn.Module:
    """In float64: processors round float32 differently, and 60 steps make another network of that."""
    torch.manual_seed(0)
    model = cnnlab.create_model("vgg", width=8, image_size=28, in_channels=1, num_classes=3).double()
    images, answers = normalise(arrays).double(), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        at = torch.arange(64) + 64 * step % 640
        loss = nn.functional.cross_entropy(model(images[at % 640]), answers[at % 640])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.float().eval()


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    model = trained(*shapes(640, seed=1))
    with torch.no_grad():
        held, true = shapes(200, seed=2)
        assert (model(normalise(held)).argmax(1).numpy() == true).mean() > 0.97
    return model


@pytest.fixture(scope="module")
def localizer(classifier: nn.Module) -> Localizer:
    return Localizer(classifier, (1, 28, 28), scale=ObjectScale(fill=0.68))  # 16 to 22 of 28 pixels


def canvases(count: int, **settings: object) -> list[Canvas]:
    images, labels = shapes(100, seed=3)
    return digit_canvases(images, labels, count, **settings)  # type: ignore[arg-type]


def test_single_objects_are_found_named_and_boxed(localizer: Localizer) -> None:
    made = canvases(40)
    metrics = localization_metrics([localizer(normalise(c.image[None])[0]) for c in made], made)
    assert metrics["n"] == metrics["objects"] == 40
    assert metrics["pointing"] >= 0.95
    assert metrics["corloc"] >= 0.85
    assert metrics["f1"] >= 0.85
    assert metrics["named"] >= 0.9


def test_boxes_are_drawn_tight_around_what_differs_from_a_plain_background(localizer: Localizer) -> None:
    image = np.zeros((96, 96), np.uint8)
    image[30:58, 40:68] = ring()[0]
    rows, columns = np.nonzero(image > 0.4 * image.max())
    (found,) = localizer(normalise(image[None])[0]).objects
    assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_box_holds_whole_parts_and_a_piece_of_a_larger_one_is_none() -> None:
    shown = torch.zeros(60, 60, dtype=torch.bool)
    shown[5:55, 10:16] = True  # the stroke of something large
    shown[20:28, 40:44] = True
    shapes_ = _Shapes.of(shown)
    assert shapes_.around((9.0, 20.0, 17.0, 28.0)) is None
    assert shapes_.around((38.2, 18.5, 46.0, 30.0)) == (40.0, 20.0, 44.0, 28.0)
    assert shapes_.around((8.0, 3.0, 46.0, 57.0)) == (10.0, 5.0, 44.0, 55.0)
    assert shapes_.around((25.0, 5.0, 35.0, 15.0)) is None
    assert sorted(shapes_.boxes) == [(10.0, 5.0, 16.0, 55.0), (40.0, 20.0, 44.0, 28.0)]


def test_objects_that_fill_their_images_are_framed_as_they_were_learned() -> None:
    """Of the default run's digits, 8×8 pixels, nearly all on a page were once taken for a 1."""
    data = cnnlab.load_data("digits")
    scale = measure_objects(data)
    assert scale is not None
    assert scale.fill == 1.0
    assert scale.contrast > 1
    torch.manual_seed(0)
    model = cnnlab.create_model("vgg", width=8, image_size=8, in_channels=1, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for epoch in range(10):
        for batch in data.train.epoch(epoch):
            loss = nn.functional.cross_entropy(model(batch.images), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    localizer = Localizer(model.eval(), (1, 8, 8), scale=scale)
    places = [(4, 4), (4, 40), (24, 22), (44, 6), (44, 44)]
    right = wrong = 0
    for number in data.split.test[:8]:
        digit, label = data.test.pixels[number, ..., 0], int(data.images.labels[number])
        made = torch.zeros(64, 64, dtype=torch.uint8)
        for top, left in places:
            made[top : top + 8, left : left + 8] = digit
        objects = localizer(data.preprocess.normalise(made[None, ..., None])[0]).objects
        right += sum(found.label == label for found in objects)
        wrong += sum(found.label != label for found in objects)
    assert right >= 0.5 * 8 * len(places)
    assert wrong <= 0.1 * 8 * len(places)


def test_dark_objects_are_refused_where_light_ones_were_learned(classifier: nn.Module) -> None:
    image = np.zeros((96, 96), np.uint8)
    image[30:58, 40:68] = ring()[0]
    dark = normalise(np.zeros((1, 1, 1), np.uint8)).item()
    localizer = Localizer(classifier, (1, 28, 28), scale=ObjectScale(0.68, [dark], 3.0))
    assert localizer(normalise(image[None])[0]).objects
    with pytest.raises(ModelError, match="its background is light, and the run's images have a dark one"):
        localizer(normalise(255 - image[None])[0])


def test_several_objects_are_told_apart(localizer: Localizer) -> None:
    made = canvases(25, objects=(2, 4))
    metrics = localization_metrics([localizer(normalise(c.image[None])[0]) for c in made], made)
    assert metrics["f1"] >= 0.75


def test_objects_of_several_sizes_are_found_on_a_large_canvas(localizer: Localizer) -> None:
    made = canvases(12, size=300, scale=(1.0, 6.0))
    metrics = localization_metrics([localizer(normalise(c.image[None])[0]) for c in made], made)
    assert metrics["recall"] >= 0.7


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, int]]]:
    """(count, 84, 112) uint8 shapes of 56 to 66 pixels before a background of many greys; labels and boxes."""
    random = np.random.Generator(np.random.PCG64(seed))
    images, labels = shapes(count, seed)
    grown = np.pad(images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (0, 0), (14, 14)))
    for number, image in enumerate(grown):
        grown[number] = np.roll(image, random.integers(-14, 15), axis=1)
    noise = random.integers(0, 110, (count, 21, 28)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    boxes = []
    for one in grown:
        rows, columns = np.nonzero(one > 80)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return np.maximum(grown, noise), labels, boxes


def squeezed(arrays: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(arrays).float()[:, None]
    return nn.functional.interpolate(images, (28, 28), mode="bilinear", antialias=True)[:, 0].byte().numpy()


def test_a_photograph_shows_first_what_the_classifier_knows_it_as() -> None:
    training, answers, _ = scenes(640, seed=1)
    model = trained(squeezed(training), answers)
    localizer = Localizer(model, (1, 28, 28))
    images, labels, boxes = scenes(40, seed=2)
    with torch.no_grad():
        probabilities, guesses = model(normalise(squeezed(images))).softmax(1).max(1)
    sure = (probabilities > 0.9).tolist()
    assert sum(sure) > 30 and (guesses.numpy() == labels).mean() > 0.9
    pointed = []
    for image, guess, box, known in zip(normalise(images), guesses.tolist(), boxes, sure, strict=True):
        found = localizer(image)
        if known:
            assert found.objects[0].label == guess
            assert found.heat.shape == (84, 112) and found.heat.max() == 1
            assert intersection_over_union(found.objects[0].box, box) > 0.15
            row, column = divmod(int(found.heat.argmax()), 112)
            pointed.append(box[0] <= column < box[2] and box[1] <= row < box[3])
    assert np.mean(pointed) > 0.8  # the boxes are a third of the image


def test_a_photograph_that_the_classifier_does_not_know_shows_nothing() -> None:
    half = torch.full((1, 84, 112), -0.4)
    half[:, :, 56:] = 0.3
    untrained = cnnlab.create_model("vgg", width=8, image_size=28, in_channels=1, num_classes=3).eval()
    assert Localizer(untrained, (1, 28, 28))(half).objects == []


@pytest.mark.parametrize("grey", [0, 90, 255])
@pytest.mark.parametrize("size", [(96, 96), (40, 130), (28, 28)])
def test_a_plain_canvas_is_silent(localizer: Localizer, grey: int, size: tuple[int, int]) -> None:
    answer = localizer(normalise(np.full((1, *size), grey, np.uint8))[0])
    assert answer.objects == []
    assert answer.heat.shape == size
    assert not answer.heat.any()


def test_boxes_follow_the_object_by_whole_pixels(localizer: Localizer) -> None:
    images = ring()
    boxes = []
    for top, left in ((10, 10), (11, 10), (10, 13), (45, 50)):
        canvas = np.zeros((96, 96), np.uint8)
        canvas[top : top + 28, left : left + 28] = images[0]
        (found,) = localizer(normalise(canvas[None])[0]).objects
        boxes.append(np.array(found.box) - [left, top, left, top])
        rows, columns = np.nonzero(images[0])
        ink = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert intersection_over_union(tuple(boxes[-1]), ink) > 0.8
    assert np.ptp(np.stack(boxes), axis=0).max() <= 1


def test_a_small_image_is_enlarged_and_one_below_the_stride_refused(localizer: Localizer) -> None:
    images = ring()
    small = nn.functional.interpolate(normalise(images), (20, 20), mode="bilinear", antialias=True)[0]
    (found,) = localizer(small).objects
    assert found.label == 0
    assert 0 <= found.box[0] < found.box[2] <= 20
    with pytest.raises(ModelError, match="3×50 pixels is smaller than the 4 pixels from one place"):
        localizer(torch.zeros(1, 3, 50))


def test_the_model_is_left_as_it_was(classifier: nn.Module, localizer: Localizer) -> None:
    classifier.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    localizer(normalise(canvases(1)[0].image[None])[0])
    assert classifier.training
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())
    classifier.eval()


def test_an_mlp_cannot_localize() -> None:
    with pytest.raises(ModelError, match="MLP has no spatial features"):
        Localizer(cnnlab.create_model("mlp", image_size=28), (1, 28, 28))


# ---- canvases


def test_canvases_hold_what_they_say() -> None:
    made = canvases(30, objects=(1, 4))
    assert {len(canvas.boxes) for canvas in made} == {1, 2, 3, 4}
    for canvas in made:
        assert canvas.image.shape == (96, 96) and canvas.image.dtype == np.uint8
        inside = np.zeros((96, 96), bool)
        for left, top, right, bottom in canvas.boxes:
            assert 0 <= left < right <= 96 and 0 <= top < bottom <= 96
            part = canvas.image[top:bottom, left:right]
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()  # tight
            inside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
        assert canvas.image[~inside].max() < 80  # outside there is only the softest edge
        for i, one in enumerate(canvas.boxes):
            for other in canvas.boxes[i + 1 :]:
                assert intersection_over_union(tuple(one), tuple(other)) == 0


def test_a_canvas_depends_on_the_seed_and_its_number_alone() -> None:
    first, second = canvases(3, seed=4), canvases(5, seed=4)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=False))
    assert not np.array_equal(first[0].image, canvases(1, seed=5)[0].image)


def test_clutter_adds_ink_outside_the_boxes() -> None:
    plain, cluttered = canvases(5, seed=4), canvases(5, seed=4, background="clutter")
    for one, other in zip(plain, cluttered, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert (other.image >= one.image).all() and other.image.sum() > one.image.sum()


def test_impossible_canvases_are_refused() -> None:
    with pytest.raises(DataError, match="56 pixels does not fit a canvas of 40"):
        canvases(1, size=40, scale=(1, 2))
    with pytest.raises(DataError, match="no canvases"):
        canvases(1, objects=(3, 2))
    with pytest.raises(DataError, match="'stripes'"):
        canvases(1, background="stripes")
    with pytest.raises(DataError, match="40 digits do not fit a canvas of 96"):
        canvases(1, objects=(40, 40))
    with pytest.raises(DataError, match="a label each"):
        digit_canvases(np.zeros((2, 28, 28), np.uint8), [1], 1)


# ---- metrics


def test_boxes_are_matched_once_and_by_their_overlap() -> None:
    true = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]
    found = [(1.0, 0.0, 11.0, 10.0), (0.0, 0.0, 10.0, 10.0), (20.0, 4.0, 30.0, 14.0), (19.0, 0.0, 30.0, 10.0)]
    assert match_boxes(found, true) == [0, None, None, 1]  # 6/14 is below a half
    assert intersection_over_union(found[2], true[1]) == pytest.approx(6 / 14)
    assert intersection_over_union(found[0], true[1]) == 0


def test_localization_metrics_by_hand() -> None:
    canvas = Canvas(np.zeros((10, 10), np.uint8), np.array([[0, 0, 4, 4], [5, 5, 9, 9]]), np.array([3, 7]))
    heat = torch.zeros(10, 10)
    heat[2, 3] = 1
    hit, miss = Found((0, 0, 4, 4), 3, 0.9, 5.0), Found((6, 0, 10, 4), 1, 0.8, 4.0)
    wrong = Found((5, 5, 9, 9), 1, 0.7, 4.0)
    silent = Localization([], torch.zeros(10, 10))
    answers = [Localization([hit, miss, wrong], heat), silent, Localization([miss, hit], heat.flip(1))]
    metrics = localization_metrics(answers, [canvas] * 3)
    assert metrics["pointing"] == pytest.approx(1 / 3)
    assert metrics["corloc"] == pytest.approx(1 / 3)
    assert metrics["precision"] == pytest.approx(3 / 5)
    assert metrics["recall"] == pytest.approx(3 / 6)
    assert metrics["f1"] == pytest.approx(6 / 11)
    assert metrics["named"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("size", [(101, 33), (33, 101), (1415, 1003), (7, 5000), (4032, 3024)])
def test_boxes_on_a_shrunk_image_end_where_the_image_ends(size: tuple[int, int]) -> None:
    """A side of 101·0.55 pixels is rounded up to 56, which are more than 101 of the image's own."""

    def whole(image: Tensor) -> Localization:
        height, width = image.shape[1:]
        return Localization([Found((0.0, 0.0, float(width), float(height)), 0, 1.0, 9.0)], torch.zeros(height, width))

    preprocess = Preprocess(Layout(8, 8, "L"), (0.0,), (1.0,))
    for largest in (1000, 1013, 1100):
        objects, _, factor = find_objects(whole, Image.new("L", size), preprocess, ["a"], largest)  # type: ignore[arg-type]
        assert factor < 1
        assert objects[0]["box"] == [0, 0, *size]
