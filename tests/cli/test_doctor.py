from __future__ import annotations

from typing import Any

import pytest

from vlmreward.cli import doctor
from vlmreward.cli.doctor import Finding
from vlmreward.errors import RenderingError, WeightsError


def only(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: list(findings),))


def test_report_with_notes_is_fine(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Finding("a", "ok", "good"), Finding("b", "note", "limited"))
    outcome = cli("doctor")
    assert outcome.code == 0
    assert outcome.out.splitlines() == ["ok    a: good", "note  b: limited"]


def test_failure_gives_two_and_one_line(cli: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Finding("a", "fail", "broken: mend it"))
    outcome = cli("doctor")
    refused(outcome, "doctor", "1 of the above must be repaired")
    assert "FAIL  a: broken: mend it" in outcome.out


def test_this_machine_is_described() -> None:
    for check in (
        doctor.check_platform,
        doctor.check_packages,
        doctor.check_processor,
        doctor.check_runtime,
        doctor.check_storage,
    ):
        findings = check()
        assert findings
        assert all(finding.words for finding in findings)
        assert not [f for f in findings if f.state == "fail"]


def test_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-extra": "classic"})
    words = {f.state: f.words for f in doctor.check_packages()}
    assert "not installed: no-such-package: run pip install vlmreward" in words["fail"]
    assert "pip install 'vlmreward[classic]'" in words["note"]


def test_missing_gl_and_weights_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmreward import encoders
    from vlmreward.envs.mujoco import gl

    def no_gl() -> str:
        raise RenderingError("no OpenGL back end: apt-get install libegl1")

    def no_weights(*args: Any, **kwargs: Any) -> None:
        raise WeightsError("no weights file")

    monkeypatch.setattr(gl, "ensure_gl", no_gl)
    monkeypatch.setattr(encoders, "make_encoder", no_weights)
    pictures, weights = doctor.check_pictures()[0], doctor.check_weights()[0]
    assert (pictures.state, weights.state) == ("fail", "fail")
    assert "apt-get install libegl1" in pictures.words


@pytest.mark.parametrize(
    ("installed", "state", "words"),
    [
        (True, "ok", "openvino in fp32, torch for transformers"),
        (False, "note", "torch in fp32: for OpenVINO run pip install 'vlmreward[openvino]'"),
    ],
)
def test_runtime_of_encoders_is_named(monkeypatch: pytest.MonkeyPatch, installed: bool, state: str, words: str) -> None:
    from vlmreward.encoders import device, runtime

    monkeypatch.setattr(device, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime.platform, "machine", lambda: "x86_64")
    for module in (runtime, doctor):
        monkeypatch.setattr(module, "find_spec", lambda name: object() if installed else None)
    assert doctor.check_runtime() == [Finding("encoder runtime", state, words)]  # type: ignore[arg-type]


def test_small_shared_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage)
    assert {f.what: f.state for f in doctor.check_storage()} == {"/dev/shm": "note", "disk": "note"}


@pytest.mark.parametrize(
    ("system", "machine", "state"),
    [("Linux", "x86_64", "ok"), ("Darwin", "arm64", "note"), ("Windows", "AMD64", "fail")],
)
def test_support_of_platforms_is_stated(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, state: str) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    monkeypatch.setattr(doctor.platform, "machine", lambda: machine)
    assert doctor.check_platform()[0].state == state
