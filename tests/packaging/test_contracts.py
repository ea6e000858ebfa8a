"""The ground floor: registry, errors, frames, optional packages."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from vlmreward import errors
from vlmreward.errors import ConfigError, DependencyNotInstalled, FramesError, UnknownNameError, VlmRewardError
from vlmreward.optional import require_package
from vlmreward.registry import Registry, suggest
from vlmreward.types import Encoder, FrameBatch, RewardModel, check_frames


def test_registry_imports_nothing_until_a_name_is_used(tmp_path, monkeypatch):
    (tmp_path / "planted_part.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing")
    registry.register("planted", "planted_part:Thing")
    registry.register("broken", "no_such_package.part:Thing")
    assert "planted" in registry
    assert registry.names() == ["broken", "planted"]
    assert "planted_part" not in sys.modules
    assert registry.get("planted").__name__ == "Thing"
    monkeypatch.delitem(sys.modules, "planted_part")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        registry.get("broken")


def test_registry_says_what_a_name_is_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "described_part.py").write_text(
        "import no_such_package\n\n\n"
        'def make():\n    """Makes ``it``, at last.\n\n    More.\n    """\n\n\nclass Mute:\n    x = 1\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing")
    registry.register("told", "described_part:make")
    registry.register("mute", "described_part:Mute")
    assert registry.summary("told") == "Makes it, at last."
    assert registry.summary("mute") == ""
    assert "described_part" not in sys.modules
    with pytest.raises(UnknownNameError, match="did you mean 'told'"):
        registry.summary("tld")


def test_registry_suggests_the_nearest_names():
    registry = Registry("encoder")
    for name in ("siglip2", "mini", "vit-b-32"):
        registry.register(name, "a:b")
    with pytest.raises(UnknownNameError, match=r"unknown encoder 'siglip': did you mean 'siglip2'\?"):
        registry.get("siglip")
    with pytest.raises(UnknownNameError, match="known: mini, siglip2, vit-b-32"):
        registry.get("qqqq")


def test_registry_refuses_a_name_twice_and_a_target_without_a_colon():
    registry = Registry("encoder")
    registry.register("mini", "first:Mini")
    with pytest.raises(ValueError, match="'mini' is registered already, as first:Mini"):
        registry.register("mini", "second:Mini")
    with pytest.raises(ValueError, match=r"package\.module:attribute"):
        registry.register("other", "package.module.attribute")
    assert registry.names() == ["mini"]


def make_thing(part, size, colour="red", **more):
    return part, size, colour, more


def test_registry_builds_with_known_settings_alone(monkeypatch):
    registry = Registry("thing", prefix="thing.")
    registry.register("one", "planted_things:make_thing")
    monkeypatch.setitem(sys.modules, "planted_things", SimpleNamespace(make_thing=make_thing))
    assert registry.make("one", {"part": 1}, size=2) == (1, 2, "red", {})
    for settings, message in (
        ({"size": 2, "color": "blue"}, r"thing 'one' has no setting 'color': did you mean 'colour'\?"),
        ({"size": 2, "part": 3}, "thing 'one' has no setting 'part'"),
        ({"colour": "blue"}, r"thing 'one' needs the setting 'size': give thing\.size="),
    ):
        with pytest.raises(ConfigError, match=message):
            registry.make("one", {"part": 1}, **settings)
    assert registry.name_in({"name": "one"}) == "one"
    with pytest.raises(ConfigError, match=r"config of thing needs 'name', got \['size'\]: known names: one"):
        registry.name_in({"size": 2})


def test_suggestions_are_ordered_and_never_empty():
    assert suggest("cartpol", ["humanoid", "cartpole"]) == "did you mean 'cartpole'?"
    assert suggest("x", ["b", "a"]) == "known: a, b"


def error_classes():
    found = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, VlmRewardError)]
    return [c for c in found if c is not VlmRewardError]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda c: c.__name__)
def test_error_shows_its_message_as_given_and_keeps_its_builtin_family(kind):
    message = "it's 'this', not that"
    assert str(kind(message)) == message
    family = [b for b in kind.__mro__ if b.__module__ == "builtins" and b not in (Exception, BaseException, object)]
    assert family, "inherit the builtin too, so that `except ValueError` keeps working"
    with pytest.raises(family[0]):
        raise kind(message)


def test_storage_and_weights_errors_can_be_raised_with_one_argument_and_have_no_number():
    assert errors.StorageError("full").errno is None


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 0, 4, 3), np.uint8),
    ],
    ids=["float", "one picture", "channels first", "none", "no rows"],
)
def test_frames_of_another_shape_or_type_are_refused_with_what_was_got(frames):
    with pytest.raises(FramesError) as caught:
        check_frames(frames)
    assert str(frames.shape) in str(caught.value)
    assert str(frames.dtype) in str(caught.value)


def test_right_frames_pass():
    check_frames(np.zeros((1, 1, 1, 3), np.uint8))


def test_length_of_a_batch_is_its_number_of_rows():
    assert len(FrameBatch(episode=np.zeros(5, np.int64), step=np.arange(5))) == 5


def test_protocols_are_checked_by_their_members():
    class Half:
        id = "x"

    assert not isinstance(Half(), Encoder)
    assert not isinstance(Half(), RewardModel)


def test_missing_optional_package_names_the_extra():
    with pytest.raises(DependencyNotInstalled, match=r"pip install 'vlmreward\[robots\]'"):
        require_package("no_such_package.part", "robots")
    assert require_package("json", "robots").__name__ == "json"


def test_import_error_inside_an_installed_package_is_not_blamed_on_the_extra(tmp_path, monkeypatch):
    (tmp_path / "planted_half.py").write_text("import another_missing_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_missing_package") as caught:
        require_package("planted_half", "robots")
    assert not isinstance(caught.value, DependencyNotInstalled)
