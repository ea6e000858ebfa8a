"""Every command and every piece of Python that documents, help pages and benchmarks show is run.

A command is run as it is written, in this process and in a folder of its own, with settings added that keep it short.
The run folders and weights that it names are there beforehand: a tiny run, trained once, and a ``mini`` with random
weights. An encoder that would be downloaded is replaced by the fake one of the tests of the command line. Of a
benchmark the page is printed, and the documented options must be on it.
"""

import ast
import functools
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from vlmreward import encoders
from vlmreward.agents.catalogue import get_agent
from vlmreward.cli import COMMANDS, main
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.groups import list_groups, match_option
from vlmreward.cli.help import command_page, overview
from vlmreward.data import find_format
from vlmreward.data.dataset import Recording
from vlmreward.encoders import mini
from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.store_folder import StoreMeta
from vlmreward.errors import VlmRewardError
from vlmreward.rewards.head import HEAD_FILE, Head, HeadMeta
from vlmreward.rewards.head_net import HeadSettings, make_net
from vlmreward.testing.critics import save_random_critic

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "cli" / "fakes"
SHELL = {"bash", "console", "sh", "shell"}
OPERATORS = {"&&", "||", ";", "|", "&"}
DOCUMENTS = sorted(path for place in ("", "docs/**/", "videos/", "benchmarks/") for path in ROOT.glob(f"{place}*.md"))

# Commands that are not run, by how they begin, and why; what they name is still looked up.
NOT_RUN = {
    "make test": "holds these tests; tests/packaging/test_setup.py runs it with stand-ins",
    "make demo": "minutes of training; tests/packaging/test_setup.py runs it with stand-ins",
    "make check": "holds these tests",
    "make fix": "rewrites the checkout",
    "pip install": "needs the network",
    ".venv/bin/pytest": "runs these tests",
    "vlmreward train env=cartpole reward=yes_no": "needs a server; tests/cli/test_judge.py starts one",
    "vlmreward train env=cartpole reward=rubric": "needs weights; test_transformers_judge.py makes some",
    "vlmreward label dataset=recordings reward=gvl": "as this one does",
    "vlmreward train env=cartpole agent=dqn reward=preference reward.annotator.name=two_stage": "a server too",
    "vlmreward train env=cartpole agent=dqn reward=distilled reward.annotator.of.name=rubric": "and this one",
    "vlmreward label dataset=datasets/swing engine=ray": "starts servers; tests/labelling/test_ray_engine.py does",
    "vlmreward pretrain-mini": "takes an hour and a teacher; tests/agents/fit/test_pretrain.py runs its stages",
}

# Settings that make a command short; they take the place of those it has.
SHORT_EPISODE = "env.kwargs.max_episode_steps=20"
SMALL = {
    "train": ("total_timesteps=64", "n_envs=2", "encode_batch=16", "eval.episodes=1", SHORT_EPISODE),
    "resume": ("total_timesteps=96", "eval.episodes=1"),
    "evaluate": ("episodes=2",),
    "record": ("episodes=1",),
    "audit": ("count=30", "replicates=20", "landscapes=false"),
    "collect": ("episodes=3", SHORT_EPISODE),
    "label": ("force=true",),
    "fit-critic": ("steps=2", "groups=2", "width=16", "layers=1"),
    # nobody answers here, wherever a person is asked
    "fit-reward": ("reward.annotator.name=reward", "reward.learning.budget=64", "reward.learning.fit_steps=2"),
}
WITH_ENV = ("evaluate", "record", "audit")
QUICK_START = "encoder.runtime=torch"  # the engine that auto chooses takes longer to get ready than such a command
SMALL_OFFLINE = ("total_timesteps=8", "encode_batch=16", "eval.episodes=1", "agent.hidden=[8]")  # with a dataset
SMALL_AGENT = {  # by the way the algorithm is scored
    "replay": ("agent.learning_starts=16", "agent.batch_size=16"),
    "rollout": ("agent.n_steps=16", "agent.batch_size=16"),
}


