"""Every command, link, picture and import that the documents show exists; none of them is run here."""

import ast
import importlib
import re
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from vlmreward.cli import COMMANDS
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.help import command_page, overview
from vlmreward.errors import VlmRewardError

ROOT = Path(__file__).parents[2]
LISTS = {"envs", "tasks", "encoders", "rewards", "agents"}
SHELL = {"bash", "console", "sh", "shell"}
OPERATORS = {"&&", "||", ";", "|", "&"}


def documents():
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("videos/*.md"), *ROOT.glob("benchmarks/*.md")]
    return sorted(found)


def blocks(text):
    """Yield (language, content) of the fenced blocks."""
    for match in re.finditer(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```", text, re.MULTILINE | re.DOTALL):
        yield match.group(1), match.group(2)


def commands_of(text):
    """Yield each command of a document as words: those of the shell's blocks, and those in `code` in the text."""
    for language, content in blocks(text):
        if language in SHELL:
            lines = content.replace("\\\n", " ").splitlines()
            if language == "console":
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            for line in lines:
                yield from split_line(line)
    prose = re.sub(r"^[ ]*```.*?^[ ]*```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"(?<!`)`((?:vlmreward|make) [^`\n]+)`(?!`)", prose):
        if "..." not in code and "COMMAND" not in code:
            yield from split_line(re.sub(r"<[^<>]*>", "x", code))


def split_line(line):
    """Yield the simple commands of one line of shell, without comments and leading variables."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in [*lexer, ";"]:
        if word in OPERATORS:
            while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0], re.DOTALL):
                words = words[1:]
            if words:
                yield words
            words = []
        else:
            words.append(word)


def make_targets():
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def extras():
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def complain(words):
    """Return what is wrong with a command, or None."""
    program, rest = words[0].rsplit("/", 1)[-1], words[1:]
    if any(set(word) & set("<>") for word in words):
        return "has a <placeholder>, which a shell takes for a file to read"
    if program == "make":
        unknown = [w for w in rest if "=" not in w and not w.startswith("-") and w not in make_targets()]
        return f"no make target {unknown}" if unknown else None
    if program == "vlmreward":
        return complain_of_vlmreward(rest)
    for word in rest:
        if word.endswith(".py") and not (ROOT / word).is_file():
            return f"no file {word}"
        for named in re.findall(r"(?:vlmreward|^\.)\[([\w,-]+)\]", word):
            if unknown := set(named.split(",")) - extras():
                return f"no extras {sorted(unknown)}"
    return None


def complain_of_vlmreward(rest):
    if not rest or rest[0] in ("--help", "--version"):
        return None
    name, *settings = rest
    if name not in COMMANDS:
        return f"no command {name}"
    config = name.replace("-", "_")
    try:
        arguments = parse_arguments(settings)
        if name == "list":
            return None if set(arguments.words) <= LISTS else f"can't list {arguments.words}"
        if arguments.words:
            return f"what is {arguments.words}?"
        if (files("vlmreward.configs") / f"{config}.yaml").is_file() and "resume" not in arguments.literals:
            groups, others = arguments.take(["env", "encoder", "reward", "agent"])
            if config != "train" and any(
                o.startswith("env=") for o in groups.overrides
            ):  # no run: they build their own
                compose("train", groups)
                arguments = others
            compose(config, arguments)
        elif unknown := [key for key in arguments.keys() if key != "resume"]:  # noqa: SIM118 (a method, no dict)
            return f"takes no settings, got {unknown}"
    except VlmRewardError as e:
        return str(e)
    return None


def slug(heading):
    """Return the anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower())
    return kept.replace(" ", "-")


def anchors(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def broken_links(path):
    text = re.sub(r"^[ ]*```.*?^[ ]*```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield target


def missing_imports(code):
    """Return the names that a piece of Python imports from the project and that aren't there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlmreward"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("vlmreward"):
                    importlib.import_module(alias.name)


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_of_a_document_exist_and_compose(path):
    wrong = [
        (shlex.join(words), said)
        for words in commands_of(path.read_text(encoding="utf-8"))
        if (said := complain(words))
    ]
    assert wrong == []


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_pictures_of_a_document_exist(path):
    assert list(broken_links(path)) == []


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_of_a_document_parses_and_imports_what_exists(path):
    for language, code in blocks(path.read_text(encoding="utf-8")):
        if language in ("python", "py"):
            assert list(missing_imports(code)) == []


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_examples_of_the_help_pages_compose(name):
    page = overview() if name is None else command_page(name)
    examples = [re.split(r"\s{3,}", line.strip())[0] for line in page.splitlines() if line.startswith("  vlmreward ")]
    for example in examples:
        if "COMMAND" not in example:
            for words in split_line(re.sub(r"<[^<>]*>", "x", example)):
                assert complain(words) is None, example


def test_readme_shows_the_two_commands():
    shown = list(commands_of((ROOT / "README.md").read_text(encoding="utf-8")))
    assert ["make", "demo"] in shown
    assert ["make", "test"] in shown


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("```bash\nvlmreward trian env=cartpole\n```", "no command trian"),
        ("```bash\nvlmreward train env=cartpol\n```", "cartpole"),
        ("```bash\nvlmreward train env=cartpole \\\n  sede=1\n```", "unknown setting 'sede'"),
        ("```console\n$ vlmreward train env=cartpole --fast\nsteps 100\n```", "unknown option"),
        ("```bash\nOMP_NUM_THREADS=1 vlmreward evaluate run=runs/a episode=3 # short\n```", "episodes"),
        ("```bash\nmake demo && make cofee\n```", "cofee"),
        ("```bash\npip install 'vlmreward[contirb]'\n```", "contirb"),
        ("```bash\npython benchmarks/no_such_benchmark.py\n```", "no_such_benchmark"),
        ("```bash\nvlmreward record run=runs/<name>\n```", "placeholder"),
        ("| job | `vlmreward lable dataset=x` |", "no command lable"),
        ("run `make tset` now", "tset"),
        ("```bash\nvlmreward list envz\n```", "envz"),
    ],
)
def test_planted_mistake_is_found(document, words):
    ((_, said),) = [(w, complain(w)) for w in commands_of(document) if complain(w)]
    assert words in said


def test_right_commands_pass():
    document = """
```bash
# a comment with vlmreward nonsense
vlmreward train env=cartpole goal="it's größer, [70 %]; a=b" seed=1 agent.learning_rate=0.001
PYTHONSAFEPATH=1 .venv/bin/vlmreward evaluate run=runs/demo && vlmreward record run=runs/demo | tee log
vlmreward train resume=runs/demo
vlmreward list envs
make demo SEED=1
pip install -e '.[dev,contrib]'
```
Or `vlmreward record run=runs/<name>`.
"""
    commands = list(commands_of(document))
    assert len(commands) == 9
    assert [said for words in commands if (said := complain(words))] == []


def test_planted_dead_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    links = '[a](#the-one-thing) [b](#other) ![c](no.png) <img src="no.gif"> [d](https://x.y) [e](page.md)'
    page.write_text(f"# The `one` thing\n{links}\n")
    assert list(broken_links(page)) == ["#other", "no.png", "no.gif"]


def test_planted_missing_name_is_found():
    code = "from vlmreward.errors import ConfigError, NoSuchError"
    assert list(missing_imports(code)) == ["vlmreward.errors.NoSuchError"]
