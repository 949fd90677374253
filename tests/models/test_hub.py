"""Models from the hub, here a stand-in on the loopback interface: revisions, the cache, offline use and refusals.

huggingface_hub reads its environment when it is imported, so that the code under test runs in processes of its own.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_stub import HubStub
from original_checkpoints import FIXTURE
from safetensors.torch import load_file, save_file

from formcoach.errors import UserError
from formcoach.models.hub import HubName, at_revision
from formcoach.models.location import ASSETS, locate, resolve_checkpoint

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FETCHED = sorted(path.name for path in FIXTURE.iterdir())
SMALL = [name for name in FETCHED if not name.endswith(".safetensors")]
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "finetune_qved.sh"
PRELUDE = """
import json, sys
from pathlib import Path
from formcoach.errors import UserError
from formcoach.models import load_model, resolve_checkpoint
from formcoach.models.location import config_file, locate

def told(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except UserError as error:
        return {"error": str(error)}

def tell(value):
    json.dump(value, sys.stdout, default=str)

"""
RESOLVE = "tell(told(resolve_checkpoint, {!r}))"


@pytest.fixture(scope="module")
def revisions(tmp_path_factory):
    """Folders of two revisions of the recorded checkpoint; the later has other weights in its second shard."""
    folders = [tmp_path_factory.mktemp("hub") / name for name in ("a", "b")]
    for folder in folders:
        shutil.copytree(FIXTURE, folder)
        (folder / "modeling_internvl_chat.py").write_text("raise SystemExit('code from a checkpoint was run')")
        (folder / "pytorch_model.bin").write_bytes(b"pickled")
    tensors = load_file(folders[1] / SECOND)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, folders[1] / SECOND, {"format": "pt"})
    return folders


@pytest.fixture
def hub(revisions):
    with HubStub() as stub:
        stub.commits = [
            stub.publish("org/tiny", revisions[0], "main", "v1"),
            stub.publish("org/tiny", revisions[1], "next", "refs/pr/1"),
        ]
        yield stub


@pytest.fixture
def ask(hub, tmp_path):
    """Runs code with an empty cache at first, and returns what it tells; it may write nothing else."""

    def run(code, *, quiet=True, **environment):
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code],
            env=hub.environment(tmp_path, **environment),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        noise = [line for line in done.stderr.splitlines() if not line.startswith("downloading org/")]
        assert not (quiet and noise)
        return json.loads(done.stdout)

    return run


def error_of(told):
    assert set(told) == {"error"}
    assert "\n" not in told["error"]
    return told["error"]


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alias = "OpenGVLab/InternVideo2_5-Chat-8B"
    assert HubName.parse("org/name") == HubName("org/name")
    assert HubName.parse("org/name@refs/pr/1") == HubName("org/name", "refs/pr/1")
    assert str(HubName.parse(f"{alias}@v1")) == "OpenGVLab/InternVideo2_5_Chat_8B@v1"
    for path in ("tiny", "a/b/c", "../a/b", "/a/b@v1", "org/name@", "org/name@../x", "org/name@v 1", "folder@v1"):
        assert HubName.parse(path) is None
    (tmp_path / "org").mkdir()
    assert HubName.parse("org/name@v1") is None


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURE, tmp_path / "org" / "name@v1")
    assert locate("org/name@v1").base.samefile(tmp_path / "org" / "name@v1")
    assert locate("org/name@v1").exact == "org/name@v1"


def test_a_revision_belongs_to_a_hub_id():
    assert at_revision("org/name", "v1") == at_revision("org/name@v1", "v1") == at_revision("org/name@v1", None)
    for name in ("tiny", FIXTURE):
        with pytest.raises(UserError, match="not a hub id, and only models on the hub have revisions"):
            at_revision(name, "v1")
    with pytest.raises(UserError, match="model org/name@v1: revision v2 is asked for as well; name one"):
        at_revision("org/name@v1", "v2")


def test_nothing_but_json_text_and_safetensors_is_fetched_and_only_once(hub, ask):
    code = "tell([told(config_file, {0!r}), told(resolve_checkpoint, {0!r})])"
    config, folder = ask(code.format("org/tiny"))
    assert (config, folder[-40:]) == (f"{folder}/config.json", hub.commits[0])
    assert {path for _, path in hub.asked if path.endswith((".py", ".bin"))} == set()
    assert hub.files_asked() == FETCHED
    assert ask(code.format("org/tiny")) == [config, folder]
    assert hub.files_asked() == []
    pinned = f"org/tiny@{hub.commits[1]}"
    ask(code.format(pinned))
    assert hub.files_asked() == [SECOND]  # the rest is the same at both revisions
    ask(code.format(pinned))
    assert hub.asked == []  # a commit never changes


def test_the_configuration_comes_without_weights(hub, ask):
    ask("tell(told(config_file, 'org/tiny'))")
    assert hub.files_asked() == ["config.json"]


def test_revisions_online_offline_and_without_a_network(hub, ask):
    first, second = hub.commits
    names = ["org/tiny", "org/tiny@v1", f"org/tiny@{first}", "org/tiny@next", "org/tiny@refs/pr/1"]
    code = f"tell([[found.base.name, found.revision, found.exact] for found in map(locate, {names})])"
    expected = [[one, one, f"org/tiny@{one}"] for one in (first, first, first, second, second)]
    assert ask(code) == expected
    hub.asked.clear()
    assert ask(code, HF_HUB_OFFLINE="1") == expected
    assert hub.asked == []
    hub.stop()
    assert ask(code) == expected


def test_without_a_network_it_says_at_once_how_to_download(hub, ask):
    hub.stop()
    began = time.monotonic()
    revisions = ["v1", hub.commits[0]]
    names = ["org/tiny", *(f"org/tiny@{one}" for one in revisions)]
    error, *pinned = map(error_of, ask(f"tell([told(resolve_checkpoint, one) for one in {names}])"))
    assert time.monotonic() - began < 100  # huggingface_hub by itself would try again and again
    assert "the hub cannot be reached" in error
    assert "`hf download org/tiny --local-dir FOLDER`" in error
    for revision, line in zip(revisions, pinned, strict=True):
        assert f"`hf download org/tiny --revision {revision} --local-dir FOLDER`" in line
    assert "HF_HUB_OFFLINE is set" in error_of(ask(RESOLVE.format("org/tiny"), HF_HUB_OFFLINE="1"))


def test_part_of_a_model_is_not_taken_for_it(hub, ask, tmp_path):
    """Only the configuration is there; also in a cache of an older huggingface_hub, which has no list of the files."""
    ask("tell(told(config_file, 'org/tiny'))")
    for _ in range(2):
        code = "tell([told(resolve_checkpoint, 'org/tiny'), told(config_file, 'org/tiny')])"
        error, config = ask(code, HF_HUB_OFFLINE="1")
        assert "`hf download org/tiny --local-dir FOLDER`" in error_of(error)
        assert config.endswith("config.json")
        shutil.rmtree(tmp_path / "huggingface" / "hub" / "models--org--tiny" / "trees", ignore_errors=True)


@pytest.mark.parametrize("listed", [True, False])
def test_a_killed_download_is_completed_by_the_next(hub, ask, tmp_path, listed):
    hub.held = {SECOND}
    killed = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + RESOLVE.format("org/tiny")], env=hub.environment(tmp_path), cwd=tmp_path
    )
    cache = tmp_path / "huggingface" / "hub" / "models--org--tiny"
    expected = set(FETCHED) - {SECOND}
    wait_until(lambda: expected <= {path.name for path in cache.glob("snapshots/*/*")})
    killed.kill()
    killed.wait()
    if not listed:
        shutil.rmtree(cache / "trees")
    assert "hf download" in error_of(ask(RESOLVE.format("org/tiny"), HF_HUB_OFFLINE="1"))
    hub.held = set()
    hub.asked.clear()
    ask(RESOLVE.format("org/tiny"))
    assert hub.files_asked() == [SECOND]
    ask(RESOLVE.format("org/tiny"), HF_HUB_OFFLINE="1")


def test_a_download_that_breaks_off_is_one_line(hub, ask):
    hub.broken = {SECOND}
    error = error_of(ask(RESOLVE.format("org/tiny"), quiet=False))
    assert error == "model org/tiny: the download broke off; run this again, files that are complete are kept"
    hub.broken = set()
    hub.asked.clear()
    ask(RESOLVE.format("org/tiny"))
    assert hub.files_asked() == [SECOND]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_the_hub_refuses_is_one_line(hub, ask, revisions):
    hub.publish("org/gated", revisions[0], "main", gated=True)
    names = ["org/nothing", "org/tiny@v9", f"org/tiny@{'0' * 40}", "org/gated", "org/no--id"]
    unknown, *revision, gated, invalid = map(error_of, ask(f"tell([told(resolve_checkpoint, one) for one in {names}])"))
    assert "model org/nothing: there is no such folder here and no such model on the hub" in unknown
    for name, error in zip(names[1:3], revision, strict=True):
        assert f"model {name}: org/tiny has no revision {name[9:]} on the hub" in error
    assert "model org/gated: access is restricted; ask for it on the hub and run `hf auth login`" in gated
    assert "the hub has no ids like this" in invalid


def test_a_command_takes_a_revision_and_ends_with_that_line(hub, tmp_path):
    variables = {"VIRTUAL_ENV": sys.prefix, "OUTPUT_DIR": str(tmp_path), "MODEL_NAME": "org/tiny@v9"}
    done = subprocess.run(
        ["bash", SCRIPT],
        env=hub.environment(tmp_path, **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: model org/tiny@v9: org/tiny has no revision v9 on the hub; name a branch, a tag or a commit of it\n"
    )


def test_pickled_weights_are_not_fetched_but_named(hub, ask, tmp_path):
    (tmp_path / "pickled").mkdir()
    for name in (*SMALL, "pytorch_model.bin"):
        source = FIXTURE / name
        (tmp_path / "pickled" / name).write_bytes(source.read_bytes() if source.exists() else b"pickled")
    (tmp_path / "pickled" / "model.safetensors.index.json").unlink()
    hub.publish("org/pickled", tmp_path / "pickled", "main")
    for offline in ("0", "1"):
        error = error_of(ask(RESOLVE.format("org/pickled"), HF_HUB_OFFLINE=offline))
        assert error.startswith("model org/pickled: has pickled weights (*.bin) only")
    assert "pytorch_model.bin" not in hub.files_asked()


def test_an_adapter_stays_with_its_revision(hub, ask, tmp_path, revisions):
    """Trained on the default branch, which moves on afterwards."""
    first, second = hub.commits
    saved = ask(
        """
from formcoach.models import family_of
from formcoach.models.adapters import add_lora, save_adapter

def weights(*arguments, **options):
    model, _ = load_model(*arguments, device="cpu", **options)
    return sum(value.double().abs().sum().item() for value in model.parameters())

model, processor = load_model("org/tiny", device="cpu")
save_adapter(add_lora(model, family_of("org/tiny"), "org/tiny", rank=4, alpha=8), processor, Path("adapter"))
tell([weights("org/tiny"), weights("org/tiny@next"), weights("org/tiny", revision="next")])
""",
        quiet=False,
    )
    assert saved[0] != saved[1] == saved[2]
    adapter = tmp_path / "adapter"
    base = json.loads((adapter / "base_model.json").read_text())
    assert (base["name"], base["revision"]) == ("org/tiny", first)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", first)

    hub.publish("org/tiny", revisions[1], "main")
    hub.asked.clear()
    found, refused, moved = ask(
        """
def base_of(*arguments, **options):
    model = told(load_model, *arguments, device="cpu", **options)
    return model if isinstance(model, dict) else model[0].get_base_model().name_or_path

tell([
    [base_of("adapter"), base_of("org/tiny", adapter="adapter", revision="v1")],
    [base_of("org/tiny", adapter="adapter"), base_of("org/tiny@next", adapter="adapter")],
    locate("org/tiny").revision,
])
""",
        quiet=False,
    )
    assert moved == second
    assert {path[-40:] for path in found} == {first}
    for error in map(error_of, refused):
        assert f"was trained on org/tiny@{first}; it cannot be used with org/tiny@{second}" in error


def test_an_adapter_whose_revision_is_not_recorded_gets_the_default_one(hub, ask, tmp_path):
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": "org/tiny", "revision": None}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    assert ask("tell(locate('adapter').exact)") == f"org/tiny@{hub.commits[0]}"


def test_a_recorded_revision_does_not_hinder_a_base_in_a_folder(tmp_path):
    config = {"base_model_name_or_path": str(FIXTURE), "revision": "main"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert locate(tmp_path).base == FIXTURE
    assert locate(tmp_path).revision is None
    assert resolve_checkpoint("tiny") == ASSETS / "tiny"


def test_exporting_fetches_the_files_that_tools_for_the_original_need(hub, ask, tmp_path):
    export = "from formcoach.models import export_model\ntell(told(export_model, 'org/tiny', 'original', Path({!r})))"
    ask("tell(told(resolve_checkpoint, 'org/tiny'))")
    offline = error_of(ask(export.format("out"), HF_HUB_OFFLINE="1"))
    assert "hf download org/tiny" in offline and not (tmp_path / "out").exists()
    hub.asked.clear()
    ask(export.format("out"))
    assert hub.files_asked() == ["modeling_internvl_chat.py"]
    assert (tmp_path / "out" / "modeling_internvl_chat.py").read_text().startswith("raise SystemExit")
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    for name in (FIRST, SECOND, "config.json", "tokenizer.model"):
        assert (tmp_path / "out" / name).read_bytes() == (FIXTURE / name).read_bytes()
        assert not (tmp_path / "out" / name).is_symlink()
