from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from auditkit.cli import main
from auditkit.demo import IMAGES, WEIGHTS

PROGRAM = Path(sys.executable).parent / "auditkit"
DEMO_MODEL = ("auditkit.demo.network:SignNet", "--weights", str(WEIGHTS))
DEMO = ("run", *DEMO_MODEL, "--data", str(IMAGES), "--quiet", "--limit", "40")
NETWORKS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(4, 4)

    def forward(self, images):
        return self.classifier(self.convolution(images).mean((2, 3)))

class Grey(nn.Module):
    def forward(self, images):
        if images.shape[1] != 1:
            raise ValueError("one channel, please")
        return torch.cat([images.mean((2, 3)), 1 - images.mean((2, 3))], 1)

class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3 * 16 * 16, 4)

    def forward(self, images):
        return self.classifier(images.flatten(1))

class Nan(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) / 0 * 0

class Maps(nn.Module):
    def forward(self, images):
        return images

def raises():
    raise RuntimeError("no licence\\nfor this machine")

def number():
    return 3

def needs_two(first, second):
    return Tiny()

def images():
    return torch.zeros(4, 3, 8, 8), [0, 1, 2, 7]
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Opened(nn.Module):
    """A network that is pickled whole."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))[:, :1]], 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Good and bad files of every kind."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "net.py").write_text(NETWORKS)
    (folder / "fails.py").write_text("import no_such_library\n")
    (folder / "folder.onnx").mkdir()
    (folder / "text.onnx").write_text("this is a letter, not a network\n")
    (folder / "empty.onnx").touch()
    (folder / "corrupt.pt").write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)
    (folder / "corrupt.pt2").write_bytes(bytes(range(256)) * 8)
    (folder / "corrupt.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "model.xyz").write_text("?")
    _write_networks(folder)
    _write_images(folder)
    return folder


def _write_networks(folder: Path) -> None:
    from onnx import TensorProto, helper, save

    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["N", 3, 8, 8]), ("scores", ["N", 3]))
    ]
    node = helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "mean", shapes[:1], shapes[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "good.onnx")
    (folder / "truncated.onnx").write_bytes((folder / "good.onnx").read_bytes()[:-20])
    tiny = {
        "convolution.weight": torch.zeros(4, 3, 3, 3),
        "convolution.bias": torch.zeros(4),
        "classifier.weight": torch.eye(4),
        "classifier.bias": torch.arange(4.0),
    }
    torch.save(tiny, folder / "state.pt")
    torch.save({**tiny, "classifier.weight": torch.zeros(5, 4)}, folder / "shape.pt")
    torch.save({"classifier.weight": torch.eye(4)}, folder / "missing.pt")
    torch.save([1, 2, 3], folder / "list.pt")
    with contextlib.ExitStack() as stack:
        module = sys.modules[Opened.__module__] = sys.modules.get(Opened.__module__, sys.modules[__name__])
        stack.callback(lambda: module)
        torch.save(Opened(), folder / "pickled.pt")


def _write_images(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(8) % 3
    np.savez(folder / "good.npz", x=images, y=labels)
    np.savez(folder / "shifted.npz", x=images, y=labels + 2)
    np.savez(folder / "nothing.npz", a=images)
    np.savez(folder / "large.npz", x=np.zeros((2, 9, 9, 3), dtype=np.uint8))
    (folder / "damaged.npz").write_bytes((folder / "good.npz").read_bytes()[:-400])
    (folder / "empty").mkdir()
    for name in ("a", "b", "c"):
        (folder / "images" / name).mkdir(parents=True)
        Image.fromarray(images[0]).save(folder / "images" / name / "0.png")
        (folder / "corrupt" / name).mkdir(parents=True)
        Image.fromarray(images[0]).save(folder / "corrupt" / name / "0.png")
    (folder / "corrupt" / "b" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing")
    (folder / "flat").mkdir()
    Image.fromarray(images[0]).save(folder / "flat" / "0.png")


@pytest.fixture
def call(files, monkeypatch, capsys, tmp_path):
    """Run the program in this process; `@` in a word stands for the folder of files."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["auditkit", *(word.replace("@", f"{files}/") for word in words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Ran(int(str(stop.value.code)), out, err)

    return run


