"""Continuous batching: rows of an attack's state move through a fixed batch, and none is computed in vain.

A row leaves the batch when the search copy believes its image to be fooled, and the next job takes its place at once.
Rows that left wait until a whole batch of them can be shown to the deployed model, whose word alone counts; a row that
it does not confirm goes on searching where it stood.

A row of an attack that looks for the nearest success runs all its steps; what it then offers is pushed a little further
out where the deployed model does not confirm it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from auditkit.models.base import Differentiable, Model
from auditkit.origin import Origin, object_masks
from auditkit.queries import Expectation, Goal, Queries
from auditkit.rows import concatenate_rows, count_rows, take_rows
from auditkit.samples import Samples
from auditkit.streams import Streams
from auditkit.threat import Norm, allowed, distance

__all__ = ["Drivable", "Job", "JobQueue", "Outcome", "drive"]

# How far a nearest success may be pushed out, as shares of its distance, until the deployed model confirms it: what a
# search in half precision finds lies a rounding error inside the boundary.
_PUSHES = (1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 5.0)


@dataclass(frozen=True)
class Job:
    """One search: a sample, the budget to stay within, and which restart it is."""

    sample: int
    eps: float
    restart: int
    point: Tensor | None = None
    """(C, H, W): where a search of this sample at a larger budget ended, scaled into this one."""
    smaller: tuple[float, ...] = ()
    """Further budgets, smallest first: a success is shortened to the smallest at which it still is one."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    `image` (C, H, W) is the last point that the deployed model was shown, `logits` (K,) what it said, `distance` how
    far it lies from the clean image.
    """

    job: Job
    fooled: bool
    image: Tensor
    logits: Tensor
    distance: float
    steps: int
    forwards: int
    backwards: int
    overstepped: int
    """Queries that fooled the search copy from outside the budget."""
    refuted: int
    """Points that fooled the search copy and not the deployed model."""
    marks: tuple[float, ...] = ()
    """What the attack said of the query that fooled; NaN where it said nothing."""


class JobQueue(Protocol):
    """Where jobs come from; an outcome may lead to further jobs."""

    def next(self) -> Job | None:
        """Return a job, None while there is none."""
        ...

    def report(self, outcome: Outcome) -> None:
        """Take note of how a job ended."""
        ...


class Drivable(Protocol):
    """What the driver needs of an attack."""

    @property
    def norm(self) -> Norm:
        """How the budget is measured."""
        ...

    @property
    def steps(self) -> int:
        """How often a row is stepped before it is given up."""
        ...

    @property
    def goal(self) -> Goal:
        """Whether rows go on after a success, to find a nearer or a stronger one."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Names of the numbers that come with a query."""
        ...

    @property
    def expectation(self) -> Expectation | None:
        """What gradients are averaged over; None: nothing."""
        ...

    def start(self, origin: Origin) -> Any:
        """Return the rows' first state."""
        ...

    def scout(self, model: Queries, state: Any) -> Any:
        """Return the rows' state after a first look at the model."""
        ...

    def step(self, model: Queries, state: Any) -> Any:
        """Return the rows' next state."""
        ...


@dataclass(frozen=True)
class _Rows:
    """The tensors of some running jobs, one row a job.

    `points` (N, C, H, W) is what to show to the deployed model, `marks` (N, M) what the attack said of it.
    """

    state: Any
    clean: Tensor
    labels: Tensor
    eps: Tensor
    reach: Tensor
    """(N,): the distance or the margin of the best success so far; infinite before there is one."""
    marks: Tensor
    points: Tensor
    rng: Streams


@dataclass
class _Ledger:
    """The account of one job."""

    job: Job
    steps: int = 0
    forwards: int = 0
    backwards: int = 0
    overstepped: int = 0
    refuted: int = 0
    spent: bool = False
    at_last_point: bool = False
    hit: bool = False
    """A success was found at some step."""


@dataclass(frozen=True)
class _Group:
    rows: _Rows
    ledgers: list[_Ledger]

    def __len__(self) -> int:
        return len(self.ledgers)

    def take(self, index: list[int]) -> _Group:
        if len(index) == len(self.ledgers):
            return self
        at = torch.tensor(index, dtype=torch.int64, device=self.rows.labels.device)
        return _Group(take_rows(self.rows, at), [self.ledgers[i] for i in index])


def _join(groups: list[_Group]) -> _Group:
    if len(groups) == 1:
        return groups[0]
    rows = concatenate_rows([group.rows for group in groups])
    return _Group(rows, [ledger for group in groups for ledger in group.ledgers])


def drive(
    attack: Drivable,
    queue: JobQueue,
    samples: Samples,
    logits: Tensor,
    model: Model,
    search: Differentiable | None,
    streams: Callable[[Sequence[Job]], Streams],
    batch: int,
    check_time: Callable[[], None] = lambda: None,
) -> None:
    """Run every job of `queue` and report its outcome.

    `logits` (N, K) are the deployed model's on the clean samples. `search` answers the attack's queries (None: the
    deployed model does), `model` gives the verdicts. What comes out for a job does not depend on `batch`, on the order
    of the jobs, or on the other jobs.
    """
    _Drive(attack, queue, samples, logits, model, search, streams, batch).run(check_time)


