"""The repository layout: which room imports which, and what no room may do."""

import ast
import builtins
import graphlib
import importlib.metadata
import re
import tomllib
from functools import cache

import pytest

from fixtures.paths import ROOT
from streamgauge.models.simd.compile_cache import COMPILED_ROOMS

PACKAGES = ("models", "transforms", "pipeline", "infra")
MODULES_MAX = 10  # of a folder; __init__.py does not count

# Read "a: b c" as: a may import b and c. A room is a folder of a package, or a module that lies
# beside the folders. It may always import itself and the errors of its package; those of
# `models` are open to all packages but `infra`. A name with a dot is a room of another package,
# or with a star all of its rooms.
RULES = {
    "models": """
        errors:
        simd:
        blocks:
        events: simd blocks
        state: blocks
        drift: simd blocks
        alerts: simd blocks state
        kernel: simd state
        forecast: events kernel simd state
        artifacts: alerts drift events forecast state
        training: alerts drift events forecast kernel state
        scoring: alerts artifacts blocks drift kernel simd state
    """,
    "transforms": """
        metrics:
        kafka: models.events
        runner: models.state
        messages: metrics models.artifacts models.blocks models.drift models.events models.state
        sources: kafka messages metrics runner models.blocks models.events
        sinks: kafka messages metrics
        score: messages metrics runner models.alerts models.artifacts models.blocks models.drift
            models.scoring models.state
    """,
    "pipeline": """
        console:
        overrides:
        yaml_values: overrides
        config: overrides yaml_values models.alerts models.events models.scoring
        report: console data models.alerts models.blocks
        graph: config models.* transforms.*
        jobs: config console graph models.* transforms.* infra.errors infra.flink_rest infra.local
        data: console jobs models.* transforms.*
        alerts: console jobs report models.* transforms.*
        training: console data models.*
        evaluation: console data training models.*
        api: alerts config jobs models.* transforms.*
        audit: config console graph jobs models.* transforms.*
        replay: alerts config console data graph jobs report models.* transforms.*
        cli: alerts audit config console data evaluation graph jobs replay report training
            models.* transforms.* infra.*
    """,
    "infra": """
        errors:
        narrate:
        flink_rest:
        processes: narrate
        patches: narrate
        local: flink_rest narrate patches processes
    """,
}
#: Libraries that may not be named where the core is pure or workers score.
FORBIDDEN = {
    "models": {
        *("apache_beam", "confluent_kafka", "kafka", "time", "datetime", "requests"),
        *("socket", "subprocess", "threading", "multiprocessing"),
    },
    "transforms": {"torch", "kafka"},
    "infra": {"torch"},
}
FILES = {"os", "shutil", "pathlib", "tempfile", "glob"}
#: The only places in the core that know files.
MAY_USE_FILES = re.compile(r"models/(artifacts/\w+|simd/compile_cache)\.py")
MAY_IMPORT_TORCH = re.compile(r"(models/training/(trainer|gru_network)|pipeline/training/\w+)\.py")
#: Modules that load torch; only `MAY_IMPORT_TORCH` and the command line may import them.
TRAINING = {
    "streamgauge.models.training.gru_network",
    "streamgauge.models.training.trainer",
    "streamgauge.pipeline.training.train",
}
#: The one module that constructs Kafka clients; it imports kafka-python inside functions, for
#: commands only.
KAFKA_FACTORY = ROOT / "transforms" / "kafka" / "access.py"
UNSAFE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
#: Decorators of functions that become machine code, or that write it.
COMPILERS = {"njit", "jit", "vectorize", "cached_njit", "intrinsic", "register_jitable"}
#: Libraries whose values machine code may hold: their versions are part of numba's own key.
COMPILED_LIBRARIES = {"numpy", "numba", "llvmlite", "math", "operator", "typing"}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def all_modules():
    return [path for package in PACKAGES for path in modules(package)]


def name_of(path):
    """How `path` is called in messages: relative to the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def imports(path):
    """Full names of everything a module imports, also inside functions."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def libraries(path):
    return {name.split(".")[0] for name in imports(path)}


def room_of(path):
    """`models.events` of models/events/schema.py, `pipeline.graph` of pipeline/graph.py."""
    package, *inner = path.relative_to(ROOT).with_suffix("").parts
    return f"{package}.{inner[0]}"


