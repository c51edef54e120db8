"""Answers for many images; `cnnlab predict` writes them as a CSV, or sorts the images into a folder per class."""

from __future__ import annotations

import csv
import filecmp
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from cnnlab.deploy.predictor import ImageLike, Prediction, Predictor
from cnnlab.errors import DataError, RunError
from cnnlab.files import write_whole

BATCH = 64  # images that the model sees at once


def answer_images(
    predictor: Predictor, images: Iterable[tuple[str, ImageLike]]
) -> Iterator[tuple[str, Prediction | DataError]]:
    """Named images → their names with answers, in order. One that cannot be read gets the error that says why."""
    rest = iter(images)
    while batch := list(islice(rest, BATCH)):
        try:
            answers: Sequence[Prediction | DataError] = predictor.predict([image for _, image in batch])
        except DataError:
            answers = [_answer(predictor, image) for _, image in batch]
        yield from zip((name for name, _ in batch), answers, strict=True)


def _answer(predictor: Predictor, image: ImageLike) -> Prediction | DataError:
    try:
        return predictor.predict([image])[0]
    except DataError as error:
        return error


def write_answers(file: Path, answers: Sequence[tuple[str, Prediction]], multi_label: bool = False) -> None:
    """A row per image: path, label, probability, then label_2, probability_2, … of the next classes that are given.

    Of a multi-label model, `labels` after the path holds all classes of the image, with a semicolon between them.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    wide = max((len(answer.probabilities) for _, answer in answers), default=1)
    further = [f"{name}_{rank}" for rank in range(2, wide + 1) for name in ("label", "probability")]
    writer.writerow(["path", *(["labels"] if multi_label else []), "label", "probability", *further])
    for path, answer in answers:
        ranked = answer.probabilities.items()
        labels = [";".join(answer.labels)] if multi_label else []
        writer.writerow([path, *labels, *(cell for label, value in ranked for cell in (label, f"{value:.6g}"))])
    try:
        write_whole(file, text.getvalue())
    except OSError as error:
        raise RunError(f"cannot write {file} ({error.strerror}); give another file with --out.") from None


def sort_into(folder: Path, answers: Sequence[tuple[str, Prediction]]) -> list[tuple[str, int]]:
    """Copy each image into `folder`/CLASS of the class that it was given; of a multi-label model into that of each of
    its classes, and into `folder`/none where it has none. Nothing that is there is overwritten: an image of a name that
    is taken gets a number, and one that was copied before is left as it is.

    Returns:
        The folders of the classes, sorted, and how many of the images are in each.

    Raises:
        RunError: a copy cannot be made.
    """
    counts: dict[str, int] = {}
    for path, answer in answers:
        for label in answer.labels or ("none",):
            place = folder / folder_name(label)
            copy_into(place, path)
            counts[place.name] = counts.get(place.name, 0) + 1
    return sorted(counts.items())


def copy_into(place: Path, path: str) -> None:
    """Copy an image, unless it is there. Raises RunError."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        copy = free_name(Path(path), place)
        if not copy.exists():
            shutil.copy2(path, copy)
    except OSError as error:
        raise RunError(
            f"cannot copy {path} into {place} ({error.strerror}); give another folder with --sort."
        ) from None


def folder_name(label: str) -> str:
    """The class name, less what some system does not allow in the name of a folder: T-shirt/top → T-shirt_top."""
    return re.sub(r'[\\/:*?"<>|]|[. ]+$|^\.', "_", label) or "_"


def free_name(source: Path, folder: Path) -> Path:
    """cat.jpg, else cat-2.jpg, …: the first that is not there, or is this image already."""
    place, number = folder / source.name, 2
    while place.exists() and not (place.is_file() and filecmp.cmp(source, place, shallow=False)):
        place, number = folder / f"{source.stem}-{number}{source.suffix}", number + 1
    return place