@dataclass
class _Drive:
    attack: Drivable
    queue: JobQueue
    samples: Samples
    logits: Tensor
    model: Model
    search: Differentiable | None
    streams: Callable[[Sequence[Job]], Streams]
    batch: int
    running: list[_Group] = field(default_factory=list)
    parked: list[_Group] = field(default_factory=list)

    def run(self, check_time: Callable[[], None]) -> None:
        while True:
            check_time()
            self._refill()
            if self.running:
                group = _join(self.running)
                self.running = []
                for ledger in group.ledgers:
                    ledger.steps += 1
                self._ask("step", group)
            waiting = sum(map(len, self.parked))
            if waiting >= self.batch or (waiting and not self.running):
                self._judge()
            elif not self.running:
                return

    def _refill(self) -> None:
        free = self.batch - sum(map(len, self.running))
        jobs: list[Job] = []
        while len(jobs) < free and (job := self.queue.next()) is not None:
            jobs.append(job)
        if jobs:
            self._ask("scout", self._start(jobs))

    def _start(self, jobs: list[Job]) -> _Group:
        at = torch.tensor([job.sample for job in jobs], dtype=torch.int64, device=self.samples.labels.device)
        clean, labels = self.samples.images.index_select(0, at), self.samples.labels.index_select(0, at)
        eps = torch.tensor([job.eps for job in jobs], dtype=clean.dtype, device=clean.device)
        points = [clean[row] if job.point is None else job.point for row, job in enumerate(jobs)]
        # Copies: an attack that works in place must not move what its budget is measured from.
        origin = Origin(
            images=clean.clone(),
            labels=labels.clone(),
            eps=eps.clone(),
            restart=torch.tensor([job.restart for job in jobs], dtype=torch.int64, device=clean.device),
            logits=self.logits.index_select(0, at),
            points=torch.stack(points),
            masks=object_masks(self.samples).index_select(0, at),
            warm=torch.tensor([job.point is not None for job in jobs], device=clean.device),
            rng=self.streams(jobs),
        )
        state = self.attack.start(origin)
        self._check_rows("start", state, len(jobs))
        reach, marks = torch.full_like(eps, torch.inf), clean.new_full((len(jobs), len(self.attack.marks)), torch.nan)
        rows = _Rows(state, clean, labels, eps, reach, marks, clean, origin.rng)
        return _Group(rows, [_Ledger(job) for job in jobs])

    def _ask(self, method: Literal["scout", "step"], group: _Group) -> None:
        """Let the attack ask about some rows, and part those that are through from those that go on."""
        rows, attack = group.rows, self.attack
        queries = Queries(
            self.search,
            self.model,
            rows.clean,
            rows.labels,
            rows.eps,
            attack.norm,
            attack.goal,
            rows.reach,
            len(attack.marks),
            attack.expectation,
            rows.rng,
            torch.tensor([ledger.steps for ledger in group.ledgers], device=rows.labels.device),
        )
        state = getattr(attack, method)(queries, rows.state)
        self._check_rows(method, state, len(group))
        for ledger, outside in zip(group.ledgers, queries.overstepped.tolist(), strict=True):
            ledger.forwards += queries.forwards
            ledger.backwards += queries.backwards
            ledger.overstepped += outside
        found = queries.found.tolist()
        rows = replace(rows, state=state, reach=queries.reach)
        if any(found):
            points = torch.where(queries.found.view(-1, 1, 1, 1), queries.candidates, rows.points)
            marks = torch.where(queries.found.unsqueeze(1), queries.marks, rows.marks)
            rows = replace(rows, points=points, marks=marks)
        self._retire(_Group(rows, group.ledgers), found)

    def _retire(self, group: _Group, found: list[bool]) -> None:
        first = self.attack.goal == "first"
        given_up = getattr(group.rows.state, "given_up", None)
        left = given_up.tolist() if given_up is not None else [False] * len(found)
        leaving: list[int] = []
        staying: list[int] = []
        for row, (hit, ledger) in enumerate(zip(found, group.ledgers, strict=True)):
            ledger.spent = ledger.steps >= self.attack.steps or left[row]
            ledger.hit = hit or (ledger.hit and not first)
            ledger.at_last_point = ledger.spent and not ledger.hit
            (leaving if ledger.spent or (hit and first) else staying).append(row)
        if leaving:
            self._park(group.take(leaving))
        if staying:
            self.running.append(group.take(staying))

    def _park(self, group: _Group) -> None:
        """Let rows wait for the deployed model: at their success, or where they stand if they have none."""
        hit = torch.tensor([ledger.hit for ledger in group.ledgers], device=group.rows.labels.device)
        points = torch.where(hit.view(-1, 1, 1, 1), group.rows.points, group.rows.state.images)
        self.parked.append(replace(group, rows=replace(group.rows, points=points)))

    def _judge(self) -> None:
        """Ask the deployed model about all parked points; what it does not confirm goes on, if it still may.

        Each kind of row has its own way on: the nearest success is pushed further out, any other row is stepped again,
        and one without steps left is judged a last time, where its search ended.
        """
        group = _join(self.parked)
        self.parked = []
        rows = group.rows
        logits = self.model.logits(rows.points)
        fooled = logits.argmax(1) != rows.labels
        inside = allowed(self.attack.norm, rows.eps, rows.clean, rows.points)
        again: list[int] = []
        last: list[int] = []
        pushed: list[int] = []
        confirmed: list[int] = []
        for row, (wrong, legal) in enumerate(zip(fooled.tolist(), inside.tolist(), strict=True)):
            ledger = group.ledgers[row]
            ledger.forwards += 1
            ledger.overstepped += wrong and not legal
            if wrong and legal:
                confirmed.append(row)
                continue
            if ledger.at_last_point:
                self.queue.report(_outcome(ledger, rows.points[row].clone(), logits[row].clone()))
                continue
            ledger.refuted += 1
            if self.attack.goal == "nearest" and ledger.refuted <= len(_PUSHES):
                ledger.at_last_point = ledger.refuted == len(_PUSHES)
                pushed.append(row)
                continue
            ledger.at_last_point = ledger.spent
            (last if ledger.at_last_point else again).append(row)
        if confirmed:
            self._credit(group.take(confirmed), logits[torch.tensor(confirmed, device=logits.device)])
        if again:
            self.running.append(group.take(again))
        if last:
            spent = group.take(last)
            self.parked.append(replace(spent, rows=replace(spent.rows, points=spent.rows.state.images)))
        if pushed:
            self.parked.append(_pushed(group.take(pushed), self.attack.norm))

    def _credit(self, group: _Group, logits: Tensor) -> None:
        """Report successes that the deployed model confirmed, each shortened as far as it goes."""
        points = group.rows.points
        shortest = max(len(ledger.job.smaller) for ledger in group.ledgers)
        if shortest:
            points, logits = self._shortened(group, logits, shortest)
        away, marks = distance(self.attack.norm, group.rows.clean, points).tolist(), group.rows.marks.tolist()
        for row, ledger in enumerate(group.ledgers):
            failure = _outcome(ledger, points[row].clone(), logits[row].clone())
            self.queue.report(replace(failure, fooled=True, distance=away[row], marks=tuple(marks[row])))

    def _shortened(self, group: _Group, logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Bisect the smaller budgets of each job on the way back to the clean image; return points and their logits."""
        rows = group.rows
        device = rows.clean.device
        counts = [len(ledger.job.smaller) for ledger in group.ledgers]
        padded = [ledger.job.smaller + (0.0,) * (most - len(ledger.job.smaller)) for ledger in group.ledgers]
        budgets = torch.tensor(padded, device=device)
        low, high = torch.zeros(len(counts), dtype=torch.int64, device=device), torch.tensor(counts, device=device)
        full = distance(self.attack.norm, rows.clean, rows.points)
        points = rows.points
        for _ in range(most.bit_length()):
            open_, middle = low < high, (low + high) // 2
            eps = budgets.gather(1, middle.clamp(max=most - 1).unsqueeze(1)).squeeze(1)
            share = (eps / full).clamp(max=1).view(-1, 1, 1, 1)
            nearer = torch.lerp(rows.clean, rows.points, share)
            scores = self.model.logits(nearer)
            fooled = open_ & (scores.argmax(1) != rows.labels)
            points = torch.where(fooled.view(-1, 1, 1, 1), nearer, points)
            logits = torch.where(fooled.unsqueeze(1), scores, logits)
            high = torch.where(fooled, middle, high)
            low = torch.where(open_ & ~fooled, middle + 1, low)
            for ledger, asked in zip(group.ledgers, open_.tolist(), strict=True):
                ledger.forwards += asked
        return points, logits

    def _check_rows(self, method: str, state: object, rows: int) -> None:
        if count_rows(state) != rows:
            raise TypeError(f"{method} was given {rows} rows and returned a state of {count_rows(state)}")


def _pushed(group: _Group, norm: Norm) -> _Group:
    """Move points outward, to the next of `_PUSHES` times the distance at which the search found them."""
    rows = group.rows
    lengths = [_PUSHES[ledger.refuted - 1] for ledger in group.ledgers]
    wanted = torch.tensor(lengths, device=rows.clean.device) * rows.reach
    now = distance(norm, rows.clean, rows.points).clamp_min(1e-12)
    further = rows.clean + (rows.points - rows.clean) * (wanted / now).view(-1, 1, 1, 1)
    return replace(group, rows=replace(rows, points=further.clamp(0, 1)))


def _outcome(ledger: _Ledger, image: Tensor, logits: Tensor) -> Outcome:
    """Return a failure with the account of its job."""
    return Outcome(
        job=ledger.job,
        fooled=False,
        image=image,
        logits=logits,
        distance=float("nan"),
        steps=ledger.steps,
        forwards=ledger.forwards,
        backwards=ledger.backwards,
        overstepped=ledger.overstepped,
        refuted=ledger.refuted,
    )
