"""Locality: under a cover only what lies near it changes, so the first layers are computed there and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from auditkit.covers.boxes import Boxes, Span, cut, put
from auditkit.covers.nodes import Layer, as_layer, is_pointwise, keeps_to_itself
from auditkit.covers.windows import Windows
from auditkit.models.base import Differentiable

__all__ = ["Locality", "find_locality"]

# Beyond this share of a feature map it takes longer to cut a box out than to compute the whole map.
_LARGEST_SHARE = 0.5


@dataclass(frozen=True)
class Locality:
    """A network cut in two: nodes that are computed in a box around the window alone, and the rest, on whole maps.

    The scores are the network's own; both parts do what its graph says, in the same order.
    """

    quick: Differentiable
    root: fx.GraphModule
    boxes: Mapping[fx.Node, Boxes]
    """The nodes of the first part, in order, and where a window changes each."""
    layers: Mapping[fx.Node, Layer]
    """Those of them that look around."""
    handed: tuple[fx.Node, ...]
    """Those of them that the rest takes."""
    finished: Mapping[fx.Node, tuple[fx.Node, ...]]
    """Those that nobody reads any more once a node is computed."""
    rest: fx.GraphModule

    def answers(self, images: Tensor, fill: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function from the numbers of rows, int64 (B,), to their scores, float32 (B, classes).

        Row `k * N + i` is image i of `images` (N, C, H, W) with that part of `fill` (N, C, H, W) in window k. What the
        first part makes of the images as they are stays in memory.
        """
        group = _Group(self, images, fill)
        return lambda rows: self.quick.network.steps.logits(self.rest(*group.handed(rows))).float()


def find_locality(quick: Differentiable | None, windows: Windows) -> Locality | None:
    """Return how a network can be computed around these windows alone, None where it cannot or gains nothing.

    That is a matter of the network's graph and of the windows, not of any image.
    """
    if quick is None or quick.memory_format != torch.channels_last or quick.network.steps.layout != "nchw":
        return None
    if quick.batching.copies > 1:
        return None
    root = quick.network.network
    if not isinstance(root, fx.GraphModule):
        return None
    boxes, layers = _first_part(root, windows)
    if not layers:
        return None
    handed = tuple(node for node in boxes if any(user not in boxes for user in node.users))
    return Locality(quick, root, boxes, layers, handed, _finished(boxes, layers, handed), _rest(root, boxes, handed))


def _first_part(root: fx.GraphModule, windows: Windows) -> tuple[dict[fx.Node, Boxes], dict[fx.Node, Layer]]:
    """Return the nodes to compute in boxes, which are small there, and those of them that look around."""
    boxes: dict[fx.Node, Boxes] = {}
    layers: dict[fx.Node, Layer] = {}
    nodes, modules = list(root.graph.nodes), dict(root.named_modules())
    images = [node for node in nodes if node.op == "placeholder"]
    if len(images) != 1 or not all(keeps_to_itself(node, modules) for node in nodes):
        return boxes, layers
    down = Span(windows.image_height, windows.height, windows.tops)
    where: Boxes | None = Boxes(down, Span(windows.image_width, windows.width, windows.lefts))
    for node in nodes:
        layer = as_layer(node, modules)
        if node is not images[0]:
            where = _changed(node, layer, root, boxes, modules)
        if where is not None and where.share <= _LARGEST_SHARE:
            boxes[node] = where
            layers |= {node: layer} if layer is not None else {}
    return boxes, layers


def _changed(
    node: fx.Node,
    layer: Layer | None,
    root: fx.GraphModule,
    boxes: Mapping[fx.Node, Boxes],
    modules: Mapping[str, nn.Module],
) -> Boxes | None:
    """Return where a window changes what a node gives, None where that cannot be told."""
    sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
    if not sources or any(source not in boxes for source in sources):
        return None
    if layer is not None:
        return boxes[sources[0]].through(layer.down, layer.across)
    if is_pointwise(node, root, modules) and len({boxes[source].sides for source in sources}) == 1:
        return Boxes.joined(boxes[source] for source in sources)
    return None


