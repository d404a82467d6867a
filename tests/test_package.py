"""What `import flair_jax` gives, and at which cost."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flair_jax

REPOSITORY = Path(__file__).parent.parent
PACKAGES = sorted(
    ".".join(file.parent.relative_to(REPOSITORY).parts)
    for file in [*REPOSITORY.glob("flair_jax/**/__init__.py"), *REPOSITORY.glob("flair_jax/con*/__init__.py")]
)
PUBLIC = [name for name in PACKAGES if hasattr(importlib.import_module(name), "__all__")]


def test_import_is_light() -> None:
    """The package and all of its rooms: processor time under 0.1 s (measured 0.02 s), and nothing from elsewhere."""
    script = (
        "import sys, time; start = time.process_time(); before = set(sys.modules); "
        f"import {', '.join(PACKAGES)}; print(time.process_time() - start); "
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    seconds, loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.1
    assert loaded == "{'flair_jax'}"


def test_all_it_does_pulls_neither_torch_nor_tensorflow() -> None:
    script = (
        "import sys, flair_jax; [getattr(flair_jax, name) for name in flair_jax.__all__]; "
        "import flair_jax.demo.run, flair_jax.evaluate.tasks, flair_jax.train.logger; "
        "flair_jax.train.logger._import_tensorboard(); print({'torch', 'tensorflow'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_public_names() -> None:
    assert set(flair_jax.__all__) <= set(dir(flair_jax))
    with pytest.raises(AttributeError, match="no attribute 'encode'"):
        flair_jax.encode  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    package = importlib.import_module(name)
    modules = {file.stem for folder in package.__path__ for file in Path(folder).iterdir()}
    for public in package.__all__:
        value = getattr(package, public)
        if inspect.ismodule(value):
            assert value.__name__ == f"{name}.{public}"
        else:
            assert public not in modules, f"{name}.{public}: a module of that name hides it once that is imported"
            if inspect.isclass(value) or inspect.isfunction(value):
                assert inspect.getdoc(value), f"{name}.{public}"


@pytest.mark.parametrize("name", PUBLIC)
def test_type_checkers_read_the_same_public_names(name: str) -> None:
    tree = ast.parse(Path(importlib.import_module(name).__path__[0], "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.orelse)
    imported = {(node.module, each.name) for node in block.body for each in node.names}
    listed = importlib.import_module(name).__all__
    assert sorted(public for _, public in imported) == listed
    for module, public in imported:
        assert getattr(importlib.import_module(module), public) is getattr(importlib.import_module(name), public)


def test_the_version_is_one() -> None:
    """Of the package, of what to cite, and of the newest changes."""
    cited = re.search(r"^version: (\S+)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    changed = re.search(r"^## (\S+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited
    assert changed
    assert cited[1] == changed[1] == flair_jax.__version__