def blocks(text):
    """Yield (language, content) of the fenced blocks."""
    for match in re.finditer(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```", text, re.MULTILINE | re.DOTALL):
        yield match.group(1), match.group(2)


def commands_of(text):
    """Yield each command of a document as words: those of the shell's blocks, and those in `code` in the text."""
    for language, content in blocks(text):
        if language in SHELL:
            for line in content.replace("\\\n", " ").splitlines():
                if language != "console" or line.startswith("$ "):
                    yield from split_line(line.removeprefix("$ "))
    prose = re.sub(r"^[ ]*```.*?^[ ]*```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"(?<!`)`((?:vlmreward|make|python) [^`]+|benchmarks/\w+\.py)`(?!`)", prose):
        if "..." not in code and "COMMAND" not in code:
            program = "python " if code.startswith("benchmarks/") else ""
            yield from split_line(program + name_placeholders(code))


def name_placeholders(text):
    """Put a name in the place of each ``<name>``, on one line."""
    return " ".join(re.sub(r"<[^<>]*>", "x", text).split())


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


def shown_commands():
    """Yield the commands of documents, help pages and benchmarks' docstrings, as words."""
    for path in DOCUMENTS:
        yield from commands_of(path.read_text(encoding="utf-8"))
    for page in (overview(), *map(command_page, COMMANDS)):
        for line in page.splitlines():
            if line.startswith("  vlmreward ") and "COMMAND" not in line:
                yield from split_line(name_placeholders(re.split(r"\s{3,}", line.strip())[0]))
    for path in ROOT.glob("benchmarks/*.py"):
        for line in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines():
            if line.startswith("    python "):
                yield from split_line(line)


SHOWN = list(dict.fromkeys(shlex.join(words) for words in shown_commands()))


def reason_not_to_run(words):
    command = shlex.join(words)
    return next((why for start, why in NOT_RUN.items() if f"{command} ".startswith(f"{start} ")), None)


def look_up(words):
    """Return what is wrong with the files, make targets and extras that a command names, or None."""
    program, rest = words[0].rsplit("/", 1)[-1], words[1:]
    if any(set(word) & set("<>") for word in words):
        return "has a <placeholder>, which a shell takes for a file to read"
    if program == "make":
        targets = re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in rest if "=" not in word and not word.startswith("-") and word not in targets]
        return f"no make target {unknown}" if unknown else None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in rest:
        if word.startswith(("tests/", "benchmarks/")) and not (ROOT / word).exists():
            return f"no file {word}"
        for named in re.findall(r"(?:vlmreward|^\.)\[([\w,-]+)\]", word):
            if unknown := set(named.split(",")) - set(extras):
                return f"no extras {sorted(unknown)}"
    return None


def shorten(name, settings):
    """Return a command's settings with those that keep it short and away from the network.

    Raises:
        VlmRewardError: A setting is wrong.
    """
    arguments = parse_arguments(settings)
    small = [*SMALL.get(name, ())]
    if "resume" in arguments.literals:
        small = [*SMALL["resume"]]
    elif name == "train" and "dataset" in arguments.literals:
        small = [*SMALL_OFFLINE, *([SHORT_EPISODE] if "env" in arguments.keys() else [])]  # noqa: SIM118
    elif name == "train":
        small += SMALL_AGENT[get_agent(compose("train", arguments)["agent"]["name"]).scoring]
    elif name in WITH_ENV and not {"run", "frames", "dataset"} & set(arguments.literals):
        small.append(SHORT_EPISODE)
    for key, _, value in [setting.partition("=") for setting in settings]:
        if key == "encoder" and match_option(key, value, list_groups()) != "mini":
            small.append("encoder=fake")
    fixed = ("encoder.runtime=", "encoder.precision=", "resume=", "run=")  # they settle the engine
    if name in ("train", "label", "fit-critic", "fit-reward", *WITH_ENV) and not any(
        s.startswith(fixed) for s in settings
    ):
        small += [QUICK_START] if "encoder=fake" not in small else []
    replaced = {setting.partition("=")[0] for setting in small}
    return [setting for setting in settings if setting.partition("=")[0] not in replaced] + small


@functools.cache
def page_of_benchmark(script):
    """Return what a benchmark prints for --help."""
    printed = io.StringIO()
    asked = mock.patch.multiple(sys, argv=[script, "--help"], path=[*sys.path])
    with asked, mock.patch.dict(os.environ), redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 0
    return printed.getvalue()


