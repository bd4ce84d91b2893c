"""TorchScript of strangers: what could open files or reach unknown operators is never loaded, let alone run."""

from __future__ import annotations

import warnings
import zipfile

import pytest
import torch
from strangers import Small, entries_of, refusal, rewritten, write_archive
from torch import nn

from auditkit.errors import AuditError, ExecutionError
from auditkit.models.inspection.nesting import is_too_deep
from auditkit.models.open import load_model

CPU = torch.device("cpu")
IMAGES = torch.linspace(0, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)

HEAD = """class Honest(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : Optional[bool]
"""
FORWARD = """  def forward(self: __torch__.Honest,
    x: Tensor) -> Tensor:
    {}
    return torch.mean(torch.relu(x), [2, 3])
"""


class Honest(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).mean((2, 3))


class Saving(nn.Module):
    """Writes its input to a file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.file)
        return x.mean((2, 3))


class Reading(nn.Module):
    """Reads a file into its scores."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + torch.from_file(self.file, False, 3, dtype=torch.uint8)


def scripted(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network.eval()).save(str(path))
    return path


def with_code(path, code):
    """Write a script whose code is this instead."""
    scripted(Honest(), path)
    (entry,) = [name.split("/", 1)[1] for name in entries_of(path) if name.endswith(".py")]
    kept = {name: content for name, content in entries_of(path).items() if not name.endswith(".debug_pkl")}
    write_archive(path, kept)
    return rewritten(path, entry, lambda _: code.encode())


def loaded_by_torch(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))


def test_a_script_that_writes_a_file_is_refused_before_it_runs(tmp_path):
    target = tmp_path / "written"
    path = scripted(Saving(str(target)), tmp_path / "net.pt")
    message = refusal(path)
    assert "has the word 'save', torch's operator that opens files" in message
    assert not target.exists()
    loaded_by_torch(path)(IMAGES)
    assert target.exists(), "torch itself no longer lets a script write, and this test shows nothing"


def test_a_script_that_reads_a_file_is_refused_before_it_runs(tmp_path):
    (tmp_path / "secret").write_bytes(b"\x01\x02\x03")
    path = scripted(Reading(str(tmp_path / "secret")), tmp_path / "net.pt")
    assert "has the word 'from_file'" in refusal(path)
    leaked = loaded_by_torch(path)(torch.zeros(1, 3, 2, 2))
    assert leaked.tolist() == [[1, 2, 3]], "torch itself no longer lets a script read, and this test shows nothing"


def test_a_script_that_writes_while_it_is_loaded_is_refused_before_it_is(tmp_path):
    target = tmp_path / "written"
    code = (
        HEAD
        + "  def __getstate__(self: __torch__.Honest) -> bool:\n    return True\n"
        + "  def __setstate__(self: __torch__.Honest, state: bool) -> NoneType:\n"
        + f'    torch.save([1], "{target}")\n    return None\n'
        + FORWARD.format("pass")
    )
    refusal(with_code(tmp_path / "net.pt", code))
    assert not target.exists()


# What torch takes for the same call, or a call just as bad.
DISGUISES = {
    "operator": 'ops.aten.save(x, "{}")',
    "another name for torch": 't = torch\n    t.save(x, "{}")',
    "another name for ops": 't = ops\n    t.aten.save(x, "{}")',
    "a space": 'torch. save(x, "{}")',
    "a comment": '(torch. # nothing here\n     save(x, "{}"))',
    "a namespace by another name": "t = ops\n    t.inductor._reinterpret_tensor(x, [1], [1], 0)",
    "a namespace behind a space": "(ops. inductor._reinterpret_tensor(x, [1], [1], 0))",
    "memory by address": "ops.inductor._reinterpret_tensor(x, [1], [1], 0)",
}


