"""What a filter likes: the places of images that excite each channel most (Zeiler and Fergus 2014, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cnnlab.look.compute import node_values
from cnnlab.look.graph import UNARY, Graph

KEPT = 9  # places for each channel, each of another image
LIKED = {"conv2d", "add", *UNARY}


def strongest_places(graph: Graph, images: Tensor) -> dict[int, np.ndarray]:
    """Number of a node with maps → (channels, up to 9, 3) uint16: image, row and column of its largest values.

    Args:
        images: (B, C, H, W), at least one.
    """
    nodes = [number for number, node in enumerate(graph.nodes) if node.op in LIKED and len(node.shape) == 4]
    most: dict[int, list[Tensor]] = {number: [] for number in nodes}
    where: dict[int, list[Tensor]] = {number: [] for number in nodes}
    for image in images:
        values = node_values(graph, image[None])
        for number in nodes:
            largest, place = values[number][0].flatten(1).max(1)
            most[number].append(largest)
            where[number].append(place)
    found = {}
    for number in nodes:
        chosen = torch.stack(most[number]).topk(min(KEPT, len(images)), dim=0).indices  # (9, channels)
        places, width = torch.stack(where[number]).gather(0, chosen), graph.nodes[number].shape[3]
        found[number] = torch.stack([chosen, places // width, places % width], 2).transpose(0, 1).numpy().astype("<u2")
    return found