@pytest.fixture(scope="module", autouse=True)
def fakes():
    """Register the encoder that needs no weights, as the tests of the command line do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKES))
        patch.setitem(encoders._ENCODERS._targets, "fake", "fake_encoder:FakeEncoder")
        yield


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The folder of a real run, a very short one."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    assert main(["train", *shorten("train", ["env=cartpole", f"run_dir={folder}"])]) == 0
    return folder


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """A recorded dataset, and the same with labels."""
    folder = tmp_path_factory.mktemp("dataset")
    plain, labelled = folder / "plain", folder / "labelled"
    assert main(["collect", *shorten("collect", ["env=cartpole", f"out={plain}"])]) == 0
    shutil.copytree(plain, labelled)
    assert main(["label", f"dataset={labelled}", f"run_dir={folder / 'job'}", "force=true"]) == 0
    return {False: plain, True: labelled, "job": folder / "job"}


@pytest.fixture(scope="module")
def mini_encoder():
    return encoders.make_encoder("mini", runtime="torch")


@pytest.fixture(scope="module")
def random_mini(tmp_path_factory):
    """A weights file of the form that ``vlmreward pretrain-mini`` writes."""
    path = tmp_path_factory.mktemp("weights") / mini.WEIGHTS
    model = mini.build_model()
    domain = {mini.DOMAIN_WEIGHT: model.ln_final.weight * 0, mini.DOMAIN_BIAS: model.logit_scale * 0}
    save_file({name: value.detach() for name, value in {**model.state_dict(), **domain}.items()}, path)
    return path


def make_dataset(path):
    """Write one recorded episode, in the format that the path's name speaks of."""
    create = find_format("robomimic" if path.suffix else "folder").create
    assert create is not None
    writer = create(path, fps=10.0)
    frames = {"front": np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)}
    nothing = np.zeros((4, 1), np.float32)
    writer.add(Recording(frames, nothing, nothing[1:], None, terminated=True, truncated=False, instruction="open it"))
    writer.finish()


@pytest.fixture
def attempt(request, tmp_path, monkeypatch, capsys):
    """Run a command, given as words, in an empty folder; return what it complains of, or None."""
    monkeypatch.chdir(tmp_path)

    def provide(name, literals, settings):
        for path in map(Path, literals.get("dataset", ())):
            labelled = any(setting.startswith(("undo=true", "columns=", "labels=")) for setting in settings)
            if name in ("inspect", "fit-critic"):
                make_dataset(path)
            else:
                shutil.copytree(request.getfixturevalue("tiny_dataset")[labelled], path)
        for path in literals.get("reward.demos", ()):
            shutil.copytree(request.getfixturevalue("tiny_dataset")[False], path)
        for path in literals.get("runs", ()):
            shutil.copytree(request.getfixturevalue("tiny_dataset")["job"], path)
        for key in {"run", "resume"} & set(literals):
            shutil.copytree(request.getfixturevalue("tiny_run"), literals[key][-1])
        for path in literals.get("path", ()):
            store = EmbeddingStore(Path(path), StoreMeta(f"{mini.VERSION}-0123456789abcdef", "fp32", 2, "float16"))
            store.add(np.zeros((1, 2), np.uint64), np.eye(2, dtype=np.float32)[:1])
        for path in (*literals.get("reward.path", ()), *literals.get("reward.of.path", ())):
            encoder = request.getfixturevalue("mini_encoder")
            if path.endswith("critic.safetensors"):
                save_random_critic(Path(path), encoder)
            elif path.endswith(HEAD_FILE):
                meta = HeadMeta("preference", encoder.id, encoder.licence, literals["goal"], version=1)
                Head(make_net(HeadSettings(encoder.dim)), meta).save(Path(path))
        for path in literals.get("frames", ()):
            Path(path).parent.mkdir(parents=True)
            for i in range(4):
                picture = np.random.default_rng(i).integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(picture).save(Path(path).parent / f"{i}.png")
            Path(path).write_text("file,success\n0.png,0\n1.png,0\n2.png,1\n3.png,1\n")
        for path in literals.get("encoder.weights", ()):
            Path(path).parent.mkdir(parents=True)
            shutil.copy(request.getfixturevalue("random_mini"), Path(path).parent)  # under its own name

    def run(words):
        if wrong := look_up(words):
            return wrong
        if words[0] == "python":
            shown = page_of_benchmark(words[1])
            return next((f"no option {word}" for word in words if word[:2] == "--" and word not in shown), None)
        why = reason_not_to_run(words)
        if words[0].rsplit("/", 1)[-1] != "vlmreward":
            return None if why else "nobody knows how to run it: see NOT_RUN"
        name, *settings = [*words[1:], "--cfg"] if why else words[1:]
        try:
            provide(name, parse_arguments(settings).literals, settings)
            settings = settings if "--cfg" in settings else shorten(name, settings)
        except VlmRewardError as e:
            return str(e)
        capsys.readouterr()
        code = main([name, *settings, "--config-dir", str(FAKES / "configs")])
        return f"exit code {code}: {capsys.readouterr().err}" if code else None

    return run


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_command_runs(command, attempt):
    assert attempt(shlex.split(command)) is None


