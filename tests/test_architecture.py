"""The house: arrows point inward, nothing is pickled, packages are ours alone."""

import ast
import importlib.metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "transforms", "pipeline", "infra")
#: What each package may import of the others.
ALLOWED = {
    "models": set(),
    "transforms": {"models"},
    "pipeline": {"models", "transforms", "infra"},
    "infra": set(),
}
#: Libraries that may not be named where the core is pure or workers score.
FORBIDDEN = {
    "models": {"apache_beam", "confluent_kafka", "kafka", "time", "datetime", "requests"},
    "transforms": {"torch", "kafka"},
    "infra": {"torch"},
}
#: Modules that train; nothing that scores may import them.
TRAINING = {
    "streamgauge.models.training.gru_network",
    "streamgauge.models.training.trainer",
    "streamgauge.pipeline.training.train",
}
#: The one module that constructs Kafka clients; it imports kafka-python inside functions, for
#: commands only.
KAFKA_FACTORY = ROOT / "transforms" / "kafka" / "access.py"
UNSAFE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path):
    """Full names of everything a module imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_inward(package):
    for path in modules(package):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("streamgauge.")} - {
            package
        }
        assert used <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {used}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers_do_not_know_what_lies_outside(package):
    for path in modules(package):
        forbidden = FORBIDDEN[package] - ({"kafka"} if path == KAFKA_FACTORY else set())
        used = {name.split(".")[0] for name in imports(path)} & forbidden
        assert not used, f"{path.relative_to(ROOT)} imports {used}"


def test_only_training_imports_torch():
    for package in PACKAGES:
        for path in modules(package):
            if "streamgauge." + ".".join(path.relative_to(ROOT).with_suffix("").parts) in TRAINING:
                continue
            names = imports(path)
            assert "torch" not in {name.split(".")[0] for name in names}, path
            # The command line imports the command of training when it is called.
            assert package == "pipeline" or not names & TRAINING, path


def test_nothing_is_unpickled():
    for package in PACKAGES:
        for path in modules(package):
            assert not {name.split(".")[0] for name in imports(path)} & UNSAFE, path
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    called = f"{node.value.id}.{node.attr}"
                    assert called not in {"torch.load", "yaml.load", "np.load"}, path


def test_package_initialisers_hold_a_docstring_only():
    for package in PACKAGES:
        body = ast.parse((ROOT / package / "__init__.py").read_text()).body
        assert len(body) == 1
        assert isinstance(body[0], ast.Expr), package


def test_no_do_fn_lives_in_a_module_that_is_run():
    for package in PACKAGES:
        for path in modules(package):
            tree = ast.parse(path.read_text())
            is_run = any(
                isinstance(n, ast.If) and "__main__" in ast.dump(n) for n in ast.walk(tree)
            )
            do_fns = [
                n.name
                for n in ast.walk(tree)
                if isinstance(n, ast.ClassDef) and any("DoFn" in ast.dump(b) for b in n.bases)
            ]
            assert not (is_run and do_fns), path


def test_no_other_distribution_owns_our_package_names():
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, ["streamgauge"])) == {"streamgauge"}


def test_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))