@pytest.mark.parametrize("name", DISGUISES)
def test_a_call_in_disguise_is_refused_and_torch_would_have_made_it(tmp_path, name):
    target = tmp_path / "written"
    path = with_code(tmp_path / "net.pt", HEAD + FORWARD.format(DISGUISES[name].format(target)))
    refusal(path)
    assert not target.exists()
    loaded_by_torch(path)(IMAGES)
    assert target.exists() == ("{}" in DISGUISES[name])


@pytest.mark.parametrize(
    "line",
    [
        'getattr(torch, "sa" "ve")(x, "file")',
        'getattr(torch, "sa\\145ve")(x, "file")',
        "getattr(torch, 'relu')(x)",
        'ops.prim.rpc_sync("worker", x)',
        "ops.prim.IgnoredPythonOp(x)",
        "ops.c10d.barrier(x)",
        "ops.unheard_of.detonate(x)",
        "a = __torch__.torch.classes.dist_rpc.WorkerInfo",
    ],
)
def test_code_that_torch_never_writes_is_refused(tmp_path, line):
    refusal(with_code(tmp_path / "net.pt", HEAD + FORWARD.format(line)))


# Each of these ends a process that gives it to torch.jit.load, or may.
NESTED = {
    "brackets": "y = " + "(" * 100_000 + "x" + ")" * 100_000,
    "brackets over lines": "y = " + "(\n" * 100_000 + "x" + ")" * 100_000,
    "signs": "y = " + "-" * 100_000 + "1",
    "negations": "y = " + "not " * 100_000 + "True",
    "sums": "y = " + "1 + " * 100_000 + "1",
    "sums over lines": "y = (" + "1 +\n" * 100_000 + "1)",
    "sums behind backslashes": "y = " + "1 + \\\n" * 100_000 + "1",
    "attributes": "y = x" + ".data" * 100_000,
    "blocks": "\n".join(" " * (4 + depth) + "if True:" for depth in range(2000)),
    "choices": "if True:\n      pass\n" + "    elif True:\n      pass\n" * 5000,
}


@pytest.mark.parametrize("name", NESTED)
def test_code_that_is_nested_without_end_never_reaches_the_parser_of_torch(tmp_path, name):
    path = with_code(tmp_path / "net.pt", HEAD + FORWARD.format(NESTED[name]))
    assert "is nested deeper than 1000 levels" in refusal(path)


DEEP = 100_000
NESTED_PICKLES = {
    "lists": b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    "tuples": b"\x80\x02K\x01" + b"\x85" * DEEP + b".",
    "by name, from the inside": b"\x80\x02]q\x00" + b"]h\x00aq\x00" * DEEP + b".",
    "by name, from the outside": b"\x80\x02]q\x00" + b"h\x00]q\x00a" * DEEP + b".",
    "inside of itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", NESTED_PICKLES)
@pytest.mark.parametrize("entry", ["data.pkl", "constants.pkl"])
def test_values_that_are_nested_without_end_never_reach_torch(tmp_path, name, entry):
    path = rewritten(scripted(Honest(), tmp_path / "net.pt"), entry, lambda _: NESTED_PICKLES[name])
    assert "is nested deeper than 1000 levels" in refusal(path)


def test_what_is_no_pickle_never_reaches_torch(tmp_path):
    path = rewritten(scripted(Honest(), tmp_path / "net.pt"), "data.pkl", lambda _: b"hello")
    assert "data.pkl in it is no pickle" in refusal(path, ExecutionError)


def test_long_lists_of_numbers_are_not_nested():
    numbers = b"    y = [" + b"-0.125, " * 20_000 + b"1.]\n"
    assert not is_too_deep(numbers * 3 + b"    z = torch.add(torch.relu(x), 1, alpha=2)\n" * 5000)


def test_a_class_in_the_pickle_that_torch_would_make_is_refused(tmp_path):
    """The name of a class is two lines in a pickle, and may be broken anywhere."""
    scripted(Honest(), tmp_path / "net.pt")
    data = b"\x80\x02c__torch__.torch\nclasses.dist_rpc.WorkerInfo\n)\x81."
    path = rewritten(tmp_path / "net.pt", "data.pkl", lambda _: data)
    assert "torch.classes.dist_rpc" in refusal(path)