def assert_refused(ran: Ran, code: int, message: str, folder: Path) -> None:
    assert "Traceback" not in ran.out + ran.err
    assert ran.err.startswith("auditkit: "), ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert "internal error" not in ran.err
    assert re.search(message, ran.err), ran.err
    assert ran.code == code
    assert ran.out == ""
    left = [path.name for path in folder.rglob("*") if path.is_file() and path.name not in ("auditkit.toml", ".lock")]
    assert left == []


COMMANDS = {
    "unknown command": ("auditt", 2, "No such command 'auditt'"),
    "unknown option": ("run m --data d --limt 3", 2, r"No such option '--limt'.*--limit"),
    "unknown command of checks": ("checks shwo", 2, "No such command 'shwo'"),
    "model missing": ("run", 2, "MODEL is missing"),
    "data missing": ("run m", 2, "--data is missing"),
    "option without value": ("run m --data", 2, "'--data' requires an argument"),
    "report without out": ("report .", 2, "Missing option '--out'"),
    "report in an unknown format": ("report . --out x --format pdf", 2, "'pdf' is not one of 'html'"),
    "show of an unknown check": ("checks show noise.pdg", 2, r"no check 'noise.pdg'; did you mean noise.pgd\?"),
}

MODELS = {
    "absent file": ("@absent.onnx", 2, "no such model: .*absent.onnx"),
    "directory": ("@folder.onnx", 2, "folder.onnx is not a model"),
    "unknown suffix": ("@model.xyz", 2, "model.xyz is not a model: wanted"),
    "text named .onnx": ("@text.onnx", 3, "text.onnx: not a readable ONNX file"),
    "empty .onnx": ("@empty.onnx", 3, "empty.onnx: "),
    "truncated .onnx": ("@truncated.onnx", 3, "truncated.onnx: not a readable ONNX file"),
    "corrupt .pt": ("@corrupt.pt", 3, "corrupt.pt is damaged"),
    "corrupt .pt, trusted": ("@corrupt.pt --trust-pickle", 3, "corrupt.pt is damaged"),
    "corrupt .pt2": ("@corrupt.pt2", 3, "corrupt.pt2: not a readable torch.export file"),
    "safetensors as a model": ("@corrupt.safetensors", 2, "holds weights, not a network: .*--weights"),
    "state dict as a model": ("@state.pt", 2, "state.pt holds weights, not a network: .*--weights"),
    "state dict as a model, trusted": ("@state.pt --trust-pickle", 2, "state.pt holds weights, not a network"),
    "pickle without trust": ("@pickled.pt", 2, "pickled.pt is a pickle.*--trust-pickle"),
    "weights with a file": ("@good.onnx --weights @state.pt", 2, "--weights goes with a factory"),
    "factory's module absent": ("no_such_module:net", 2, "there is no module 'no_such_module'"),
    "factory's file absent": ("@nett.py:Tiny", 2, r"nett.py cannot be read: .*did you mean net.py\?"),
    "factory's name absent": ("@net.py:Tinny", 2, r"has no 'Tinny'; did you mean Tiny\?"),
    "factory's name empty": ("@net.py:", 2, "names no Python object"),
    "factory that raises": ("@net.py:raises", 3, "net.py:raises failed: RuntimeError: no licence"),
    "factory of something else": ("@net.py:number", 2, "returned a int; wanted a torch.nn.Module"),
    "factory with arguments": ("@net.py:needs_two", 2, "needs 2 argument"),
    "factory without a signature": ("builtins:dict", 2, "builtins:dict"),
    "file that cannot be imported": ("@fails.py:net", 3, "importing .*fails.py failed: .*no_such_library"),
    "weights absent": ("@net.py:Tiny --weights @absent.pt", 2, "no such file: .*absent.pt"),
    "weights of another shape": ("@net.py:Tiny --weights @shape.pt", 2, "does not fit the network: size mismatch"),
    "weights too few": ("@net.py:Tiny --weights @missing.pt", 2, "3 weights missing"),
    "weights that are none": ("@net.py:Tiny --weights @list.pt", 2, "list.pt is not a state dict"),
    "weights corrupt": ("@net.py:Tiny --weights @corrupt.safetensors", 2, "neither safetensors nor a plain state"),
    "network for grey images": ("@net.py:Grey", 3, "one channel, please.*--colour grey"),
    "network of another size": ("@net.py:Sized", 3, "does not run on images of 3x8x8.*--resize"),
    "network with NaN scores": ("@net.py:Nan", 3, "NaN"),
    "network that is no classifier": ("@net.py:Maps", 3, r"returns \(images, classes\) scores; got"),
    "name too long": ("x" * 300 + ".onnx", 3, "File name too long"),
}