def test_every_row_of_the_commands_that_are_not_run_is_needed():
    reasons = {reason_not_to_run(shlex.split(command)) for command in SHOWN}
    assert set(NOT_RUN.values()) <= reasons


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_of_a_document_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, code in blocks(path.read_text(encoding="utf-8")):
        if language in ("python", "py"):
            exec(compile(code, str(path), "exec"), {"__name__": "__main__"})


def test_readme_shows_the_two_commands():
    shown = list(commands_of((ROOT / "README.md").read_text(encoding="utf-8")))
    assert ["make", "demo"] in shown
    assert ["make", "test"] in shown


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("```bash\nvlmreward trian env=cartpole\n```", "unknown command 'trian'"),
        ("```bash\nvlmreward train env=cartpol\n```", "cartpole"),
        ("```bash\nvlmreward train env=cartpole \\\n  sede=1\n```", "unknown setting 'sede'"),
        ("```bash\nvlmreward train env=cartpole encoder=siglipp\n```", "unknown encoder 'siglipp'"),
        ("```console\n$ vlmreward train env=cartpole --fast\nsteps 100\n```", "unknown option"),
        ("```bash\nvlmreward train env=cartpole encoder.weights=runs/mini/mini-0.safetensors\n```", "no weights file"),
        ("```bash\nOMP_NUM_THREADS=1 vlmreward evaluate run=runs/a episode=3 # short\n```", "episodes"),
        ("```bash\nvlmreward pretrain-mini sede=1\n```", "unknown setting 'sede'"),
        ("```bash\nmake demo && make cofee\n```", "cofee"),
        ("```bash\npip install 'vlmreward[contirb]'\n```", "contirb"),
        ("```bash\ncurl https://example.org\n```", "nobody knows"),
        ("```bash\npython benchmarks/no_such_benchmark.py\n```", "no_such_benchmark"),
        ("by `python benchmarks/text_goals.py\ncartpole --jbos 2`", "no option --jbos"),
        ("```bash\nvlmreward record run=runs/<name>\n```", "placeholder"),
        ("| job | `vlmreward lable dataset=x` |", "unknown command 'lable'"),
        ("run `make tset` now", "tset"),
        ("```bash\nvlmreward list envz\n```", "envz"),
        ("```bash\nvlmreward cache path=embeddings id=mini-1\n```", "no embeddings of encoder 'mini-1'"),
    ],
)
def test_planted_mistake_is_found(document, words, attempt):
    (said,) = [said for command in commands_of(document) if (said := attempt(command))]
    assert words in said


def test_commands_are_read_as_a_shell_reads_them():
    document = """
```bash
# a comment with vlmreward nonsense
vlmreward train env=cartpole goal="it's größer, [70 %]; a=b" seed=1 # short
PYTHONSAFEPATH=1 .venv/bin/vlmreward evaluate run=runs/demo && vlmreward record run=runs/demo | tee log
pip install -e '.[dev,contrib]'
```
Or `vlmreward record run=runs/<name>`, or `python benchmarks/device.py
--rounds 1`, as in `benchmarks/device.py`.
"""
    assert list(commands_of(document)) == [
        ["vlmreward", "train", "env=cartpole", "goal=it's größer, [70 %]; a=b", "seed=1"],
        [".venv/bin/vlmreward", "evaluate", "run=runs/demo"],
        ["vlmreward", "record", "run=runs/demo"],
        ["tee", "log"],
        ["pip", "install", "-e", ".[dev,contrib]"],
        ["vlmreward", "record", "run=runs/x"],
        ["python", "benchmarks/device.py", "--rounds", "1"],
        ["python", "benchmarks/device.py"],
    ]
