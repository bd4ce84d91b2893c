"""The bounded leaky ReLU is the function that its definition says, and so are its derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from auditkit.bounding import BoundedLeakyReLU, UpperBound, bounded_above, bounded_leaky_relu
from auditkit.bounding.activation import overflow_slope
from auditkit.errors import UsageError

# x = -100, -1, 0, 1, 2, 3, 202 for b = 2, s = 0.01, by hand from b - s (x - b), b + s (x - b) and b.
TABLE = {
    "fold": [-1.0, -0.01, 0.0, 1.0, 2.0, 1.99, 0.0],
    "leak": [-1.0, -0.01, 0.0, 1.0, 2.0, 2.01, 4.0],
    "clip": [-1.0, -0.01, 0.0, 1.0, 2.0, 2.0, 2.0],
}
INPUTS = torch.tensor([[-100.0, -1.0, 0.0, 1.0, 2.0, 3.0, 202.0]])


@pytest.mark.parametrize("overflow", TABLE)
def test_each_overflow_has_the_values_of_its_definition(overflow):
    torch.testing.assert_close(BoundedLeakyReLU(2.0, overflow=overflow)(INPUTS), torch.tensor([TABLE[overflow]]))


@pytest.mark.parametrize("overflow", TABLE)
def test_the_slope_below_zero_can_be_that_of_a_relu(overflow):
    unit = BoundedLeakyReLU(2.0, 0.01, overflow, negative_slope=0.0)
    wanted = torch.tensor([TABLE[overflow]])
    wanted[INPUTS < 0] = 0
    torch.testing.assert_close(unit(INPUTS), wanted)


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(numbers, min_size=1, max_size=20), st.floats(0, 100, width=32), st.floats(0, 0.5), st.floats(-0.5, 0.5))
def test_the_unit_is_clip_and_two_relus(values, bound, negative, beyond):
    x, b = torch.tensor([values], dtype=torch.float64), torch.tensor(bound, dtype=torch.float64)
    closed = x.clamp(0, bound) + beyond * functional.relu(x - b) - negative * functional.relu(-x)
    torch.testing.assert_close(bounded_leaky_relu(x, b, negative, beyond), closed, rtol=1e-12, atol=1e-12)


@given(st.lists(numbers, min_size=1, max_size=20), st.floats(0, 100, width=32))
def test_fold_and_clip_never_exceed_the_bound(values, bound):
    x = torch.tensor([values])
    for overflow in ("fold", "clip"):
        assert (UpperBound(bound, overflow)(x) <= torch.tensor(bound)).all()


@pytest.mark.parametrize("overflow", ["fold", "leak", "clip"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 2), (2, 3, 4)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_derivatives_pass_gradcheck(overflow, shape, per_channel):
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    bound = torch.tensor([0.5, 1.0, 1.5, 2.0] if per_channel else 1.0, dtype=torch.float64)
    axis = 1 if len(shape) == 4 else -1
    # Finite differences across a kink would be wrong.
    kinks = bound.view(-1, 1, 1) if len(shape) == 4 and per_channel else bound
    x = torch.where((x - kinks).abs() < 1e-3, x + 0.01, x)
    x = torch.where(x.abs() < 1e-3, x + 0.01, x).requires_grad_()
    slope = overflow_slope(overflow, 0.1)
    assert torch.autograd.gradcheck(
        lambda x, b: bounded_leaky_relu(x, b, 0.01, slope, axis), (x, bound.clone().requires_grad_())
    )


def test_at_the_bound_the_derivative_is_that_of_the_inside():
    x, b = torch.tensor([[2.0]], requires_grad=True), torch.tensor(2.0, requires_grad=True)
    gradients = torch.autograd.grad(bounded_leaky_relu(x, b).sum(), (x, b))
    assert [float(gradient) for gradient in gradients] == [1, 0]


@pytest.mark.parametrize(("overflow", "wanted"), [("fold", 1.01), ("leak", 0.99), ("clip", 1.0)])
def test_beyond_the_bound_its_derivative_is_one_minus_the_slope(overflow, wanted):
    b = torch.tensor(2.0, requires_grad=True)
    bounded_leaky_relu(torch.tensor([[5.0]]), b, 0.0, overflow_slope(overflow, 0.01)).backward()
    assert float(b.grad) == pytest.approx(wanted)


@pytest.mark.parametrize("overflow", ["fold", "leak", "clip"])
@pytest.mark.parametrize("original", [nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6()])
def test_an_infinite_bound_changes_no_bit(overflow, original):
    normal = 10 * torch.randn(500, generator=torch.Generator().manual_seed(2))
    x = torch.cat([normal, torch.tensor([math.inf, -math.inf, -0.0, 3e38, 1e-45])]).view(1, -1)
    before = original(x)
    assert torch.equal(UpperBound(math.inf, overflow)(before), before)
    some = torch.full((505,), math.inf)
    assert torch.equal(UpperBound(some, overflow)(before), before)


def test_an_infinite_bound_has_the_gradients_of_the_original():
    x = torch.tensor([[-1.0, 0.0, 2.0]], requires_grad=True)
    wanted = torch.autograd.grad(functional.leaky_relu(x, 0.2).sum(), x)[0]
    bound = torch.tensor(math.inf, requires_grad=True)
    got = torch.autograd.grad(bounded_leaky_relu(x, bound, 0.2).sum(), (x, bound))
    assert torch.equal(got[0], wanted)
    assert float(got[1]) == 0


def test_nan_stays_nan():
    assert BoundedLeakyReLU(1.0)(torch.tensor([[math.nan]])).isnan().all()


def test_each_channel_has_its_own_bound():
    values = torch.arange(24.0).view(1, 2, 3, 4)
    clipped = bounded_above(values, torch.tensor([5.0, 15.0]), 0.0)
    assert torch.equal(clipped[:, 0], values[:, 0].clamp(max=5))
    assert torch.equal(clipped[:, 1], values[:, 1].clamp(max=15))
    tokens = bounded_above(values.flatten(2), torch.tensor([1.0, 2.0, 3.0]).repeat(4), 0.0, channel_axis=-1)
    assert torch.equal(tokens, values.flatten(2).minimum(torch.tensor([1.0, 2.0, 3.0]).repeat(4)))


def test_the_memory_layout_and_type_stay():
    values = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last).bfloat16()
    bounded = UpperBound(torch.tensor([0.1, 0.2, 0.3]))(values)
    assert bounded.is_contiguous(memory_format=torch.channels_last)
    assert bounded.dtype == torch.bfloat16


def test_a_trainable_bound_begins_where_it_was_and_stays_positive():
    unit = BoundedLeakyReLU(torch.tensor([1.0, 4.0]), trainable=True)
    torch.testing.assert_close(unit.upper.bound, torch.tensor([1.0, 4.0]))
    optimiser = torch.optim.SGD(unit.parameters(), lr=10.0)
    for _ in range(100):
        optimiser.zero_grad()
        unit(torch.full((1, 2), 100.0)).sum().backward()
        optimiser.step()
    assert (unit.upper.bound > 0).all()
    assert (unit.upper.bound < 1e-3).all()


def test_a_settled_bound_is_what_was_learned_and_no_parameter():
    upper = UpperBound(torch.tensor([1.0, 0.0]), trainable=True)
    assert float(upper.bound[1].detach()) == pytest.approx(1e-3)
    with torch.no_grad():
        upper.raw += 1
    learned = upper.bound.detach().clone()
    upper.settle()
    assert torch.equal(upper.bound, learned)
    assert not list(upper.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bound": -1.0}, "zero or a positive number; got -1.0"),
        ({"bound": math.nan}, "zero or a positive number; got nan"),
        ({"bound": torch.ones(1, 2)}, r"one a channel; got shape \(1, 2\)"),
        ({"bound": torch.ones(0)}, r"one a channel; got shape \(0,\)"),
        ({"bound": 1.0, "overflow": "wrap"}, "fold, leak or clip; got 'wrap'"),
        ({"bound": 1.0, "slope": -0.1}, "zero or a positive number; got -0.1"),
        ({"bound": 1.0, "channel_axis": 2}, "1, or -1 for the last; got 2"),
        ({"bound": math.inf, "trainable": True}, "finite, positive start; got inf"),
        ({"bound": 0.0, "trainable": True}, "finite, positive start; got 0.0"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        UpperBound(**arguments)
