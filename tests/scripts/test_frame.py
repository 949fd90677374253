"""The frame of the project: set-up, scripts and commands in general, dependencies."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((PROJECT / "scripts").glob("*.sh")), PROJECT / ".ci/run"]
COMMANDS = [*sorted((PROJECT / "utils").glob("*.py")), PROJECT / "unify_internvl2_train_r16.py"]
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
HEAVY = ("torch", "transformers", "deepspeed", "peft", "av", "cv2", "decord", "gradio")

# A build backend without dependencies, so that the copies of the project below install without a network.
BACKEND = """
import pathlib, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "formcoach-0-py3-none-any.whl"
    info = "formcoach-0.dist-info/"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("formcoach.pth", str(pathlib.Path.cwd()))
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: formcoach\\nVersion: 0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


def name(path: Path) -> str:
    return path.name


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project that has no requirements."""
    checkout = tmp_path / "a check out"
    checkout.mkdir()
    for folder in ("scripts", "utils"):
        shutil.copytree(PROJECT / folder, checkout / folder)
    shutil.copytree(
        PROJECT / "formcoach", checkout / "formcoach", ignore=shutil.ignore_patterns("assets", "__pycache__")
    )
    (checkout / "requirements.txt").write_text("# none\n")
    (checkout / "setup.py").write_text("# see pyproject.toml\n")
    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return checkout


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a shell in which nothing is activated."""
    active = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if key not in active} | changes


def start(checkout: Path, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(checkout / "scripts/setup_env.sh"), *arguments],
        env=environment(**changes),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def set_up(checkout: Path, *arguments: str, **changes: str) -> tuple[int, str, str]:
    """Run setup_env.sh from a foreign folder; return its exit code, output and log."""
    process = start(checkout, *arguments, **changes)
    output, log = process.communicate(timeout=600)
    return process.returncode, output, log


def test_setup_installs_once_and_is_quick_afterwards(checkout: Path) -> None:
    python = str(checkout / ".venv/bin/python")
    code, output, log = set_up(checkout, "--print-python")
    assert (code, output) == (0, f"{python}\n"), log
    where = [python, "-c", "import formcoach; print(formcoach.__file__)"]
    shown = subprocess.run(where, capture_output=True, text=True, cwd="/", env=environment(), check=True)
    assert shown.stdout == f"{checkout}/formcoach/__init__.py\n"

    assert set_up(checkout, "--print-python") == (0, f"{python}\n", "")

    (checkout / "requirements.txt").write_text("# changed\n")
    code, output, log = set_up(checkout)
    assert (code, output) == (0, "")
    assert "installing" in log
    assert "creating" not in log


@pytest.mark.slow
def test_setup_goes_on_after_it_was_killed(checkout: Path) -> None:
    process = start(checkout)
    while not (checkout / ".venv/bin").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    code, output, log = set_up(checkout, "--print-python")
    assert code == 0, log
    assert "creating" in log
    subprocess.run([output.strip(), "-c", "import pip, formcoach"], cwd="/", env=environment(), check=True)


@pytest.mark.slow
def test_two_setups_at_once_install_once(checkout: Path) -> None:
    both = [start(checkout, "--print-python") for _ in range(2)]
    results = [process.communicate(timeout=600) for process in both]
    assert [output for output, _ in results] == [f"{checkout}/.venv/bin/python\n"] * 2, results
    assert sum("installing" in log for _, log in results) == 1


def test_setup_uses_an_active_environment_only_if_it_has_this_checkout(checkout: Path) -> None:
    bare = checkout.parent / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(bare)], check=True)
    code, output, log = set_up(checkout, "--print-python", VIRTUAL_ENV=str(bare))
    assert (code, output) == (0, f"{checkout}/.venv/bin/python\n"), log
    assert "active environment lacks this checkout" in log

    complete = checkout.parent / "complete"
    (checkout / ".venv").rename(complete)
    packages = next(complete.glob("lib/python*/site-packages"))
    outside = next(path for path in map(Path, sys.path) if (path / "packaging").is_dir())
    shutil.copytree(outside / "packaging", packages / "packaging")
    code, output, log = set_up(checkout, "--print-python", CONDA_PREFIX=str(complete))
    assert (code, output, log) == (0, f"{complete}/bin/python\n", "")

    (next(packages.glob("formcoach*.dist-info")) / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: formcoach\nVersion: 0\nRequires-Dist: torch>=99\n"
    )
    code, output, log = set_up(checkout, "--print-python", CONDA_PREFIX=str(complete))
    assert output == f"{checkout}/.venv/bin/python\n", log


