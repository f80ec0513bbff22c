"""The settings of CI, pre-commit and GitHub parse, and name what exists."""

import re
from pathlib import Path

import pytest
import yaml

import optax_ortho

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github"
CI = FOLDER / "workflows/ci.yml"
FORMS = [
    path
    for path in sorted((FOLDER / "ISSUE_TEMPLATE").glob("*.yml"))
    if path.name != "config.yml"
]
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def jobs(workflow: dict):
    """Every job of a workflow, once for each combination of its matrix."""
    for job in workflow["jobs"].values():
        matrix = job["strategy"]["matrix"]
        pairs = [(t, p) for t in matrix["target"] for p in matrix["python"]]
        pairs += [(extra["target"], extra["python"]) for extra in matrix["include"]]
        for target, python in pairs:
            yield job, target, python


def test_ci_runs_targets_of_the_makefile():
    runs = [
        (step["run"].replace("${{ matrix.target }}", target), python)
        for job, target, python in jobs(load(CI))
        for step in job["steps"]
        if "run" in step
    ]
    commands = {command for command, _ in runs}
    assert commands == {"make test", "make lint", "make docs"}
    assert {command.removeprefix("make ") for command in commands} <= TARGETS
    tested = {python for command, python in runs if command == "make test"}
    classifiers = re.findall(
        r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text()
    )
    assert tested == set(classifiers)


def test_ci_may_only_read_and_pins_its_actions():
    workflow = load(CI)
    assert workflow["permissions"] == {"contents": "read"}
    actions = re.findall(r"uses: (.*)", CI.read_text())
    assert actions
    for action in actions:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_pre_commit_runs_what_make_lint_runs():
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"  # Else a second place would pin the tools.
    (hook,) = repository["hooks"]
    assert hook["entry"] == "make lint"
    assert not hook["pass_filenames"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms(path):
    """The requirements of GitHub, which does not list other forms."""
    form = load(path)
    assert form["name"] and form["description"]
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea")
        assert field["attributes"]["label"]


def test_the_list_of_forms_links_to_the_security_page():
    (link,) = load(FOLDER / "ISSUE_TEMPLATE/config.yml")["contact_links"]
    assert link["url"].endswith("/security/advisories/new")


def test_one_version():
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == optax_ortho.__version__


def test_the_release_checklist_names_modules_that_exist():
    page = re.sub(r"\s+", " ", (ROOT / "RELEASING.md").read_text())
    modules = re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", page)
    assert len(modules) >= 5
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    assert set(re.findall(r"`make (\w+)`", page)) <= TARGETS
