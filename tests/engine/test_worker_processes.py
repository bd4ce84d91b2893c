"""Worker processes learn and read as this one does."""

from __future__ import annotations

import numpy as np
import torch
from made_checks import NETWORK, SAMPLES

from auditkit import audit


def test_worker_processes_learn_and_read_the_same(tmp_path):
    """Spawned processes import torch for seconds each, so this is one test."""
    torch.jit.script(NETWORK).save(tmp_path / "model.pt")
    np.savez(tmp_path / "data.npz", x=SAMPLES.images.numpy(), y=SAMPLES.labels.numpy())
    tables = []
    for workers in (0, 2):
        options = {"noise.pgd": {"steps": 3}, "noise.universal": {"steps": 5, "mini_batch": 4}}
        audited = audit(
            tmp_path / "model.pt",
            tmp_path / "data.npz",
            checks=("sanity.attacks", "noise.universal", "noise.pgd"),
            options=options,
            workers=workers,
            shard=8,
            precision="float32",
        )
        assert [check.status for check in audited.result.checks] == ["done"] * 3
        tables.append(audited.table)
    assert tables[0].keys() == tables[1].keys()
    assert tables[0]["noise.universal/held_out"].any()
    for name, column in tables[0].items():
        assert np.array_equal(column, tables[1][name], equal_nan=column.dtype.kind == "f"), name
