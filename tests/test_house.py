"""The house: folders, links, import rules, and documents that say what is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import paceline
from paceline import errors
from paceline.pipeline.config import Config, load_config

ROOT = Path(__file__).parent.parent
LINKED = ("devices", "exporters", "latency_models", "pipeline")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def sources(*folders: str) -> list[Path]:
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


def test_public_names_are_those_of_all() -> None:
    public = {n for n, v in vars(paceline).items() if not n.startswith("_") and not isinstance(v, ModuleType)}
    assert public == set(paceline.__all__)
    assert list(paceline.__all__) == sorted(paceline.__all__)


@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_relative_links(name: str) -> None:
    link = ROOT / "paceline" / name
    assert link.is_symlink(), f"{link} is no link; see CONTRIBUTING.md on Windows"
    assert Path(os.readlink(link)) == Path("..") / name
    assert link.resolve() == ROOT / name


def test_every_package_folder_has_an_init() -> None:
    folders = {path.parent for path in sources("paceline", *LINKED)}
    assert folders >= {ROOT / name for name in LINKED}
    assert sorted(f for f in folders if not (f / "__init__.py").is_file()) == []


def test_devices_import_no_torch() -> None:
    code = """
import importlib, pkgutil, sys
import paceline.devices
found = [m.name for m in pkgutil.walk_packages(paceline.devices.__path__, "paceline.devices.") if not m.name.endswith("__main__")]
for name in found:
    importlib.import_module(name)
print(len(found), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT.anchor)
    assert done.returncode == 0, done.stderr
    count, torch = done.stdout.split()
    assert int(count) > 0
    assert torch == "False"


def test_no_file_is_too_long() -> None:
    written = sources("paceline", "tests", "benchmarks", "examples", *LINKED)
    lines = {str(p.relative_to(ROOT)): len(p.read_bytes().splitlines()) for p in written}
    assert {name: n for name, n in lines.items() if n > 400} == {}


def test_readme_has_the_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README.split("## First minutes")[1], re.DOTALL)
    assert commands[:2] == ["pip install . && paceline run", "pip install -e '.[test]' && pytest"]


def test_readme_configuration_is_complete_and_accepted(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "config.toml").write_text(example, encoding="utf-8")
    load_config(tmp_path / "config.toml")
    assert keys(tomllib.loads(example)) == keys(Config().model_dump())


def keys(values: dict[str, Any]) -> dict[str, Any]:
    return {name: keys(value) if isinstance(value, dict) else None for name, value in values.items()}


def test_readme_exit_codes_are_those_of_the_errors() -> None:
    table = README.split("## Exit codes")[1].split("##")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    classes = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.PacelineError)]
    assert documented == {0, 130, *(c.exit_code for c in classes)}
    assert len({c.exit_code for c in classes}) == len(classes)


def test_readme_layout_names_every_folder() -> None:
    layout = README.split("## Layout")[1].split("##")[0]
    assert [name for name in re.findall(r"\b(\w[\w/]*)/", layout.split("```")[1]) if not (ROOT / name).is_dir()] == []
    assert {"paceline", *LINKED} <= set(re.findall(r"^(\w+)/ ", layout, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith("https://") and not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_documents_name_exist(document: Path) -> None:
    folders = "|".join(["paceline", "benchmarks", *LINKED])
    named = re.findall(rf"`((?:{folders})/[\w/.]*)`", document.read_text(encoding="utf-8"))
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_changelog_knows_this_version() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == paceline.__version__


def test_dockerfile_ends_as_an_ordinary_user() -> None:
    # .ci/run lints it with hadolint; this is what a linter does not ask for
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("USER ")][-1] not in ("root", "0", "0:0")
    assert 'ENTRYPOINT ["paceline"]' in lines
    assert all(re.search(r":\d", line) for line in lines if line.startswith("FROM ")), "base images need a version"


def test_ci_is_a_program_that_runs_the_readme_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    (pattern,) = re.findall(r"grep -m 1 -E '(.+?)' README\.md", text)
    found = re.findall(pattern + ".*", README, re.MULTILINE)
    assert found[:1] == ["pip install -e '.[test]' && pytest"]
