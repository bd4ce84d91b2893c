"""What a stored audit must be like before it is judged or drawn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_targets import example_audit

from auditkit.auditing import AuditResult, load_result, save
from auditkit.errors import UsageError

# A NaN that makes processors raise an alarm when it is converted, which numpy passes on as a warning.
SIGNALLING = np.full((6, 6), 0x7F800001, dtype=np.uint32).view(np.float32)


def _with(**changes: dict[str, object]) -> AuditResult:
    example = example_audit()
    table = {**example.table, **changes.get("table", {})}
    arrays = {**example.arrays, **changes.get("arrays", {})}
    kept = {name: column for name, column in table.items() if column is not None}
    return AuditResult(example.result, kept, arrays, example.matches)


def _stored(folder: Path, audited: AuditResult) -> Path:
    for name, arrays in (("samples", audited.table), ("exhibits", audited.arrays), ("matches", audited.matches)):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        (folder / f"{name}.npz").write_bytes(buffer.getvalue())
    (folder / "result.json").write_text(audited.result.to_json())
    return folder


def test_an_audit_that_was_saved_is_sound(tmp_path):
    save(example_audit(), tmp_path)
    loaded = load_result(tmp_path)
    assert loaded.result == example_audit().result
    assert sorted(loaded.table) == sorted(example_audit().table)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"table": {"id": None}}, "no column id"),
        ({"table": {"id": np.array(["a"] * 8)}}, "different names"),
        ({"table": {"label": np.arange(7)}}, "'label' of its table is int64 (7,)"),
        ({"table": {"label": np.zeros((8, 2))}}, "'label'"),
        ({"table": {"a\nb": np.zeros(8, dtype="M8[s]")}}, r"'a\nb'"),
        ({"table": {"noise.pgd/robust@8/255": None}}, "no numbers for 'noise.pgd/robust_accuracy'"),
        ({"table": {"noise.pgd/robust@8/255": np.array(["yes"] * 8)}}, "no numbers for"),
        ({"table": {"noise.pgd/held_out": np.array(["yes"] * 8)}}, "which images count"),
        ({"arrays": {"noise.pgd/0/image": np.zeros((6, 6, 3), dtype=np.float32)}}, "of kind image: float32 (6, 6, 3)"),
        ({"arrays": {"noise.pgd/0/image": np.zeros((1, 1, 1, 1), dtype=np.uint8)}}, "of kind image"),
        ({"arrays": {"noise.pgd/0/image": np.zeros((0, 6, 3), dtype=np.uint8)}}, "of kind image"),
        ({"arrays": {"noise.pgd/0/image": np.zeros((2**15, 1), dtype=np.uint8)}}, "of kind image"),
        ({"arrays": {"noise.pgd/0/heat": np.zeros((6, 6, 1), dtype=np.float32)}}, "of kind heat"),
        ({"arrays": {"noise.pgd/0/heat": np.full((6, 6), np.nan, dtype=np.float32)}}, "of kind heat"),
        ({"arrays": {"noise.pgd/0/heat": SIGNALLING}}, "of kind heat"),
        ({"arrays": {"noise.pgd/0/overlay": np.zeros((6, 6, 3), dtype=np.float32)}}, "of kind overlay"),
        ({"arrays": {"noise.pgd/0/difference": np.full((6, 6, 3), 1e300)}}, "of kind difference"),
    ],
)
def test_a_stored_audit_whose_arrays_are_not_what_its_result_says_is_refused(tmp_path, changes, told):
    with pytest.raises(UsageError) as caught:
        load_result(_stored(tmp_path, _with(**changes)))
    message = str(caught.value)
    assert told in message
    assert message.isprintable()


@pytest.mark.parametrize(("value", "n"), [(-9e18, 8), (1.001, 8), (0.5, 0), (0.5, -(2**62) - 1), (0.5, 2**62)], ids=str)
def test_a_share_that_can_be_none_is_refused(tmp_path, value, n):
    """Else the gate asks how many images would settle it, and there is no such number."""
    audited = example_audit()
    attack, *others = audited.result.checks
    share = attack.metrics["robust_accuracy@2/255"].model_copy(update={"value": value, "n": n})
    attack = attack.model_copy(update={"metrics": {**attack.metrics, "robust_accuracy@2/255": share}})
    audited = replace(audited, result=audited.result.model_copy(update={"checks": (attack, *others)}))
    with pytest.raises(UsageError, match=r"'noise\.pgd/robust_accuracy@2/255' is no estimate by 'Clopper-Pearson'"):
        load_result(_stored(tmp_path, audited))


@pytest.mark.parametrize("where", ["profiles", "curves"])
def test_a_figure_of_numbers_beyond_all_measure_is_refused(tmp_path, where):
    audited = example_audit()
    text = json.loads(audited.result.to_json())
    if where == "profiles":
        text["checks"][0]["profiles"][0]["lines"]["clean"][0] = 1e300
    else:
        text["checks"][0]["curves"][0]["points"][0]["x"] = -1e300
    stored = _stored(tmp_path, audited)
    (stored / "result.json").write_text(json.dumps(text))
    with pytest.raises(UsageError, match=r"a figure of 'noise\.pgd' has -?1e\+300 in it"):
        load_result(stored)


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("settings", {"confidence": [0.95]}, "its confidence is '[0.95]', wanted a number between 0 and 1"),
        ("settings", {"confidence": 1.5}, "its confidence is '1.5'"),
        ("settings", {"tries": [{"a": float("inf")}]}, "a number in its settings is not finite"),
        ("volatile", {"seconds": float("inf")}, "a number in its settings is not finite"),
    ],
)
def test_settings_that_can_be_none_are_refused(tmp_path, where, value, told):
    """JSON has a way to say infinity, 1e999, that no format of the report has."""
    audited = example_audit()
    stored = _stored(tmp_path, audited)
    text = json.loads(audited.result.to_json())
    text[where] |= value
    (stored / "result.json").write_text(json.dumps(text).replace("Infinity", "1e999"))
    with pytest.raises(UsageError) as caught:
        load_result(stored)
    assert told in str(caught.value)


def test_arrays_that_nothing_shows_may_be_anything(tmp_path):
    stored = _stored(tmp_path, _with(arrays={"mine": np.zeros((2, 2, 2, 2))}))
    assert "mine" in load_result(stored).arrays
