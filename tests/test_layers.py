"""The one rule of the folders: dagster_project -> assets -> ops, never back."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
PACKAGES = ("dagster_project", "assets", "ops", "tests", "bench")


def test_import_contracts_hold():
    done = subprocess.run([TOOLS / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_broken_contract_would_be_seen(tmp_path):
    """The linter is not green because it looks at nothing."""
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(c for c in contracts if c["type"] == "layers" and "assets" in c["layers"])
    assert layers["layers"] == ["dagster_project", "assets", "ops"]
    for package in layers["layers"]:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "ops" / "bad.py").write_text("import assets\n")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_packages =\n  dagster_project\n  assets\n  ops\n"
        "[importlinter:contract:1]\nname = x\ntype = layers\nlayers =\n  dagster_project\n  assets\n  ops\n"
    )
    command = [TOOLS / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "ops.bad -> assets" in done.stdout


def test_packages_have_empty_init_files():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_bytes() == b"", path


def test_only_tracking_imports_mlflow():
    users = [
        path.relative_to(ROOT).as_posix()
        for package in ("ops", "assets", "dagster_project")
        for path in (ROOT / package).rglob("*.py")
        if any(
            line.strip().startswith(("import mlflow", "from mlflow")) for line in path.read_text("utf-8").splitlines()
        )
    ]
    assert users == ["ops/tracking.py"]


def test_code_is_clean():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([TOOLS / "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