def test_setup_names_what_is_wrong(checkout: Path, tmp_path: Path) -> None:
    code, output, log = set_up(checkout, "--frce")
    assert (code, output) == (2, "")
    assert log == "error: unknown argument '--frce' (see bash scripts/setup_env.sh --help)\n"

    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "cat", "cksum"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    code, output, log = set_up(checkout, PATH=str(tools))
    assert code == 2
    assert log.startswith("error: no Python 3.11 or newer")
    assert not (checkout / ".venv").exists()

    (checkout / "requirements.txt").write_text("./no-such-package\n")
    code, output, log = set_up(checkout)
    assert code == 2
    assert log.endswith("error: requirements.txt cannot be installed; see above, then run this again\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_script_is_clean_short_and_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert "set -euo pipefail" in text
    subprocess.run(["bash", "-n", str(script)], check=True)
    if SHELLCHECK:
        found = subprocess.run(
            [SHELLCHECK, "-x", str(script)], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.suffix == ".sh"], ids=name)
def test_script_explains_itself_without_any_set_up(script: Path, checkout: Path) -> None:
    command = ["bash", str(checkout / "scripts" / script.name), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment(), check=False)
    assert shown.returncode == 0, shown.stderr
    assert re.search(rf"^  .*bash scripts/{script.name}", shown.stdout, re.MULTILINE)
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_command_help_has_an_example_and_loads_nothing_heavy(command: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", str(command), "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^examples?:\n +python ", shown.stdout, re.MULTILINE)
    loaded = set(re.findall(r"^import time:.*\| +(\w+)$", shown.stderr, re.MULTILINE))
    assert "argparse" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_command_refuses_an_unknown_flag_in_one_line(command: Path, tmp_path: Path) -> None:
    wrong = subprocess.run(
        [sys.executable, str(command), "--no-such-flag"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert wrong.stderr.startswith("error: ")
    assert wrong.stdout == ""


def lock() -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (PROJECT / "requirements.txt").read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def ranges(*lists: str) -> list[Requirement]:
    text = (PROJECT / "setup.py").read_text(encoding="utf-8")
    found = re.findall(rf"^(?:{'|'.join(lists)}) = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    quoted = re.findall(r"^    (?:\"(.+)\"|'(.+)'),", "".join(found), re.MULTILINE)
    return [Requirement(one or other) for one, other in quoted]


def test_lock_pins_what_setup_asks_for() -> None:
    pins = {requirement.name: requirement for requirement in lock()}
    wanted = {requirement.name: requirement for requirement in ranges("REQUIRED", "TEST", "DEMO")}
    assert pins.keys() == wanted.keys()
    for package, pin in pins.items():
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert wanted[package].specifier.contains(exact.version), package
        assert str(pin.marker) == str(wanted[package].marker)


def test_what_is_imported_is_required() -> None:
    pattern = re.compile(r"^ *(?:import (?P<a>\w+)|from (?P<b>\w+)[\w.]* import)", re.MULTILINE)
    files = [*(PROJECT / "formcoach").rglob("*.py"), *COMMANDS]
    found = {one["a"] or one["b"] for file in files for one in pattern.finditer(file.read_text(encoding="utf-8"))}
    commands = {path.stem for path in COMMANDS}  # initialize_dataset.py strings others together
    imports = found - sys.stdlib_module_names - commands - {"formcoach"}
    distributions = packages_distributions()
    imported = {canonicalize_name(package) for module in imports for package in distributions.get(module, [module])}
    required = {canonicalize_name(requirement.name) for requirement in ranges("REQUIRED")}
    optional = {canonicalize_name(requirement.name) for requirement in ranges("WANDB", "DEMO")}
    kernels = {"mamba-ssm", "causal-conv1d"}  # used where they import; pip builds them against the torch that is there
    assert imported <= required | optional | kernels
    assert required - imported <= {"accelerate", "bitsandbytes", "tensorboard"}  # transformers imports these


def test_hooks_use_the_locked_versions() -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    hooks = clientlib.load_config(str(PROJECT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    used = {Requirement(text) for hook in hooks for text in hook["additional_dependencies"]}
    assert {(one.name, one.specifier) for one in used} <= {(one.name, one.specifier) for one in lock()}
    assert len(used) == 2