def _finished(
    boxes: Mapping[fx.Node, Boxes], layers: Mapping[fx.Node, Layer], handed: Iterable[fx.Node]
) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Return, for each node, those whose values nobody reads after it; never one that is read on the whole map."""
    sources = {node: [source for source in node.all_input_nodes if source in boxes] for node in boxes}
    last = {source: node for node in boxes for source in sources[node]}
    widened = {
        source for node in boxes if node not in layers for source in sources[node] if boxes[source] != boxes[node]
    }
    kept = {*handed, *widened}
    return {
        node: tuple(source for source in sources[node] if last[source] is node and source not in kept) for node in boxes
    }


def _rest(root: fx.GraphModule, first: Iterable[fx.Node], handed: Iterable[fx.Node]) -> fx.GraphModule:
    """Return the network from what its first part hands over."""
    graph, done = fx.Graph(), set(first)
    copies = {node: graph.placeholder(node.name) for node in handed}
    for node in root.graph.nodes:
        if node not in done:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(root, graph)


@dataclass(frozen=True)
class _Patch:
    """What a node gives in a box of its map (B, C, H, W); elsewhere it gives what it gives when nothing is covered."""

    box: Tensor
    top: Tensor
    left: Tensor


class _Group:
    """Some images, and what the first part makes of them when nothing is covered."""

    def __init__(self, local: Locality, images: Tensor, fill: Tensor) -> None:
        self.local = local
        self.n = len(images)
        self.fill = fill.contiguous(memory_format=torch.channels_last)
        self.interpreter = fx.Interpreter(local.root, garbage_collect_values=False)
        self.starts = {
            node: tuple(torch.tensor(span.starts, device=images.device) for span in (boxes.down, boxes.across))
            for node, boxes in local.boxes.items()
        }
        self.whole: dict[fx.Node, Tensor] = {}
        self.padded: dict[fx.Node, Tensor] = {}
        filled = torch.arange(local.quick.batching.padded(self.n), device=images.device) % self.n
        for node in local.boxes:
            placeholder = node.op == "placeholder"
            self.whole[node] = self._inputs(images[filled]) if placeholder else self._compute(node, self.whole)
            if node in local.layers:
                self.padded[node] = local.layers[node].pad(self.whole[node.all_input_nodes[0]])
            for source in local.finished[node]:
                del self.whole[source]

    def handed(self, rows: Tensor) -> list[Tensor]:
        """Return what the rest of the network takes of these rows."""
        image, window = rows % self.n, rows // self.n
        patches: dict[fx.Node, _Patch] = {}
        for node, boxes in self.local.boxes.items():
            tops, lefts = self.starts[node]
            top, left = tops[window // len(lefts)], lefts[window % len(lefts)]
            if node.op == "placeholder":
                box = self._inputs(cut(self.fill, image, top, left, boxes.size))
            elif node in self.local.layers:
                box = self._looked_around(node, patches[node.all_input_nodes[0]], image, top, left)
            else:
                given = {
                    source: self._in_box(source, patches[source], boxes, image, top, left)
                    for source in node.all_input_nodes
                    if source in patches
                }
                box = self._compute(node, given)
            patches[node] = _Patch(box, top, left)
            for source in self.local.finished[node]:
                del patches[source]
        corner = torch.zeros_like(image)
        return [
            self._in_box(node, patches[node], self.local.boxes[node].everywhere, image, corner, corner)
            for node in self.local.handed
        ]

    def _inputs(self, images: Tensor) -> Tensor:
        return self.local.quick.network.steps.inputs(images).contiguous(memory_format=torch.channels_last)

    def _looked_around(self, node: fx.Node, source: _Patch, image: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Return the outputs of a layer in the box at (top, left)."""
        layer, size = self.local.layers[node], self.local.boxes[node].size
        down, across = layer.down, layer.across
        height, width = down.inputs(size[0]) + 2 * down.margin, across.inputs(size[1]) + 2 * across.margin
        first_row, first_column = top * down.stride, left * across.stride
        around = cut(self.padded[node], image, first_row, first_column, (height, width))
        put(
            around,
            source.box,
            source.top + down.padding + down.margin - first_row,
            source.left + across.padding + across.margin - first_column,
        )
        return layer.compute(around[:, :, down.margin : height - down.margin, across.margin : width - across.margin])

    def _in_box(self, node: fx.Node, patch: _Patch, boxes: Boxes, image: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Return what a node gives in another box, at (top, left), that holds its own."""
        if boxes == self.local.boxes[node]:
            return patch.box
        part = cut(self.whole[node], image, top, left, boxes.size)
        put(part, patch.box, patch.top - top, patch.left - left)
        return part

    def _compute(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        def given(source: fx.Node) -> Any:
            return values[source] if source in values else self.interpreter.get_attr(str(source.target), (), {})

        args, kwargs = fx.node.map_arg(node.args, given), fx.node.map_arg(node.kwargs, given)
        result: Tensor = getattr(self.interpreter, node.op)(node.target, args, kwargs)
        return result