@pytest.mark.parametrize("kind", ["script", "trace", "quantised", "nested"])
def test_honest_scripts_still_load(tmp_path, kind):
    network = Small().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "quantised":
            network = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
        if kind == "nested":
            network = nn.Sequential(network, nn.Sequential(nn.BatchNorm1d(5), nn.Sequential(nn.ReLU()))).eval()
        wanted = network(IMAGES)
        script = torch.jit.trace(network, IMAGES) if kind == "trace" else torch.jit.script(network)
        script.save(str(tmp_path / "net.pt"))
        loaded = load_model(tmp_path / "net.pt", device=CPU)
    torch.testing.assert_close(loaded.run(IMAGES), wanted)


def test_trust_lets_an_odd_script_load(tmp_path):
    path = scripted(Saving(str(tmp_path / "written")), tmp_path / "net.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_model(path, device=CPU, trust_pickle=True).format == "torchscript"


def archive_with(path, *entries):
    scripted(Honest(), path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("net/data.pkl", "two entries of the name net/data.pkl"),
        ("net/../../escape", "never writes an entry of the name"),
        ("/etc/escape", "never writes an entry of the name"),
        ("net/a\\b", "never writes an entry of the name"),
        ("net/C:escape", "never writes an entry of the name"),
        ("net/\x1b[2J", "never writes an entry of the name"),
        ("other/data.pkl", "not in one folder"),
        ("version", "not in one folder"),
    ],
)
def test_an_archive_with_a_trick_in_a_name_is_refused(tmp_path, name, wanted):
    assert wanted in refusal(archive_with(tmp_path / "net.pt", (name, b"x")))


def test_an_archive_that_unpacks_to_fill_the_memory_is_refused(tmp_path):
    content = bytes(2**26)
    path = archive_with(tmp_path / "net.pt", *((f"net/code/{n}.py", content) for n in range(5)))
    assert path.stat().st_size < 2**20
    assert "its compressed entries unpack to 320.0 MiB; auditkit takes 256.0 MiB" in refusal(path)


def test_an_archive_with_entries_over_each_other_is_refused(tmp_path):
    path = scripted(Honest(), tmp_path / "net.pt")
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    size = int.from_bytes(content[start + 24 : start + 28], "little")
    lie = (size + 2**20).to_bytes(4, "little")
    path.write_bytes(content[: start + 20] + lie + lie + content[start + 28 :])
    refusal(path, AuditError)


def test_an_archive_of_countless_entries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("auditkit.models.inspection.archive.MOST_ENTRIES", 5)
    assert "entries; auditkit takes 5" in refusal(scripted(Honest(), tmp_path / "net.pt"))


def test_an_archive_behind_another_file_is_no_script(tmp_path):
    """Torch would look at the beginning, and zip readers at the end."""
    path = scripted(Honest(), tmp_path / "net.pt")
    path.write_bytes(b"\x00\x00\x00\x00PTMF" + path.read_bytes())
    assert "is a pickle" in refusal(path)


def test_a_script_that_is_cut_short_is_refused_at_every_length(tmp_path):
    content = scripted(Honest(), tmp_path / "net.pt").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "net.pt").write_bytes(content[:length])
        refusal(tmp_path / "net.pt", AuditError)


def test_a_script_of_an_old_torch_is_named_as_such(tmp_path):
    path = scripted(Honest(), tmp_path / "net.pt")
    write_archive(path, {name: part for name, part in entries_of(path).items() if not name.endswith("constants.pkl")})
    assert "no constants.pkl in it" in refusal(path)


def test_a_damaged_entry_is_refused_with_one_line(tmp_path):
    path = scripted(Honest(), tmp_path / "net.pt")
    content = path.read_bytes()
    place = content.index(b"\x80\x02")
    path.write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
    refusal(path, ExecutionError)
