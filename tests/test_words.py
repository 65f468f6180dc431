"""One word per thing, and the word of the field: a list of words that are not used here."""

import ast
import re

import pytest

from fixtures.paths import ROOT

PACKAGES = ("models", "transforms", "pipeline", "infra", "src/streamgauge")

# Word or phrase -> what to write instead. A word matches alone and as a part of an identifier
# (`told`, `_told_now`, `ToldBefore`); upper case matches constants only. One with an underscore
# matches only as an identifier.
WORDS = {
    "told": "emitted, reported, sent; AlertAction for the bits",
    "tell": "report, emit, distinguish",
    "tells": "reports, emits, distinguishes",
    "telling": "reporting, distinguishing",
    "teller": "transition builder",
    "said": "reported, given",
    "hear": "receive",
    "hears": "receives",
    "heard": "received",
    "overheard": "Tap",
    "overhear": "Tap",
    "unrest": "step size",
    "surprised": "calm_events_left",
    "settled": "stationary",
    "unsettled": "not stationary",
    "unname": "forget_names",
    "spoil": "corrupt",
    "spoils": "corrupts",
    "spoiled": "corrupted",
    "spoilt": "corrupted",
    "aloud": "narrate, or print",
    "mend": "fix, repair",
    "mends": "fixes",
    "mended": "fixed",
    "anew": "again, new",
    "afresh": "again",
    "episode": "alert",
    "episodes": "alerts",
    "jumps": "offset resets",
    "jumped": "offset reset",
    "renew": "accept the new baseline",
    "renews": "accepts the new baseline",
    "RENEWED": "BASELINE_ACCEPTED",
    "wording": "formatting",
    "derivation": "Rescorer",
    "riddle": "a plain sentence",
    "TAKES_SLICES": "LOG_GROWTH_MAX",
    "PACE": "WRITE_RATIO",
    "WAITS": "QUEUE_PATIENCE",
    "ROOM": "LOG_CAPACITY",
    "once_in": "rarity_1_in_n",
    "the house": "the repository layout",
    "goes on": "continues, resumes",
    "go on": "continue, resume",
    "went on": "continued",
    "lies in": "is in",
    "lie in": "are in",
    "lies beside": "is next to",
    "lie beside": "are next to",
    "hard of hearing": "less sensitive",
    "but for": "except",
    "makes good": "repairs",
    "by heart": "from memory",
    "no more and no less": "exactly",
}
#: Allowed beside the equation that they are part of.
SYMBOLS = {"theta": "log_threshold", "eta": "threshold_rate"}
SYMBOLS_IN = {"models/alerts/budget.py", "docs/quality.md"}
#: Keys of arrays in artifacts that exist.
CONTRACTS = ("calibration.log_once_in", "thresholds.theta", "episode")
#: Pages that quote the old words.
QUOTING = {"docs/decisions/0034-dictionary.md"}
# Names that stand for a missing noun, in product code.
NAMELESS = {
    "found": "the thing that was found",
    "one": "the thing that is one of many",
    "place": "index, position",
    "kept": "what is kept",
    "given": "arguments, values",
    "told": "actions, messages",
    "said": "scores, reports",
}


def words_of(text):
    """The text with identifiers taken apart, in the case that they have."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return apart.replace("_", " ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_told_now", "told now"),
        ("ToldBefore", "Told Before"),
        ("TAKES_SLICES", "TAKES SLICES"),
    ],
)
def test_identifiers_are_taken_apart(name, words):
    assert words_of(name).strip() == words


def pattern_of(word):
    gap = r"\s+" if " " in word else "_"
    before = r"(?<![A-Za-z.])" if word == "tell" else r"(?<![A-Za-z])"  # Optuna's study.tell
    pattern = rf"{before}{gap.join(word.replace('_', ' ').split())}(?![A-Za-z])"
    return re.compile(pattern, 0 if word.isupper() else re.IGNORECASE)


PATTERNS = {word: pattern_of(word) for word in WORDS}
SYMBOL_PATTERNS = {word: re.compile(rf"\b{word}\b") for word in SYMBOLS}


def product_files():
    code = [path for package in PACKAGES for path in sorted((ROOT / package).glob("**/*.py"))]
    pages = [path for package in PACKAGES for path in sorted((ROOT / package).glob("**/*.md"))]
    docs = sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "docs").rglob("*.yaml"))
    docs = [page for page in docs if in_repository(page) not in QUOTING]
    return [*code, *pages, *docs, ROOT / "README.md", ROOT / "Makefile", ROOT / "setup.py"]


def hits(text, name):
    """`name:line: word: write … instead` for each word of the list in `text`."""
    for contract in CONTRACTS:
        text = text.replace(f'"{contract}"', '""')
    apart = words_of(text)
    for word, pattern in PATTERNS.items():
        searched = text if "_" in word else apart
        for match in pattern.finditer(searched):
            line = searched.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: {word!r}: write {WORDS[word]}"
    if name not in SYMBOLS_IN:
        for word, pattern in SYMBOL_PATTERNS.items():
            for match in pattern.finditer(apart):
                line = apart.count("\n", 0, match.start()) + 1
                yield f"{name}:{line}: {word!r}: write {SYMBOLS[word]}"


def in_repository(path):
    return path.relative_to(ROOT).as_posix()


def test_product_code_and_docs_use_the_words_of_the_field():
    wrong = [hit for path in product_files() for hit in hits(path.read_text(), in_repository(path))]
    assert not wrong, f"{len(wrong)} words:\n" + "\n".join(wrong)


def test_tests_are_named_in_the_words_of_the_field():
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        wrong += hits(path.stem, in_repository(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                wrong += hits(node.name, f"{in_repository(path)}:{node.lineno}")
    assert not wrong, f"{len(wrong)} names:\n" + "\n".join(wrong)


def bound_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node.lineno


def test_names_are_nouns_of_the_thing():
    wrong = []
    for path in (p for p in product_files() if p.suffix == ".py"):
        for name, line in bound_names(ast.parse(path.read_text())):
            if name.lstrip("_") in NAMELESS:
                wrong.append(f"{in_repository(path)}:{line}: {name}: {NAMELESS[name.lstrip('_')]}")
    assert not wrong, f"{len(wrong)} names:\n" + "\n".join(wrong)


def test_a_word_of_the_list_is_noticed():
    text = (
        "a = 1\n# It was told of once in 5\n_unrest_now = Teller()\n"
        "ROOM, room, theta, foretold, is_once_in = 1\n"
    )
    lines = [hit.split(": write")[0] for hit in hits(text, "x.py")]
    assert sorted(lines) == [
        "x.py:2: 'told'",
        "x.py:3: 'teller'",
        "x.py:3: 'unrest'",
        "x.py:4: 'ROOM'",
        "x.py:4: 'once_in'",
        "x.py:4: 'theta'",
    ]
