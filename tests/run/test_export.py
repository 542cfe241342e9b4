"""Exported folders: the same bridge, a card that says what it is, nothing of the machine, and the Hub."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import csb
from csb.bridge import save
from csb.process import seeded
from csb.runs.export import export
from csb.runs.load import is_repo_id
from tests.conftest import make_untrained_bridge, one_line

ABOUT = {
    "problem": {"name": "pairs", "path": "/home/me/secret/pairs.npz", "n_train": 900},
    "config": {"L": 3, "out": "C:\\Users\\me\\runs", "objective": {"name": "bridge_matching"}, "data": ["/home/me/a"]},
    "versions": {"csb": csb.__version__, "torch": "2.14"},
}
FILES = ("model.safetensors", "README.md", "samples.png")
RESULT = {"crps": 0.25, "energy_score": 0.5, "seconds": 61.0}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    save(make_untrained_bridge(3, 2, "full"), folder / "bridge.safetensors", ABOUT)
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "pictures").mkdir()
    for name in ("01_backward_000400", "03_backward_000350", "03_backward_loss", "02_forward_9"):
        (folder / "pictures" / f"{name}.png").write_bytes(name.encode())
    return folder


def refused(action, *parts):
    message = one_line(action)
    assert all(part in message for part in parts), message


def test_draws_the_same_samples_from_here_and_again_from_the_export_itself(run, tmp_path):
    first = export(run, tmp_path / "first", licence="mit")
    assert sorted(path.name for path in first.iterdir()) == sorted(FILES)
    one, two = csb.load(run, "cpu"), csb.load(first, "cpu")
    y = torch.randn(4, 2, generator=seeded(1))
    assert torch.equal(one.sample(y, 5, generator=seeded(2)).x, two.sample(y, 5, generator=seeded(2)).x)
    assert two.about["training"] == RESULT
    assert (first / "samples.png").read_bytes() == b"03_backward_000350"
    second = export(first, tmp_path / "second", licence="mit")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_card_whose_example_runs_and_nothing_of_the_machine(run, tmp_path):
    out = export(run, tmp_path / "shared", licence="cc-by-4.0")
    card = (out / "README.md").read_text()
    text = card.encode() + (out / "model.safetensors").read_bytes()[:10_000]
    assert not [word for word in ("home", "secret", "Users", str(tmp_path)) if word.encode() in text]
    assert csb.load(out, "cpu").about["problem"]["path"] == "pairs.npz"
    front, *parts = card.split("\n\n")
    assert front.startswith("---\nlibrary_name: csb\n")
    assert front.endswith("license: cc-by-4.0\n---")
    assert "# Conditional Schrödinger bridge: pairs" in parts
    for part in ("| training pairs", "900", "0.2500", "`cc-by-4.0`", "![posterior samples](samples.png)", "(1000, 3)"):
        assert part in card
    assert "No licence is stated" in (export(run, tmp_path / "other") / "README.md").read_text()
    names: dict = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("this/folder", str(out)), names)
    assert names["x"].shape == (1000, 3)


def test_a_taken_folder_is_left_alone(run, tmp_path):
    out = export(run, tmp_path / "shared")
    refused(lambda: export(run, out), "overwrite=true")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    refused(lambda: export(run, tmp_path / "mine", overwrite=True), "other files")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    refused(lambda: export(run, run / "result.json"), "or is one")
    refused(lambda: export(run, run.parent, overwrite=True), "holds what is to be exported")
    for licence in ("", "a b", "mit\ntags: x", "x" * 50):
        refused(lambda licence=licence: export(run, tmp_path / "new", licence=licence), "licence")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("last", ["model.safetensors", "samples.png", "README.md"])
def test_an_export_that_is_cut_short_leaves_one_that_loads(run, tmp_path, monkeypatch, last):
    older = shutil.copytree(Path(__file__).parents[1] / "golden" / "files" / "exported", tmp_path / "older")
    before = {path.name: path.read_bytes() for path in older.iterdir()}
    replace = os.replace

    def cut_short(source, target):
        if Path(target).name == last:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut_short)
        with pytest.raises(KeyboardInterrupt):
            export(run, older, overwrite=True)
    is_old = last == "model.safetensors"
    assert ({path.name: path.read_bytes() for path in older.iterdir()} == before) == is_old
    assert (csb.load(older, "cpu").about["problem"]["name"] == "two_moons") == is_old
    export(run, older, overwrite=True)  # the older one had its description beside the tensors
    assert sorted(path.name for path in older.iterdir()) == sorted(FILES)


def test_an_older_one_is_replaced_and_other_files_stay(run, tmp_path):
    out = export(run, tmp_path / "shared")
    (out / "notes.txt").write_text("mine")
    shutil.rmtree(run / "pictures")
    export(run, out, overwrite=True, licence="mit")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.safetensors", "notes.txt"]
    assert "license: mit" in (out / "README.md").read_text()


@pytest.mark.parametrize("of", ["run", "export", "folder"])
def test_links_that_lead_out_are_left_out(run, tmp_path, of):
    (tmp_path / "private").mkdir()
    for name in ("secret", "05_backward_1.png"):
        (tmp_path / "private" / name).write_text('{"key": "secret"}')
    source = export(run, tmp_path / "first") if of == "export" else run
    shutil.rmtree(run / "pictures")
    if of == "folder":
        (run / "pictures").symlink_to(tmp_path / "private")
    for name in () if of == "folder" else ("samples.png", "evaluation.png", "result.json"):
        (source / name).unlink(missing_ok=True)
        (source / name).symlink_to(tmp_path / "private" / "secret")
    out = export(source, tmp_path / "shared")
    assert not (out / "samples.png").exists()
    assert all(b"secret" not in path.read_bytes().replace(b"secret/pairs", b"") for path in out.iterdir())


class FakeApi:
    """The Hub as a folder of this machine."""

    root: Path

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, private, exist_ok):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        for name in allow_patterns:
            if (Path(folder_path) / name).exists():
                shutil.copyfile(Path(folder_path) / name, self.root / repo_id / name)
        return f"https://hub.invalid/{repo_id}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(FakeApi, "root", tmp_path / "hub", raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)

    def download(repo_id, revision, token, allow_patterns):
        folder = FakeApi.root / repo_id
        if not folder.is_dir():
            raise OSError(f"404 Client Error:\n no repository {repo_id}")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return FakeApi.root


class TestHub:
    def test_there_and_back(self, run, tmp_path, hub, monkeypatch):
        out = export(run, tmp_path / "shared")
        (out / "notes.txt").write_text("private")
        assert csb.push_to_hub(out, "me/bridge").endswith("me/bridge")
        assert not (hub / "me" / "bridge" / "notes.txt").exists()
        monkeypatch.chdir(tmp_path)
        y = torch.randn(4, 2, generator=seeded(1))
        expected = csb.load(run, "cpu").sample(y, generator=seeded(2)).x
        for found in (csb.load("me/bridge", "cpu"), csb.from_pretrained("me/bridge", "cpu"), csb.from_pretrained(out)):
            assert torch.equal(found.sample(y, generator=seeded(2)).x, expected)

    def test_what_is_not_uploaded(self, run, tmp_path, hub):
        refused(lambda: csb.push_to_hub(run, "me/bridge"), "csb export")
        out = export(run, tmp_path / "shared")
        refused(lambda: csb.push_to_hub(out, "me"), "owner/name")
        (out / "samples.png").rename(tmp_path / "secret")
        (out / "samples.png").symlink_to(tmp_path / "secret")
        refused(lambda: csb.push_to_hub(out, "me/bridge"), "samples.png", "link out of the folder")
        (out / "samples.png").unlink()
        (out / "model.safetensors").write_bytes(b"x")
        refused(lambda: csb.push_to_hub(out, "me/bridge"), "damaged")
        assert not hub.exists()

    def test_what_is_not_found(self, hub, tmp_path, monkeypatch):
        (tmp_path / "outputs").mkdir()
        monkeypatch.chdir(tmp_path)
        refused(lambda: csb.load("me/nothing"), "cannot fetch me/nothing", "404")
        refused(lambda: csb.load("outputs/two_mons"), "not a folder")  # a typing error of a local name asks no Hub
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        refused(lambda: csb.load("me/bridge"), "pip install -e '.[hub]'")

    def test_names(self):
        names = ["me", "a/b/c", "../x", "a/..", "/x/y", "a/b\n", "a b/c", "", "-a/b", "a/b..c"]
        assert [name for name in names if is_repo_id(name)] == []
