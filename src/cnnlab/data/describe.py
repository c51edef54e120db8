"""A set of images in facts and in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cnnlab.data.audit import Audit, class_counts, refuse_batches
from cnnlab.data.catalog import CATALOG, DatasetInfo
from cnnlab.data.data import Data
from cnnlab.data.notes import cut_parts_note, notes
from cnnlab.data.split import NAMES
from cnnlab.errors import one_line

SHOWN = 10


def facts(data: Data, findings: Audit | None = None) -> dict[str, Any]:
    """What `cnnlab data NAME --json` prints."""
    refuse_batches(data)
    info = CATALOG.get(data.config.data.name) or DatasetInfo("a Dataset of your own", 3, (), "", "your code", "yours")
    sizes = data.index.size[data.index.ok]
    known: dict[str, Any] = {
        "name": data.config.data.name,
        "what": info.title,
        "origin": info.origin,
        "licence": info.licence,
        "classes": data.num_classes,
        "pictures": {part: len(data.split[part]) for part in NAMES},
        "unreadable": len(data.quarantined),
        "original_size": {
            "smallest": sizes.min(0).tolist(),
            "median": np.median(sizes, 0).astype(int).tolist(),
            "largest": sizes.max(0).tolist(),
        },
        "image_size": list(data.image_size),
        "channels": data.in_channels,
        "mean": list(data.preprocess.mean),
        "std": list(data.preprocess.std),
        "class_counts": class_counts(data),
        "notes": notes(data) if findings is None else [*data.images.notes, *cut_parts_note(data)],
    }
    if findings is not None:
        known["check"] = dataclasses.asdict(findings)
    return known


def as_text(known: dict[str, Any]) -> str:
    """The same for people: class counts as a table, findings with their first examples."""
    original = known["original_size"]
    spread = [f"{height}×{width}" for height, width in (original["smallest"], original["median"], original["largest"])]
    size = spread[0] if len(set(spread)) == 1 else f"{spread[0]} to {spread[2]}, median {spread[1]}"
    lines = [
        f"{known['name']}: {known['what']}",
        f"  origin     {known['origin']} ({known['licence']})",
        "  images   " + ", ".join(f"{count:,} {part}" for part, count in known["pictures"].items()),
        f"  originals  {size} pixels (height×width)",
        f"  network    {known['image_size'][0]}×{known['image_size'][1]} pixels, {known['channels']} channel(s)",
        "  mean       " + ", ".join(f"{v:.4f}" for v in known["mean"]) + "  (train split, of 0…1)",
        "  std        " + ", ".join(f"{v:.4f}" for v in known["std"]),
        "",
    ]
    width = max(5, *(len(name) for name in known["class_counts"]))
    lines.append(f"  {'class':<{width}}" + "".join(f"{part:>9}" for part in NAMES))
    for name, row in known["class_counts"].items():
        lines.append(f"  {name:<{width}}" + "".join(f"{row[part]:>9,}" for part in NAMES))
    if known["notes"]:
        lines += ["", *map(one_line, known["notes"])]
    if "check" in known:
        lines += ["", *_findings(known["check"], known["class_counts"])]
    return "\n".join(lines)


def _findings(check: dict[str, Any], counts: dict[str, dict[str, int]]) -> list[str]:
    train = [row["train"] for row in counts.values()]
    lines = [
        f"balance: the largest class has {max(train) / max(1, min(train)):.1f} times the smallest's training images"
    ]
    leaks = {tuple(leak["names"]): " and ".join(leak["splits"]) for leak in check["leaks"]}

    def apart(*names: str) -> str:
        """What to write behind copies that lie in two splits: (in train and test)."""
        found = [leaks[first, other] for first in names[:1] for other in names[1:] if (first, other) in leaks]
        return f"  (in {found[0]})" if found else ""

    conflicts = check["label_conflicts"]
    same = [group for group in check["exact"] if group not in conflicts]
    near = sorted(check["near"], key=lambda pair: not apart(*pair[:2]))  # leaks come first
    sections = [
        ("unreadable images", "replace or delete them", [
            f"{row['name']}: {row['reason']}" for row in check["unreadable"]
        ]),
        ("same file in two classes", "keep it in the correct class, and delete it in the other", [
            " = ".join(group) + apart(*group) for group in sorted(conflicts, key=lambda group: not apart(*group))
        ]),
        ("exact duplicates in a class", "keep one of each, and delete the others", [
            " = ".join(group) + apart(*group) for group in sorted(same, key=lambda group: not apart(*group))
        ]),
        ("near duplicates", "look at each pair, and keep one where both show the same", [
            f"{a} ≈ {b} (correlation {r:.3f}){apart(a, b)}" for a, b, r in near
        ]),
    ]  # fmt: skip
    for title, fix, rows in sections:
        lines.append(f"{title}: {f'{len(rows):,}; {fix}' if rows else 'none'}")
        lines += [f"  {one_line(row)}" for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            lines.append(f"  … and {len(rows) - SHOWN:,} more (--json lists all)")
    fix = "of these pairs; they inflate the validation and test metrics: delete one of each"
    lines.append(f"leaks, the same image in two splits: {f'{len(leaks):,} {fix}' if leaks else 'none'}")
    if not check["near_checked"]:
        lines.append("near duplicates were not searched for: too many images, or data.storage=stream")
    return lines