def rooms_imported(path):
    parts = [name.split(".") for name in imports(path)]
    return {f"{p[1]}.{p[2]}" for p in parts if p[0] == "streamgauge" and len(p) > 2}


def rules():
    """Room -> the rooms that it may import."""
    allowed = {}
    for package, text in RULES.items():
        lines = re.sub(r"\n\s+(?=[^:\n]+(\n|$))", " ", text).split("\n")
        for room, others in (line.split(":") for line in lines if line.strip()):
            full = {other if "." in other else f"{package}.{other}" for other in others.split()}
            allowed[f"{package}.{room.strip()}"] = full
    for room, others in allowed.items():
        for star in [other for other in others if other.endswith(".*")]:
            others |= {name for name in allowed if name.startswith(star[:-1])} - {star}
            others.discard(star)
        others.discard(room)
        package = room.split(".")[0]
        others |= {f"{package}.errors", "models.errors"} & allowed.keys() - {room}
        if package == "infra":
            others.discard("models.errors")
    return allowed


def test_rooms_import_only_what_the_table_allows():
    allowed = rules()
    wrong = []
    for path in all_modules():
        if path.parent.parent == ROOT and path.stem == "__init__":
            continue
        room = room_of(path)
        if room not in allowed:
            wrong.append(f"{name_of(path)}: room {room} is not in the table")
            continue
        for other in sorted(rooms_imported(path) - allowed[room] - {room}):
            wrong.append(f"{name_of(path)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_circle_and_names_no_room_that_is_unknown():
    allowed = rules()
    assert list(graphlib.TopologicalSorter(allowed).static_order())
    assert set().union(*allowed.values()) <= allowed.keys()


def test_packages_import_only_packages_below_them():
    below = {"models": set(), "infra": set(), "transforms": {"models"}}
    below["pipeline"] = {"models", "transforms", "infra"}
    for room, others in rules().items():
        package = room.split(".")[0]
        assert {other.split(".")[0] for other in others} <= below[package] | {package}, room


def test_everything_is_imported_from_streamgauge():
    tests = sorted((ROOT / "tests").rglob("*.py"))
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in [*all_modules(), *tests]
        for name in imports(path)
        if name.split(".")[0] in PACKAGES or name.startswith(".")
    ]
    assert not wrong, "\n".join(wrong)


def folders():
    return sorted({path.parent for path in all_modules()})


def test_a_folder_holds_at_most_ten_modules():
    counts = {name_of(f): len([*f.glob("*.py")]) - 1 for f in folders()}
    assert {f: n for f, n in counts.items() if n > MODULES_MAX} == {}


def test_every_folder_says_what_lives_in_it_and_what_it_may_import():
    wrong = []
    for folder in folders():
        path = folder / "__init__.py"
        tree = tree_of(path) if path.exists() else ast.parse("")
        text = ast.get_docstring(tree) or ""
        if len(tree.body) != 1 or len(text.splitlines()) < 3:
            wrong.append(f"{name_of(path)}: needs a docstring of some five lines, and nothing else")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers_do_not_know_what_lies_outside(package):
    for path in modules(package):
        forbidden = FORBIDDEN[package] - ({"kafka"} if path == KAFKA_FACTORY else set())
        used = libraries(path) & forbidden
        assert not used, f"{name_of(path)} imports {used}"


def test_the_core_knows_no_files():
    for path in modules("models"):
        used = libraries(path) & FILES
        assert not used or MAY_USE_FILES.fullmatch(name_of(path)), f"{name_of(path)}: {used}"


def test_only_training_imports_torch():
    wrong = []
    for path in all_modules():
        if MAY_IMPORT_TORCH.fullmatch(name_of(path)):
            continue
        if "torch" in libraries(path):
            wrong.append(f"{name_of(path)} imports torch")
        # The command line imports the command of training when it is called.
        if not name_of(path).startswith("pipeline/"):
            wrong += [f"{name_of(path)} imports {name}" for name in imports(path) & TRAINING]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_unpickled():
    for path in all_modules():
        assert not libraries(path) & UNSAFE, path
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                assert called not in {"torch.load", "yaml.load", "np.load"}, path


def test_no_do_fn_lives_in_a_module_that_is_run():
    for path in all_modules():
        tree = tree_of(path)
        is_run = any(isinstance(n, ast.If) and "__main__" in ast.dump(n) for n in ast.walk(tree))
        do_fns = [
            n.name
            for n in ast.walk(tree)
            if isinstance(n, ast.ClassDef) and any("DoFn" in ast.dump(b) for b in n.bases)
        ]
        assert not (is_run and do_fns), path


