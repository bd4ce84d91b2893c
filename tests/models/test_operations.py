"""Watched operations are all that torch executes, in whatever format the network is, and watching leaves nothing."""

from __future__ import annotations

import pytest
import torch
from explained_networks import Rectified, Scriptable, fill, program, scripted, traced
from torch.utils._python_dispatch import _get_current_dispatch_mode

from auditkit import watch_operations

EXPECTED = ["convolution", "relu", "convolution", "relu", "convolution", "add", "relu", "mean", "addmm"]


@pytest.mark.parametrize("form", ["module", "script", "trace", "program"])
def test_every_operation_is_seen_and_leads_to_its_gradient(form):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Scriptable(fill(Rectified("modules"))).eval()
    forms = {
        "module": lambda: network,
        "script": lambda: scripted(network),
        "trace": lambda: traced(network, images),
        "program": lambda: program(network, images),
    }
    watched = forms[form]()
    for _ in range(3):  # a script is optimised after it has run for a while
        seen = []
        leaf = images.clone().requires_grad_()
        with watch_operations(lambda name, arguments, result, seen=seen: seen.append((name, result))):
            scores = watched(leaf)
        plain = [name.removeprefix("aten.").strip("_") for name, _ in seen]
        assert [name for name in plain if name in EXPECTED] == EXPECTED
        rectified = [result for name, result in seen if name.startswith("aten.relu")]
        gradients = torch.autograd.grad(scores.sum(), rectified)
        wanted = network.head.weight.sum(0).view(1, -1, 1, 1).expand_as(rectified[-1]) / rectified[-1][0, 0].numel()
        torch.testing.assert_close(gradients[-1], wanted)


@pytest.mark.parametrize("culprit", ["network", "observer"])
def test_nothing_is_watched_any_more_after_an_exception(culprit):
    def observe(name, arguments, result):
        if culprit == "observer":
            raise KeyError(name)

    def compute():
        with watch_operations(observe):
            torch.ones(2) + 1
            raise KeyError("network")

    with pytest.raises(KeyError):
        compute()
    assert _get_current_dispatch_mode() is None
