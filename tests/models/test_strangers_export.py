"""torch.export files of strangers: no text of theirs is evaluated, no pickle imports, no library is opened."""

from __future__ import annotations

import json
import logging
import os
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strangers import Marker, Small, exported, pickled, refusal, reprogrammed, rewritten, saved
from torch import nn
from torch.export import Dim

from auditkit.errors import AuditError, ExecutionError
from auditkit.models.inspection.expressions import is_operator, is_size, is_structure
from auditkit.models.open import load_model

CPU = torch.device("cpu")
IMAGES = torch.linspace(0, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def as_torch_does(path):
    """Load and run a file as torch does by itself, whatever comes of it."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.load(path).module()(IMAGES)
    except Exception:  # noqa: S110 (what the file has done by then is what is looked at)
        pass
    finally:
        logging.disable(logging.NOTSET)


def graph(program):
    return program["graph_module"]["graph"]


def renamed(program, old, new):
    changed = json.loads(json.dumps(program).replace(json.dumps(old), json.dumps(new)))
    program.clear()
    program.update(changed)


def sizes(program, code):
    for tensor in graph(program)["tensor_values"].values():
        for size in tensor["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = code


def sizes_of_a_tensor_with_the_name_of_a_field(program, code):
    values = graph(program)["tensor_values"]
    sizes(program, code)
    for name in list(values):
        values["metadata" if name == "images" else name] = values.pop(name)
    renamed(program, "images", "metadata")


def input_name(program, code):
    renamed(program, "images", f"images={code}")


EVALUATED = {
    "sizes": sizes,
    "sizes of a tensor with the name of a field": sizes_of_a_tensor_with_the_name_of_a_field,
    "name of the input": input_name,
}


@pytest.mark.parametrize("name", EVALUATED)
def test_text_that_torch_would_evaluate_is_never_run(tmp_path, name):
    marker = tmp_path / "marker"
    code = f"__import__('os').mkdir('{marker}')"
    path = reprogrammed(exported(tmp_path / "net.pt2"), lambda program: EVALUATED[name](program, code))
    assert "which auditkit does not let torch evaluate" in refusal(path)
    assert not marker.exists()
    as_torch_does(path)
    assert marker.exists(), "torch itself no longer evaluates this text, and this test shows nothing"


def test_guards_are_never_made_into_code(tmp_path):
    marker = tmp_path / "marker"
    code = f"__import__('os').mkdir('{marker}') is None"
    path = reprogrammed(exported(tmp_path / "net.pt2"), lambda program: program.update(guards_code=[code]))
    load_model(path, device=CPU).run(IMAGES)
    assert not marker.exists()
    as_torch_does(path)
    assert marker.exists(), "torch itself no longer runs guards, and this test shows nothing"


def with_entry(path, kind, name, entry, content):
    """Add a weight or a constant that torch would unpickle."""

    def edit(config):
        tensors = json.loads(config)
        tensors["config"][name] = {"path_name": entry, "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps(tensors).encode()

    rewritten(path, f"data/{kind}/{entry}", lambda _: content)
    return rewritten(path, f"data/{kind}/model_{kind}_config.json", edit)


PICKLES = {
    "a weight": lambda path, marker: with_entry(path, "weights", "more", "weight_9", saved(marker)),
    "a constant": lambda path, marker: with_entry(path, "constants", "more", "tensor_9", saved(marker)),
    "an object": lambda path, marker: with_entry(path, "constants", "more", "opaque_obj_0", pickled(marker)),
    "the sample inputs": lambda path, marker: rewritten(path, "data/sample_inputs/model.pt", lambda _: saved(marker)),
    "weights of an old torch": lambda path, marker: rewritten(path, "data/weights/model.pt", lambda _: saved(marker)),
    "constants of an old torch": lambda path, marker: rewritten(
        path, "data/constants/model.pt", lambda _: saved(marker)
    ),
    "a pickle without an archive": lambda path, marker: rewritten(
        path, "data/sample_inputs/model.pt", lambda _: pickled(marker)
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_in_the_archive_imports_nothing(tmp_path, name):
    marker = tmp_path / "marker"
    path = PICKLES[name](exported(tmp_path / "net.pt2"), Marker(marker))
    message = refusal(path)
    assert "imports posix.mkdir" in message or "an object that loading would unpickle" in message
    assert not marker.exists()
    as_torch_does(path)
    assert marker.exists(), "torch itself no longer loads this pickle, and this test shows nothing"


@pytest.mark.parametrize("name", [name for name in PICKLES if name != "an object"])
def test_a_pickle_that_was_overlooked_would_still_be_read_as_weights_only(tmp_path, monkeypatch, name):
    marker = tmp_path / "marker"
    monkeypatch.setattr("auditkit.models.torch_files.check_torch_file", lambda *_: None)
    refusal(PICKLES[name](exported(tmp_path / "net.pt2"), Marker(marker)), ExecutionError)
    assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_what_the_user_set_for_torch_is_as_it_was_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    load_model(exported(tmp_path / "net.pt2"), device=CPU)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


def test_compiled_code_is_never_opened(tmp_path):
    path = rewritten(exported(tmp_path / "net.pt2"), "data/aotinductor/model/net.so", lambda _: b"\x7fELF")
    assert "was compiled elsewhere, and loading would run it" in refusal(path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.load",
        "_operator.methodcaller",
    ],
)
def test_a_node_can_name_operators_only(tmp_path, target):
    path = reprogrammed(
        exported(tmp_path / "net.pt2"), lambda program: graph(program)["nodes"][0].update(target=target)
    )
    assert f"has {target} as its target" in refusal(path)


def test_weights_that_claim_more_than_their_bytes_are_refused(tmp_path):
    def grow(config):
        tensors = json.loads(config)
        tensors["config"]["classifier.bias"]["tensor_meta"]["sizes"] = [{"as_int": 2**40}]
        return json.dumps(tensors).encode()

    path = rewritten(exported(tmp_path / "net.pt2"), "data/weights/model_weights_config.json", grow)
    assert "has the shape [1099511627776]" in refusal(path)


def test_a_file_that_is_none_is_refused_without_a_word_from_torch(tmp_path, caplog, capfd):
    path = exported(tmp_path / "net.pt2")
    rewritten(path, "models/model.json", lambda _: b"{}")
    refusal(path, ExecutionError)
    for content in (b"", b"PK\x03\x04", b"{}"):
        path.write_bytes(content)
        refusal(path, ExecutionError)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")


def test_a_program_of_endless_brackets_is_refused(tmp_path):
    path = rewritten(exported(tmp_path / "net.pt2"), "models/model.json", lambda _: b"[" * 100_000 + b"]" * 100_000)
    refusal(path, ExecutionError)


def test_a_file_that_is_cut_short_is_refused_at_every_length(tmp_path):
    path = exported(tmp_path / "net.pt2")
    content = path.read_bytes()
    for length in range(0, len(content), 997):
        path.write_bytes(content[:length])
        refusal(path, AuditError)


class Bending(nn.Module):
    """Has sizes that are computed from sizes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n, _, height, _ = images.shape
        pooled = nn.functional.avg_pool2d(images, 2, ceil_mode=True).mean((2, 3))
        more = torch.ones(max(height // 2, 1)).sum() * (height / 3)
        return torch.cat([pooled, pooled])[:n] * (height // 3) + more


def test_sizes_that_torch_writes_are_allowed(tmp_path):
    network = Bending().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: Dim.AUTO, 2: Dim.AUTO},)
        program = torch.export.export(network, (torch.rand(4, 3, 24, 24),), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "net.pt2")
    images = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(load_model(tmp_path / "net.pt2", device=CPU).run(images), network(images))


def test_a_trusted_file_loads_as_torch_loads_it(tmp_path):
    path = exported(tmp_path / "net.pt2")
    rewritten(path, "data/sample_inputs/model.pt", lambda _: saved(((IMAGES, Small()), {})))
    refusal(path)
    loaded = load_model(path, device=CPU, trust_pickle=True)
    assert loaded.format == "torch.export"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Mul(Integer(12), FloorDiv(Add(Symbol('s53', integer=True), Integer(-1)), Integer(2))), Integer(12))",
        "Max(Integer(1), FloorDiv(Symbol('s53', integer=True), Integer(2)))",
        "Pow(Symbol('u0', integer=True), Integer(2))",
        "2*s0 + 1",
        "s0 >= 2",
        "Float('0.5', precision=53)",
    ],
)
def test_arithmetic_on_sizes_is_allowed(text):
    assert is_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Symbol('x').__class__",
        "Symbol.__init__.__globals__",
        "().__class__.__bases__",
        "exec('1')",
        "open('file')",
        "lambda: 1",
        "[x for x in s0]",
        "Symbol('s0'); 1",
        "f'{1}'",
        "'text'",
        "Symbol(__import__('os'))",
        "Symbol('s0', positive=exec('1'))",
        "Symbol('s0', cls=Integer)",
        "Integer('9**9**9')",
        "9**9**9",
        "Pow(Integer(9), Integer(999999999))",
        "Pow(Pow(Pow(Integer(9), Integer(64)), Integer(64)), Integer(64))",
        "Pow(Integer(9), Mul(Integer(64), Integer(64)))",
        "Integer(99999999999999999999999)",
        "(" * 500 + "s0" + ")" * 500,
        "-" * 500 + "s0",
        "Add(" * 100 + "s0" + ")" * 100,
        "s0 if s1 else s2",
        "s0 := 1",
        "\uff53\uff30",
        "",
    ],
)
def test_everything_else_is_no_size(text):
    assert not is_size(text)


@given(st.text(max_size=60) | st.text("Symbol('s0)Integer.,_[]{}:=", max_size=60))
def test_no_text_crashes_the_grammar(text):
    for check in (is_size, is_operator, is_structure):
        assert check(text) in (True, False)


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "collections.defaultdict", "context": '{"default_factory_module": "os"}', "children_spec": []},
        {"type": "builtins.dict", "context": '["a\'): evil"]', "children_spec": [{"type": None}]},
        {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:x"}]', "children_spec": []},
        {"type": "builtins.tuple", "context": 1, "children_spec": []},
        {"type": "builtins.tuple", "context": "null", "children_spec": {}},
        [],
    ],
)
def test_structures_that_import_are_refused(tree):
    assert not is_structure(json.dumps([1, tree]))
