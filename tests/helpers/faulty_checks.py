"""Checks with all the faults that a plugin can have; worker processes import them by name."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from auditkit import Findings, Metric, Spec


def spec(name: str, **more) -> Spec:
    return Spec(f"faulty.{name}", "t", "w", (Metric("ones", "one", "t"),), **more)


def ones(samples) -> Findings:
    return Findings({"one": np.ones(len(samples), dtype=bool)})


@dataclass(frozen=True)
class Good:
    spec: ClassVar[Spec] = spec("good")

    def run(self, model, samples, ctx):
        return ones(samples)


@dataclass(frozen=True)
class Raises:
    spec: ClassVar[Spec] = spec("raises")

    def run(self, model, samples, ctx):
        raise RuntimeError("boom")


@dataclass(frozen=True)
class NaN:
    spec: ClassVar[Spec] = spec("nan")

    def run(self, model, samples, ctx):
        return Findings({"one": np.full(len(samples), np.nan)})


@dataclass(frozen=True)
class Short:
    spec: ClassVar[Spec] = spec("short")

    def run(self, model, samples, ctx):
        return Findings({"one": np.ones(3, dtype=bool)})


@dataclass(frozen=True)
class Exits:
    spec: ClassVar[Spec] = spec("exits")

    def run(self, model, samples, ctx):
        os._exit(0)


@dataclass(frozen=True)
class Crashes:
    spec: ClassVar[Spec] = spec("crashes")

    def run(self, model, samples, ctx):
        ctypes.string_at(0)


@dataclass(frozen=True)
class CrashesInLearning:
    spec: ClassVar[Spec] = spec("learns", scope="dataset")

    def learn(self, model, samples, ctx):
        ctypes.string_at(0)

    def run(self, model, samples, ctx):
        return ones(samples)


@dataclass(frozen=True)
class Hangs:
    spec: ClassVar[Spec] = spec("hangs")

    def run(self, model, samples, ctx):
        time.sleep(600)


@dataclass(frozen=True)
class HangsUp:
    """Closes what it has no business with, and lives on."""

    spec: ClassVar[Spec] = spec("hangs_up")

    def run(self, model, samples, ctx):
        for each in gc.get_objects():
            if isinstance(each, Connection) and not each.closed:
                each.close()
        time.sleep(600)


@dataclass(frozen=True)
class KillsParentOnce:
    """Kills the process that it was forked of, as the system may for want of memory; not where `mark`.done lies."""

    spec: ClassVar[Spec] = spec("parent")
    mark: str = ""

    def run(self, model, samples, ctx):
        try:
            Path(f"{self.mark}.done").touch(exist_ok=False)
        except FileExistsError:
            return ones(samples)
        parent = os.getppid()
        assert b"be_zygote" in Path(f"/proc/{parent}/cmdline").read_bytes(), "it would kill the tests themselves"
        os.kill(parent, signal.SIGKILL)
        time.sleep(600)


@dataclass(frozen=True)
class Leaks:
    spec: ClassVar[Spec] = spec("leaks")

    def run(self, model, samples, ctx):
        held = []
        while True:
            held.append(np.ones(2**22))


@dataclass(frozen=True)
class LosesTheDevice:
    spec: ClassVar[Spec] = spec("device")

    def run(self, model, samples, ctx):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...")