DATA = {
    "absent": ("@absent", 2, "there is no such file or folder"),
    "near miss": ("@god.npz", 2, r"did you mean good.npz\?"),
    "unknown kind": ("@net.py", 2, "not known as a data set"),
    "empty folder": ("@empty", 3, "there are no images in it"),
    "corrupt image": ("@corrupt", 3, "b/0.png.*cannot be decoded|b/0.png.*no image"),
    "images without labels": ("@flat", 2, "these images have no labels; add a labels.csv"),
    "table absent": ("@flat --labels @absent.csv", 2, "absent.csv: there is no such file"),
    "npz without keys": ("@nothing.npz", 3, "wanted an array called x or images, its arrays are: a"),
    "npz damaged": ("@damaged.npz", 3, "damaged.npz: cannot be read as an npz archive"),
    "labels of another network": ("@shifted.npz", 3, "label 4.*4 outputs.*--label-offset"),
    "labels below zero": ("@good.npz --label-offset -3", 3, "negative|--label-offset"),
    "labels of a factory": ("@net.py:images", 3, "label 7.*4 outputs"),
    "factory's name absent": ("@net.py:imges", 2, r"did you mean images\?"),
    "size that is none": ("@good.npz --resize big", 2, "a size is a number such as 227"),
    "limit of nothing": ("@good.npz --limit 0", 2, "limit = 0: .*greater than or equal to 1"),
    "no second data set": ("@good.npz --ood @absent", 2, "absent: there is no such file or folder"),
    "near miss of a second data set": ("@good.npz --ood @god.npz", 2, r"did you mean good.npz\?"),
    "second data set without images": ("@good.npz --ood @nothing.npz", 3, "wanted one array called x or images"),
    "second data set without files": ("@good.npz --ood @empty", 3, "empty: there are no images in it"),
    "second data set damaged": ("@good.npz --ood @damaged.npz", 3, "damaged.npz: cannot be read as an npz archive"),
    "second data set of another size": (
        "@good.npz --ood @large.npz",
        3,
        r"--ood .*large.npz: its images are 3x9x9 \(channels x height x width\), the samples 3x8x8; --resize HxW",
    ),
}

