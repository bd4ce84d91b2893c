"""What the first screen shows: why the verdict is what it is, and the most telling picture."""

from __future__ import annotations

import hashlib

import pytest
from whole_audit import bounded

from auditkit.gate import judge
from auditkit.report import render_html
from auditkit.report.digests import signed_digests
from auditkit.report.reason import deciding_gate, verdict_reason
from auditkit.report.telling import telling_exhibit
from auditkit.requirements import parse_gate
from auditkit.result import Result


def gated(result, *gates):
    return judge(result, [parse_gate(gate) for gate in gates])


@pytest.mark.parametrize(
    ("gates", "reason"),
    [
        (("noise.pgd/robust_accuracy >= 0.4",), "Robust accuracy (noise.pgd): 5.2 % found, ≥ 40 % required"),
        (
            ("noise.pgd/clean_accuracy >= 0.9", "pixel.one/robust_accuracy >= 0.9"),
            "Robust accuracy (pixel.one): 78.3 % found, ≥ 90 % required",
        ),
        (
            ("noise.pgd/robust_accuracy@2/255 >= 60%",),
            "Robust accuracy at 2/255 (noise.pgd): 61.8 % found, ≥ 60 % required",
        ),
    ],
)
def test_the_first_requirement_with_the_verdict_of_the_audit_is_the_reason(result, gates, reason):
    sound = result.model_copy(update={"checks": result.checks[:5]})
    assert verdict_reason(gated(sound, *gates)) == reason


def test_a_missing_number_is_told_with_its_cause(result):
    reason = verdict_reason(gated(result, "patch.universal/robust_accuracy >= 0.5"))
    assert reason is not None
    assert reason.startswith("Robust accuracy (patch.universal): ")
    assert "the gradient is not finite" in reason


def test_a_crash_is_a_reason_and_a_pass_needs_none(result):
    gate = "noise.pgd/clean_accuracy >= 0.9"
    assert verdict_reason(gated(result, gate)) == (
        "patch.universal failed: RuntimeError: the gradient is not finite at step 3"
    )
    sound = gated(result.model_copy(update={"checks": result.checks[:5]}), gate)
    assert (verdict_reason(sound), deciding_gate(sound)) == (None, None)


def test_the_picture_is_of_the_requirement_that_decided_else_of_the_worst_attack_else_of_any(result, arrays):
    failed = telling_exhibit(gated(result, "pixel.one/robust_accuracy >= 0.9"), arrays)
    assert failed is not None
    assert (failed.check.key, failed.why) == ("pixel.one", "From the check whose requirement is not met")
    sound = result.model_copy(update={"checks": result.checks[:5]})
    open_ = telling_exhibit(gated(sound, "noise.square@queries500/robust_accuracy >= 0.4"), arrays)
    assert open_ is not None
    assert (open_.check.key, open_.why) == ("noise.square@queries500", "From the check whose requirement is undecided")
    worst = telling_exhibit(gated(result, "noise.pgd/clean_accuracy >= 0.9"), arrays)
    assert worst is not None
    assert (worst.check.key, worst.why) == ("noise.pgd", "From the attack that left least of the accuracy")
    unbound = result.checks[2].model_copy(update={"norm": None})
    any_ = telling_exhibit(result.model_copy(update={"checks": (unbound,), "gates": ()}), arrays)
    assert any_ is not None
    assert (any_.check.key, any_.why) == ("pixel.one", "From the gallery of a check")


def test_the_picture_is_the_first_pair_of_images_that_is_stored(result, arrays):
    first, second = result.checks[0].exhibits[:2]
    heat = first.model_copy(update={"panels": first.panels[2:]})
    pgd = result.checks[0].model_copy(update={"exhibits": (heat, first, second)})
    made = result.model_copy(update={"checks": (pgd,)})
    telling = telling_exhibit(made, arrays)
    assert telling is not None
    assert [panel.title for panel in telling.exhibit.panels] == ["clean", "attacked"]
    assert telling.exhibit.caption == first.caption
    gone = {name: array for name, array in arrays.items() if not name.startswith("noise.pgd/0/attacked")}
    telling = telling_exhibit(made, gone)
    assert telling is not None
    assert telling.exhibit.caption == second.caption
    assert telling_exhibit(made, {}) is None


@pytest.mark.parametrize("layout", ["single", "folder"])
def test_picture_and_words_stand_above_the_requirements(whole, arrays, layout):
    page = render_html(whole, arrays, layout=layout)
    above = page.html[: page.html.index('id="requirements"')]
    assert above.count("<img ") == 2
    assert 'class="because">Robust accuracy (noise.pgd)' in above
    assert "Bounded activations help" in above
    bare = render_html(whole, {}, layout=layout).html
    assert 'class="telling"' not in bare
    assert 'class="first"' in bare


def test_what_a_signature_binds_is_the_result_as_it_is_written(whole, arrays):
    again = Result.model_validate_json(whole.to_json())
    (model, digest), (images, fingerprint), (_, written) = signed_digests(again)
    assert (digest, fingerprint) == (whole.model.digest, whole.samples.fingerprint)
    assert ("signs-resnet20.onnx" in model, "600 images of data/gtsrb-test" in images) == (True, True)
    assert written == hashlib.sha256(whole.to_json().encode()).hexdigest()
    page = render_html(whole, arrays, layout="folder").html
    block = page[page.index('id="sign-off"') :]
    assert all(text in block for text in (digest, fingerprint, written, "Tester", "Reviewer", "Approver"))


def test_hard_images_have_a_section_of_their_own_and_stand_nowhere_else(whole, arrays, pages):
    page = render_html(whole, arrays, layout="folder").html
    start, end = page.index('id="hard"'), page.index('id="evidence"')
    section = page[start:end]
    assert "--export DIR" in section
    assert (
        section.count("stop: withstands") == page.count("stop: withstands") == 6 * (1 + 3)
    )  # captions, and what pictures say
    assert "2 more images" in section
    assert '<a href="#hard">The images</a>' in page[end:]
    assert 'id="hard"' not in pages["folder"].html


def test_a_comparison_with_bounds_alone_needs_no_attack(result):
    assert telling_exhibit(result.model_copy(update={"checks": (bounded(),), "gates": ()}), {}) is None
