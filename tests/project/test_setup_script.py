"""`scripts/setup.sh`: with a stand-in `conda`, and with a stand-in `python3` and `uv`; the idle second run."""

import os
import shutil
import stat
import subprocess

import pytest

FAKE_CONDA = """#!/usr/bin/env bash
# a stand-in: knows `env list`, `env create -f`, `env update -n qlib -f`; its environment is a folder with a Python
echo "$*" >> "{home}/calls"
case "$1 $2" in
  "env list")
    echo "# conda environments:"; echo "base                  *  {home}"
    [ -d "{home}/envs/qlib" ] && echo "qlib                     {home}/envs/qlib"; exit 0 ;;
  "env create") [ "$4" = environment.yml ] && [ -f environment.yml ] || exit 9
    mkdir -p "{home}/envs/qlib/bin" && printf '#!/bin/sh\\necho stand-in\\n' > "{home}/envs/qlib/bin/python"
    chmod +x "{home}/envs/qlib/bin/python" ;;
  "env update") exit {update} ;;
esac
"""

FAKE_UV = """#!/bin/sh
[ "$1" = --version ] && exit 0
[ "$1" = venv ] && mkdir -p .venv/bin && printf '#!/bin/sh\nexit 0\n' > .venv/bin/python && chmod +x .venv/bin/python
echo "$*" >> uv_calls
"""

FAKE_PYTHON = """#!/bin/sh
# a stand-in: `-m venv .tools` makes .tools/bin/python, this script again; `-m pip install … uv` makes .tools/bin/uv
case "$*" in
  *"venv .tools") mkdir -p .tools/bin && cp "$0" .tools/bin/python ;;
  *"pip install"*) cp "{uv}" .tools/bin/uv ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def checkout(root, tmp_path):
    """A folder with what setup.sh reads, and nothing else."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("scripts/setup.sh", "environment.yml", "requirements.lock", ".python-version", "pyproject.toml"):
        shutil.copy(root / name, folder / name)
    return folder


def fake_conda(tmp_path, *, update=0):
    home = tmp_path / "conda"
    (home / "bin").mkdir(parents=True)
    script = home / "bin" / "conda"
    script.write_text(FAKE_CONDA.format(home=home, update=update))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return home


def setup(checkout, home, option="--print-python"):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONDA")}
    environment["PATH"] = f"{home}/bin:/usr/bin:/bin"
    command = ["scripts/setup.sh", option]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def calls(home):
    return (home / "calls").read_text().splitlines()


def test_conda_makes_the_environment_once(checkout, tmp_path):
    home = fake_conda(tmp_path)
    first = setup(checkout, home)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == f"{home}/envs/qlib/bin/python"
    assert "env create -f environment.yml" in calls(home)

    second = setup(checkout, home)
    assert second.stdout == first.stdout
    assert sum("create" in c or "update" in c for c in calls(home)) == 1
    assert not (checkout / ".venv").exists()


def test_conda_updates_the_environment_when_the_lock_changed(checkout, tmp_path):
    home = fake_conda(tmp_path)
    setup(checkout, home)
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# another lock\n")
    assert setup(checkout, home).returncode == 0
    assert calls(home).count("env update -n qlib -f environment.yml") == 1


def test_failed_conda_update_says_so_and_leaves_no_stamp(checkout, tmp_path):
    home = fake_conda(tmp_path, update=1)
    setup(checkout, home)
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# another lock\n")
    failed = setup(checkout, home)
    assert failed.returncode == 1
    assert "env update failed" in failed.stderr
    assert setup(checkout, home).returncode == 1


def test_extras_are_added_to_the_environment(checkout, tmp_path):
    home = fake_conda(tmp_path)
    setup(checkout, home)
    python = home / "envs" / "qlib" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >> "{home}/asked"\n')
    assert setup(checkout, home, "--extras").returncode == 0
    assert (home / "asked").read_text().split() == ["-m", "pip", "install", "--quiet", "-r", "requirements-extras.lock"]
    python.write_text("#!/bin/sh\nexit 1\n")
    failed = setup(checkout, home, "--extras")
    assert failed.returncode == 1
    assert "requirements-extras.lock; check the network" in failed.stderr


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_uv_that_does_not_run_is_not_taken(checkout, tmp_path):
    """pyenv puts a shim `uv` on the path when any of its Pythons has uv; it ends with 127 under the others."""
    spare = executable(tmp_path / "spare" / "uv", FAKE_UV)
    executable(tmp_path / "home" / "bin" / "uv", "#!/bin/sh\necho 'pyenv: uv: command not found' >&2\nexit 127\n")
    executable(tmp_path / "home" / "bin" / "python3", FAKE_PYTHON.format(uv=spare))
    done = setup(checkout, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{checkout}/.venv/bin/python"
    assert "installing uv into .tools" in done.stderr
    assert [call.split()[0] for call in (checkout / "uv_calls").read_text().splitlines()] == ["venv", "pip", "pip"]


def test_a_uv_that_runs_is_taken(checkout, tmp_path):
    executable(tmp_path / "home" / "bin" / "uv", FAKE_UV)
    assert setup(checkout, tmp_path / "home").returncode == 0
    assert not (checkout / ".tools").exists()
