"""Networks that answer with the number of a class, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_graphs import model_of
from torch import nn

from auditkit import Capability, ExecutionError, UsageError, audit
from auditkit.config import settings_from
from auditkit.engine import missing_capability
from auditkit.models.base import Model
from auditkit.models.labels import are_labels, scores_from_labels
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing
from auditkit.models.tryout import try_out
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.testing import LinearModel, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.decision import Decision
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import UniformNoise
from auditkit_plugins.square import Square

CPU = torch.device("cpu")
LABELS = Preprocessing(outputs="labels")
NETWORK = LinearModel(classes=5, seed=2)
SAMPLES = toy_samples(24, seed=3, network=NETWORK)


class Answers(nn.Module):
    """The number of the best class, in the shape and type that a test asks for."""

    def __init__(self, form=lambda labels: labels) -> None:
        super().__init__()
        self.scores, self.form = NETWORK, form

    def forward(self, images):
        return self.form(self.scores(images).argmax(1))


FORMS = {
    "int64 (N,)": lambda labels: labels,
    "int32 (N, 1)": lambda labels: labels.int().unsqueeze(1),
    "float32 (N,)": lambda labels: labels.float(),
    "float64 (N, 1, 1, 1)": lambda labels: labels.double().view(-1, 1, 1, 1),
    "a tuple that starts with them": lambda labels: (labels, labels * 2),
}


def tried(network: nn.Module, steps: Preprocessing = LABELS, **known: int) -> Model:
    return try_out(load_model(network.eval(), device=CPU), steps, SAMPLES.images, CPU, 16, **known)


@pytest.mark.parametrize("form", FORMS)
def test_that_labels_of_any_form_become_one_score_a_class(form):
    model = tried(Answers(FORMS[form]))
    wanted = nn.functional.one_hot(NETWORK(SAMPLES.images).argmax(1), 5).float()
    assert torch.equal(model.logits(SAMPLES.images), wanted)
    assert torch.equal(model.logits(SAMPLES.images[:1]), wanted[:1])
    assert model.logits(SAMPLES.images[:0]).shape == (0, 5)
    assert model.info.classes == 5
    assert model.capabilities == frozenset()
    assert model.exact is None


def test_that_an_onnx_graph_may_end_in_argmax(tmp_path):
    weight, bias = (value.detach().numpy() for value in (NETWORK.weight, NETWORK.bias))
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["linear"], transB=1),
        helper.make_node("ArgMax", ["linear"], ["scores"], axis=1, keepdims=0),
    ]
    graph = model_of(nodes, {"weight": weight, "bias": bias}, ["N", 3, 8, 8], ["N"])
    graph.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(graph, tmp_path / "labels.onnx")
    model = try_out(load_model(tmp_path / "labels.onnx", device=CPU), LABELS, SAMPLES.images, CPU, 16)
    assert torch.equal(model.logits(SAMPLES.images).argmax(1), NETWORK(SAMPLES.images).argmax(1))
    assert Capability.SCORES not in model.capabilities
    assert model.no_gradients == "it gives labels only"


def test_that_the_number_of_classes_is_what_answers_show_or_more_where_more_is_known():
    two = Answers(lambda labels: labels % 2)
    assert tried(two).info.classes == 2
    assert tried(two, known_classes=9).logits(SAMPLES.images).shape == (24, 9)
    assert tried(Answers(), known_classes=3).info.classes == 5


def test_that_an_answer_beyond_the_known_classes_names_the_remedy():
    class Surprising(nn.Module):
        def forward(self, images):
            return (images.amax((1, 2, 3)) == 1).long() * 7

    model = tried(Surprising())
    with pytest.raises(ExecutionError, match=r"class 7, and only classes 0 to 0 are known.*--classes"):
        model.logits(torch.ones(2, 3, 8, 8))
    assert tried(Surprising(), known_classes=8).logits(torch.ones(2, 3, 8, 8)).argmax(1).tolist() == [7, 7]


@pytest.mark.parametrize("form", ["int64 (N,)", "int32 (N, 1)", "float32 (N,)"])
def test_that_labels_without_the_option_are_refused_with_the_remedy(form):
    with pytest.raises(ExecutionError, match="add --outputs labels") as raised:
        tried(Answers(FORMS[form]), Preprocessing())
    assert "\n" not in str(raised.value)


def test_that_other_odd_outputs_are_not_taken_for_labels():
    with pytest.raises(ExecutionError, match="scores; got") as raised:
        tried(Answers(lambda labels: labels + 0.5), Preprocessing())
    assert "--outputs labels" not in str(raised.value)
    assert tried(Answers(lambda labels: labels.unsqueeze(1) + 0.5), Preprocessing()).info.classes == 1


@pytest.mark.parametrize(
    "form",
    [
        lambda labels: labels + 0.5,
        lambda labels: labels - 4,
        lambda labels: labels.float() / 0,
        lambda labels: nn.functional.one_hot(labels, 5),
    ],
)
def test_that_what_are_no_labels_is_refused_under_the_option(form):
    with pytest.raises(ExecutionError, match=r"with --outputs labels a network returns the number of a class"):
        tried(Answers(form))


def test_that_labels_are_whole_numbers_from_zero_one_a_row():
    assert are_labels(torch.tensor([0, 3]))
    assert are_labels(torch.tensor([[1.0], [2.0]]))
    for other in ([0.5], [-1.0], [float("nan")], [float("inf")], [[1.0, 2.0]]):
        assert not are_labels(torch.tensor(other))
    assert not are_labels(torch.tensor(1))
    assert scores_from_labels(torch.tensor([[2.0]]), 4, "net").tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (PGD, "it needs gradients, and the model gives none: it gives labels only"),
        (Square, "it needs scores, and the model gives labels only"),
        (Decision, None),
        (UniformNoise, None),
    ],
)
def test_that_checks_that_need_more_than_labels_are_skipped_with_the_reason(check, reason):
    planned = configure(check, {}, check.spec.id, "tests")
    assert missing_capability(planned, tried(Answers())) == reason
    assert missing_capability(planned, toy_model(NETWORK, SAMPLES.images)) is None


def test_that_an_attack_on_labels_finds_what_it_finds_on_scores():
    """Only the class may count: the same network behind labels gives the same findings, bit for bit."""
    check = Decision(eps=(1 / 255, 4 / 255), queries=60)
    behind_labels = run_check(check, tried(Answers(), known_classes=5), SAMPLES)
    behind_scores = run_check(check, toy_model(NETWORK, SAMPLES.images), SAMPLES, search=None)
    assert behind_labels.columns["fooled"].any()
    for name, column in behind_scores.columns.items():
        if name == "attacked_confidence":  # which labels do not tell
            continue
        np.testing.assert_array_equal(behind_labels.columns[name], column)


def test_that_the_number_of_classes_is_an_option_of_labels_only():
    assert settings_from({"outputs": "labels", "classes": 43}).classes == 43
    with pytest.raises(UsageError, match="classes goes with outputs = labels"):
        settings_from({"classes": 43})
    with pytest.raises(UsageError, match="classes = 0"):
        settings_from({"outputs": "labels", "classes": 0})


def test_that_an_audit_of_labels_runs_what_it_can_and_warns_of_nothing(tmp_path):
    options = {"noise.decision": {"queries": 10}}
    result = audit(
        Answers(),
        (SAMPLES.images, SAMPLES.labels),
        out=tmp_path,
        checks=["noise.decision", "noise.square", "noise.pgd"],
        options=options,
        outputs="labels",
        classes=7,
    ).result
    assert result.model.classes == 7
    assert {check.id: check.status for check in result.checks} == {
        "noise.decision": "done",
        "noise.square": "skipped",
        "noise.pgd": "skipped",
    }
    assert [note.id for note in result.notes if note.level == "warning"] == []


def test_that_labels_of_later_images_ask_for_the_number_of_classes():
    labels = torch.cat([torch.zeros(64, dtype=torch.int64), torch.tensor([9])])
    bench = set_up(Recipe(Answers(), (torch.full((65, 3, 8, 8), 0.5), labels), settings_from({"outputs": "labels"})))
    with pytest.raises(ExecutionError, match=r"label 9.*--classes how many there are, 10 or more"):
        bench.read(0, 65)


def test_that_an_image_that_nobody_labels_rightly_stays_out():
    wrong = Samples(SAMPLES.images, (SAMPLES.labels + 1) % 5, SAMPLES.ids)
    findings = run_check(Decision(queries=5), tried(Answers(), known_classes=5), wrong)
    right = findings.columns["clean_correct"]
    np.testing.assert_array_equal(right, NETWORK(SAMPLES.images).argmax(1).numpy() == wrong.labels.numpy())
    assert (findings.forwards[~right] == 1).all()
