"""Which layer feeds which: the way of the image through a model, with the places where two ways meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Shape = tuple[int, ...]


@dataclass
class Step:
    """The image, a layer, or a join: an operation outside of all layers on what comes from several steps.

    Attributes:
        inputs: numbers of the steps that it reads, each smaller than its own; none for the image.
        shape: of its output, without the batch.
        layer: number of the layer's row in the summary; None for the image and a join.
        join: name of a join's operation, such as "add", "mul" or "cat".
        folded: numbers of the rows of layers behind it that move nothing: normalisation, activation, dropout, flatten.
    """

    inputs: tuple[int, ...]
    shape: Shape
    layer: int | None = None
    join: str = ""
    folded: list[int] = field(default_factory=list)


class Flow:
    """Records steps while a model runs: it is told of each layer that returns, and of operations outside of them."""

    def __init__(self, image: Tensor) -> None:
        self.steps = [Step((), tuple(image.shape[1:]))]
        self.made_by = WeakTensorKeyDictionary()  # tensor → the step that it comes from
        self.made_by[image] = 0

    def sources(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """The steps that these tensors come from, each once."""
        return tuple(dict.fromkeys(self.made_by[tensor] for tensor in tensors if tensor in self.made_by))

    def on_operation(self, name: str, inputs: Iterable[Tensor], outputs: list[Tensor]) -> None:
        """An operation outside of all layers; of one step only, its output counts as that step's."""
        sources = self.sources(inputs)
        if len(sources) > 1 and outputs:
            self.steps.append(Step(sources, tuple(outputs[0].shape[1:]), join=name.strip("_")))
            sources = (len(self.steps) - 1,)
        self._made(outputs, sources)

    def on_layer(
        self, row: int, inputs: Iterable[Tensor], outputs: list[Tensor], *, multiplies: bool, resizes: bool
    ) -> None:
        """A layer has returned.

        Args:
            row: its number in the summary.
            multiplies: whether it has multiply-adds.
            resizes: whether it has arithmetic of sizes.
        """
        sources = self.sources(inputs)
        if not sources or not outputs:
            return
        before, after = self.steps[sources[0]].shape, tuple(outputs[0].shape[1:])
        flattens = len(after) == 1 and prod(before) == prod(after)
        if len(sources) == 1 and not multiplies and (flattens or not resizes):
            self.steps[sources[0]].folded.append(row)
        else:
            self.steps.append(Step(sources, after, layer=row))
            sources = (len(self.steps) - 1,)
        self._made(outputs, sources)

    def on_container(self, row: int, outputs: list[Tensor]) -> None:
        """A module with parameters of its own has returned, whose layers were told of one by one."""
        for source in self.sources(outputs)[:1]:
            self.steps[source].folded.append(row)

    def _made(self, outputs: list[Tensor], sources: tuple[int, ...]) -> None:
        for tensor in outputs if sources else ():
            self.made_by[tensor] = sources[0]