OPTIONS = {
    "unknown check": ("--checks noise.pdg", 2, r"no check 'noise.pdg'; did you mean noise.pgd\?"),
    "pattern without a match": ("--checks sound.*", 2, r"no check matches 'sound.\*'"),
    "unknown option of a check": ("--checks noise.pgd --set noise.pgd.step=3", 2, r"did you mean steps\?"),
    "unknown check in --set": ("--checks noise.pgd --set noise.pdg.steps=3", 2, r"did you mean noise.pgd\?"),
    "value of another type": ("--checks noise.pgd --set noise.pgd.steps=many", 2, "noise.pgd.steps = 'many': "),
    "value out of range": ("--checks noise.pgd --set noise.pgd.steps=0", 2, "noise.pgd.steps = '0': "),
    "budget that is none": ("--checks noise.pgd --set noise.pgd.eps=8/0", 2, "noise.pgd.eps = '8/0': "),
    "--set without a value": ("--set noise.pgd.steps", 2, "--set takes CHECK.OPTION=VALUE"),
    "--set without an option": ("--set pgd=3", 2, "--set takes CHECK.OPTION=VALUE"),
    "gate without a bound": ("--gate noise.pgd/robust_accuracy", 2, 'a gate reads "check/metric >= number"'),
    "gate with a word": ("--gate noise.pgd/robust_accuracy>=high", 2, "threshold of a gate is a number"),
    "baseline that is none": ("--checks noise.pgd --baseline nowhere", 2, "no stored audit: nowhere is missing"),
    "stopping without a gate": ("--checks noise.pgd --until-decided", 2, "until_decided needs a gate"),
    "gate on no check": ("--checks noise.pgd --gate noise.fgsm/robust_accuracy>=0", 2, "names a check that will not"),
    "gate on no metric": (
        "--checks noise.pgd --gate noise.pgd/robust_acuracy>=0",
        2,
        r"did you mean robust_accuracy\?",
    ),
    "unknown preset": ("--preset ful", 2, "preset = 'ful': .*'smoke', 'standard' or 'full'"),
    "unknown device": ("--device gpu", 2, "--device is auto, cpu, cuda"),
    "device of torch's that is none": ("--device meta", 2, "--device is auto, cpu, cuda"),
    "workers below zero": ("--workers -1", 2, "workers = -1: "),
    "batch of nothing": ("--batch 0", 2, "batch = 0: "),
    "batch of a word": ("--batch all", 2, "'all' is not a valid integer"),
    "no time": ("--time-limit 0", 2, "time_limit = 0.0: "),
    "mean of another network": ("--mean 1,2", 2, r"need one number, or one a channel \(3\); got 2"),
    "mean of words": ("--mean grey", 2, "--mean is one number"),
    "deviation of zero": ("--std 0", 2, "--std is positive"),
    "range of nothing": ("--input-range 1,1", 2, "--input-range is a largest value"),
    "layout": ("--layout chw", 2, "'chw' is not one of"),
    "configuration absent": ("--config absent.toml", 2, "cannot read absent.toml"),
    "a file in the way of --out": ("--out @net.py", 3, "cannot write to .*net.py"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_wrong_commands(call, tmp_path, case):
    words, code, message = COMMANDS[case]
    assert_refused(call(*words.split()), code, message, tmp_path)


@pytest.mark.parametrize("case", MODELS)
def test_wrong_models(call, tmp_path, case):
    words, code, message = MODELS[case]
    assert_refused(call("run", *words.split(), "--data", "@good.npz", "--quiet"), code, message, tmp_path)


@pytest.mark.parametrize("case", DATA)
def test_wrong_data(call, tmp_path, case):
    words, code, message = DATA[case]
    assert_refused(call("run", "@net.py:Tiny", "--quiet", "--data", *words.split()), code, message, tmp_path)


@pytest.mark.parametrize("case", OPTIONS)
def test_wrong_options(call, tmp_path, case):
    words, code, message = OPTIONS[case]
    ran = call("run", "@net.py:Tiny", "--data", "@good.npz", "--quiet", *words.split())
    assert_refused(ran, code, message, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(call, tmp_path):
    ran = call("run", "@net.py:Tiny", "--data", "@good.npz", "--device", "cuda")
    assert_refused(ran, 2, "this installation of torch sees no CUDA device", tmp_path)


TOML = {
    "unknown key": ('modle = "x"', r"there is no setting 'modle'; did you mean model\?"),
    "not TOML": ("model = = 3", "auditkit.toml is not TOML"),
    "not text": ("\udcff", "cannot read auditkit.toml"),
    "value of another type": ("seed = [1]", r"seed = \[1\]"),
    "checks as a number": ("checks = 3", "checks = 3"),
    "options as a text": ('options = "noise.pgd"', "options = 'noise.pgd'"),
    "options of a check as a number": ("[options]\n'noise.pgd' = 3", "wanted a table a check"),
    "model as a number": ("model = 3", "model = 3"),
    "data as a number": ("data = 3", "data = 3"),
    "out as a number": ("out = 3", "out = 3"),
    "second data set as a number": ("ood = 3", "ood = 3: wanted a text"),
}


@pytest.mark.parametrize("case", TOML)
def test_wrong_configuration(call, tmp_path, case):
    content, message = TOML[case]
    (tmp_path / "auditkit.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    words = {"model as a number": ["--data", "@good.npz"], "data as a number": ["@net.py:Tiny"]}.get(
        case, ["@net.py:Tiny", "--data", "@good.npz"]
    )
    assert_refused(call("run", *words), 2, message, tmp_path)


def test_configuration_is_used_and_its_paths_are_relative_to_it(call, files, tmp_path):
    config = files / "configured.toml"
    config.write_text(
        textwrap.dedent("""
            model = "net.py:Tiny"
            data = "good.npz"
            checks = ["noise.uniform"]
            weights = "state.pt"
            ood = "flat"
            resize = 8
            [options."noise.uniform"]
            eps = ["2/255"]
            draws = 2
        """)
    )
    ran = call(
        "run", "--config", str(config), "--out", str(tmp_path / "out"), "--json", "--set", "noise.uniform.draws=3"
    )
    assert ran.code == 0, ran.err
    (check,) = json.loads(ran.out)["checks"]
    assert check["options"] == {"eps": ["2/255"], "draws": 3}
    assert json.loads(ran.out)["samples"]["outside"] == f"{files / 'flat'}: 1 image, at which no check looked"


def test_pickled_network_that_is_trusted_is_audited(call):
    ran = call(
        *("run", "@pickled.pt", "--trust-pickle", "--data", "@good.npz"),
        *("--quiet", "--json", "--checks", "noise.uniform"),
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["model"]["format"] == "pickle"


def test_unreadable_images_are_counted_on_request(call):
    ran = call(
        *("run", "@net.py:Tiny", "--data", "@corrupt", "--skip-bad"),
        *("--json", "--quiet", "--checks", "noise.uniform"),
    )
    assert ran.code == 0, ran.err
    assert list(json.loads(ran.out)["samples"]["skipped"]) == ["b/0.png"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folder of a finished audit of the demo's network."""
    out = tmp_path_factory.mktemp("stored")
    _shell(*DEMO, "--checks", "noise.uniform", "--preset", "smoke", "--out", str(out))
    return out


def _shell(*words: str) -> Ran:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=120, env=environment)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (["noise.uniform/clean_accuracy >= 0.5"], 0),
        (["noise.uniform/clean_accuracy >= 50%", "noise.uniform/robust_accuracy <= 0.01"], 1),
        (["noise.uniform/clean_accuracy >= 0.98"], 4),
        (["noise.uniform/clean_accuracy >= 0.98", "noise.uniform/robust_accuracy <= 0.01"], 1),
        (["noise.uniform/robust_accuracy@99/255 >= 0.5"], 3),
        (["noise.pgd/robust_accuracy >= 0.5"], 3),
    ],
)
def test_exit_code_says_what_the_gates_found(call, stored, gates, code):
    ran = call("gate", str(stored), *(word for gate in gates for word in ("--gate", gate)))
    assert ran.code == code
    assert ran.err == ""


def test_run_exits_as_its_gates_say_and_prints_json_alone(call, tmp_path):
    ran = call(
        *DEMO,
        *("--checks", "noise.uniform", "--preset", "smoke", "--json", "--out", "out"),
        *("--gate", "noise.uniform/robust_accuracy <= 0.1"),
    )
    assert ran.code == 1
    assert ran.err == ""
    result = json.loads(ran.out, parse_constant=pytest.fail)
    assert result["verdict"] == "fail"
    assert (tmp_path / "out" / "result.json").read_text() == ran.out
    assert {"report.html", "junit.xml", "summary.md", "samples.npz"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_run_stops_when_all_is_decided_and_a_warning_does_not_fail_it(call, tmp_path):
    ran = call(
        *DEMO,
        *("--checks", "noise.uniform", "--preset", "smoke", "--out", "out", "--until-decided", "--json"),
        *("--gate", "noise.uniform/clean_accuracy >= 0.5", "--warn", "noise.uniform/clean_accuracy <= 0.5"),
    )
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["verdict"] == "warn"
    assert [gate["verdict"] for gate in result["gates"]] == ["pass", "warn"]
    assert result["samples"]["n"] < result["samples"]["of"]


def test_nothing_evaluated_is_no_success(call, files):
    (files / "blind.py").write_text(
        "import torch\n"
        "class Blind(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images.detach().mean((2, 3))\n"
    )
    ran = call("run", "@blind.py:Blind", "--data", "@good.npz", "--checks", "noise.pgd", "--quiet", "--json")
    assert ran.code == 5
    (check,) = json.loads(ran.out)["checks"]
    assert check["status"] == "skipped"
    assert "gradient" in check["reason"]


@pytest.mark.parametrize("command", ["gate", "report"])
@pytest.mark.parametrize("damage", ["absent", "no result", "empty", "not JSON", "another schema", "archive damaged"])
def test_stored_result_that_is_missing_or_damaged(call, stored, tmp_path, command, damage):
    place = tmp_path / "place"
    result = (stored / "result.json").read_text()
    if damage != "absent":
        place.mkdir()
    match damage:
        case "empty":
            (place / "result.json").touch()
        case "not JSON":
            (place / "result.json").write_text(result[:-20])
        case "another schema":
            (place / "result.json").write_text(
                result.replace('"schema":1', '"schema":99').replace('"schema": 1', '"schema": 99')
            )
        case "archive damaged":
            (place / "result.json").write_text(result)
            (place / "exhibits.npz").write_bytes((stored / "exhibits.npz").read_bytes()[:-30])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ran = call(command, str(place), *(["--out", "again.html"] if command == "report" else []))
    assert ran.code == 2, ran.err
    assert ran.err.startswith("auditkit: ")
    assert ran.err.count("\n") == 1
    assert "internal error" not in ran.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("form", "start"), [("html", "<!doctype html>"), ("junit", "<?xml"), ("markdown", "#"), ("json", "{")]
)
def test_report_renders_a_stored_result(call, stored, tmp_path, form, start):
    ran = call("report", str(stored), "--out", "again.html", "--format", form)
    assert ran.code == 0, ran.err
    assert (tmp_path / "again.html").read_text().lower().startswith(start)


def test_report_where_it_cannot_be_written(call, stored, files):
    ran = call("report", str(stored), "--out", "@net.py/report.html")
    assert ran.code == 3
    assert ran.err.startswith("auditkit: ")
    assert "net.py" in ran.err
    assert ran.err.count("\n") == 1


def test_init_writes_a_configuration_that_is_read_and_never_overwrites(call, tmp_path):
    assert call("init").code == 0
    written = (tmp_path / "auditkit.toml").read_bytes()
    ran = call("init")
    assert ran.code == 2
    assert ran.err.startswith("auditkit: auditkit.toml is there already")
    assert (tmp_path / "auditkit.toml").read_bytes() == written


def test_second_audit_in_the_same_folder_is_refused(call, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = call("run", "@net.py:Tiny", "--data", "@good.npz", "--out", "out")
    assert_refused(ran, 3, "another audit is at work in out", tmp_path)


@pytest.mark.parametrize("words", [(), ("checks",)])
def test_command_without_words_shows_its_help(call, words):
    ran = call(*words)
    assert ran.code == 2
    assert ran.err.startswith("Usage: auditkit")


def test_unforeseen_error_is_one_line(call, monkeypatch, tmp_path):
    def fail(*_):
        raise LookupError("what nobody\nthought of")

    monkeypatch.setattr("auditkit.registry.entries", fail)
    ran = call("checks", "list")
    assert ran.code == 3
    assert ran.err == "auditkit: internal error, LookupError: what nobody (AUDITKIT_DEBUG=1 shows where)\n"


@pytest.mark.parametrize("words", [["--help"], ["checks", "list"], ["--version"], ["run", "--help"]])
def test_light_commands_import_nothing_heavy(words):
    code = textwrap.dedent(f"""
        import sys
        sys.argv = ["auditkit", *{words}]
        from auditkit.cli import main
        try:
            main()
        except SystemExit as stop:
            assert stop.code == 0
        heavy = {{"torch", "onnx", "onnxruntime", "matplotlib", "scipy", "pydantic", "numpy", "PIL"}}
        sys.exit(", ".join(heavy & set(sys.modules)))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode in (0, 1)
    assert done.stderr.strip() == ""


def _interrupted(words: list[str], out: Path) -> Ran:
    """Start an audit, and press Ctrl-C as soon as a first unit is stored."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # What a shell starts in the background is deaf to Ctrl-C, and so would be its children.
    listening = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = f"{listening}sys.argv[0] = 'auditkit'; from auditkit.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as audit:
        until = time.monotonic() + 60
        while audit.poll() is None and not list(out.glob("units/*.npz")) and time.monotonic() < until:
            time.sleep(0.02)
        audit.send_signal(signal.SIGINT)
        try:
            printed, complained = audit.communicate(timeout=60)
        finally:
            audit.kill()
    return Ran(audit.returncode, printed, complained)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_interrupted_audit_goes_on_where_it_stopped(call, tmp_path, workers):
    out = tmp_path / "out"
    checks = ["--checks", "noise.uniform", "--checks", "noise.gaussian", "--preset", "smoke"]
    words = [*DEMO, *checks, "--out", str(out), "--workers", workers]
    slow = ["--set", "noise.gaussian.draws=100000", "--set", "noise.gaussian.eps=0.1/255"]
    stopped = _interrupted([*words, *slow], out)
    assert stopped.code == 130
    assert (
        stopped.err.lstrip("\n") == "auditkit: interrupted; what is done is kept, the same command goes on from there\n"
    )
    assert stopped.out == ""
    assert not (out / "result.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("units/*.npz")}
    assert len(kept) == 1
    if workers == "0":
        ran = call(*words, "--json")
        assert ran.code == 0, ran.err
        assert [check["status"] for check in json.loads(ran.out)["checks"]] == ["done", "done"]
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