def test_no_other_distribution_owns_our_package_name():
    owners = importlib.metadata.packages_distributions()
    assert set(owners.get("streamgauge", ["streamgauge"])) == {"streamgauge"}
    assert not [name for name in PACKAGES if "streamgauge" in owners.get(name, [])]


def test_doctests_of_all_packages_are_collected():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "src/streamgauge" in options["testpaths"]
    assert "--doctest-modules" in options["addopts"]
    assert {path.name for path in (ROOT / "src/streamgauge").iterdir()} >= set(PACKAGES)


def test_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


# Compiled code


def name_called(node):
    target = node.func if isinstance(node, ast.Call) else node
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def decorators(function):
    return {name_called(node) for node in function.decorator_list}


def compiled_functions(path):
    return [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and COMPILERS & decorators(node)
    ]


def free_names(node):
    """Names that the body of a function, or a statement, takes from its module."""
    body = node.body if isinstance(node, ast.FunctionDef) else [node]
    used, local = set(), set()
    if isinstance(node, ast.FunctionDef):
        local = {arg.arg for n in ast.walk(node) if isinstance(n, ast.arguments) for arg in n.args}
    for inner in (n for statement in body for n in ast.walk(statement)):
        if isinstance(inner, ast.Name):
            (used if isinstance(inner.ctx, ast.Load) else local).add(inner.id)
        elif isinstance(inner, ast.FunctionDef):
            local |= {inner.name} | {arg.arg for arg in inner.args.args}
    annotations = [n.annotation for s in body for n in ast.walk(s) if isinstance(n, ast.AnnAssign)]
    ignored = {n.id for a in annotations for n in ast.walk(a) if isinstance(n, ast.Name)}
    return used - (local if isinstance(node, ast.FunctionDef) else set()) - ignored


@cache
def definitions(path):
    """What a module defines at its top: name -> (kind, what)."""
    found = {}
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = ("import", (node.module, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = ("import", (alias.name, None))
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = ("function", node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = ("class", node)
        else:
            for name in ast.walk(node):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    found[name.id] = ("value", node)
    return found


def is_hashed(path):
    parts = path.relative_to(ROOT).parts
    return len(parts) == 3 and parts[0] == "models" and parts[1] in COMPILED_ROOMS


def origins(path, name, seen):
    """Yield a message for each way in which `name` of a module comes from an unhashed file."""
    if (path, name) in seen:
        return
    seen.add((path, name))
    kind, what = definitions(path).get(name, ("builtin", None))
    if kind == "builtin":
        if not hasattr(builtins, name):
            yield f"{name_of(path)}: {name} is neither local nor defined at the top of the module"
    elif kind == "import":
        module, attribute = what
        if not module.startswith("streamgauge."):
            if module.split(".")[0] not in COMPILED_LIBRARIES | {"__future__"}:
                yield f"{name_of(path)}: {name} comes from {module}"
            return
        file = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        if not file.exists():
            file = file.with_suffix("") / f"{attribute}.py"
        if not is_hashed(file):
            yield f"{name_of(path)}: {name} comes from {module}, which is not hashed"
        elif attribute and file.stem != attribute:
            yield from origins(file, attribute, seen)
    elif kind in {"function", "value"}:
        for used in sorted(free_names(what)):
            yield from origins(path, used, seen)


def test_compiled_code_takes_names_from_hashed_files_only():
    wrong, seen, count = set(), set(), 0
    for path in all_modules():
        for function in compiled_functions(path):
            count += 1
            if not is_hashed(path):
                wrong.add(f"{name_of(path)}: {function.name} is compiled and its file not hashed")
            for name in sorted(free_names(function)):
                wrong |= set(origins(path, name, seen))
    assert count > 40
    assert not wrong, "\n".join(sorted(wrong))


def test_machine_code_is_kept_by_our_cache_alone():
    for path in all_modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and name_called(node) in COMPILERS:
                assert "cache" not in {word.arg for word in node.keywords}, (
                    f"{name_of(path)}:{node.lineno}: use cached_njit"
                )


def test_compiled_rooms_exist():
    assert {ROOT / "models" / room for room in COMPILED_ROOMS} <= set(folders())
