"""Broken submissions: each is a fault of its own with the right name, stage and words, and the next call works."""

from __future__ import annotations

import pytest

from app.domain.errors import SubmissionError
from app.domain.job import Blame, ErrorType, Fault, Stage
from tests.sandbox.jails import ENCODER, LIMITS, Lab, answering, geometry, in_decode, in_encode


def fault_of(lab: Lab, encoder: str, wall_s: float = 20) -> Fault:
    with pytest.raises(SubmissionError) as caught:
        lab.encode(encoder, wall_s=wall_s)
    return caught.value.fault


def decode_fault(lab: Lab, body: str) -> Fault:
    with pytest.raises(SubmissionError) as caught:
        lab.decode(in_decode(body))
    return caught.value.fault


def test_a_raising_encoder_shows_its_own_frames_and_lines_only(lab: Lab) -> None:
    code = "def inner(n):\n    raise ValueError(f'no {n}')\n" + in_encode("return inner(len(frames))")
    fault = fault_of(lab, code)
    assert (fault.error_type, fault.stage, fault.message) == (ErrorType.EXCEPTION, Stage.ENCODE, "ValueError: no 2")
    assert fault.traceback is not None
    files = [line.split('"')[1] for line in fault.traceback.splitlines() if line.startswith("  File ")]
    assert files == ["encoder.py", "encoder.py"]
    assert "raise ValueError(f'no {n}')" in fault.traceback
    assert "app/sandbox" not in fault.traceback


def test_a_chained_exception_keeps_both_parts(lab: Lab) -> None:
    code = in_encode("try:\n    {}['a']\nexcept KeyError as error:\n    raise RuntimeError('outer') from error")
    fault = fault_of(lab, code)
    assert fault.traceback is not None
    assert "KeyError: 'a'" in fault.traceback
    assert "RuntimeError: outer" in fault.traceback
    assert "jail.py" not in fault.traceback


@pytest.mark.parametrize(
    ("code", "kind", "stage", "words"),
    [
        ("import no_such_module", "exception", "load", "loading the encoder: ModuleNotFoundError"),
        ("def (", "exception", "load", "SyntaxError"),
        ("raise SystemExit(3)", "exception", "load", "sys.exit(3)"),
        ("import os; os._exit(0)", "contract_violation", "load", "exit status 0"),
        ("x = 1", "contract_violation", "load", "does not define encode"),
        ("encode = 3", "contract_violation", "load", "cannot be called"),
        ("def encode(one): pass", "contract_violation", "load", "encode(one) cannot be called as encode(frames, ctx)"),
        (ENCODER + "def setup(ctx):\n    1/0", "exception", "load", "setup of the encoder: ZeroDivisionError"),
        (in_encode("import sys; sys.exit()"), "exception", "encode", "sys.exit(None)"),
        (in_encode("import os; os._exit(0)"), "contract_violation", "encode", "ended by itself (exit status 0)"),
        (in_encode("raise KeyboardInterrupt"), "exception", "encode", "KeyboardInterrupt"),
        (in_encode("pass"), "invalid_output", "encode", "expected bytes from encode, got None"),
        (in_encode("return 'text'"), "invalid_output", "encode", "expected bytes from encode, got str"),
        (in_encode("import os; os.abort()"), "signalled", "encode", "SIGABRT"),
        (in_encode("import ctypes; ctypes.string_at(0)"), "signalled", "encode", "SIGSEGV"),
        (in_encode("import os; os.write(3, b'\\xff[[{')"), "contract_violation", "encode", "not JSON"),
        (in_encode("import os; os.write(3, b'[1]')"), "contract_violation", "encode", "not an object"),
        (in_encode('import os; os.write(3, b\'{"op":"go"}\')'), "contract_violation", "encode", "another question"),
        (
            in_encode(answering('{"op":"failed","error_type":"worker_lost"}')),
            "contract_violation",
            "encode",
            "an unknown kind of failure",
        ),
        (
            in_encode(answering('{"op":"done","bytes":99999999999}')),
            "contract_violation",
            "encode",
            "bytes is not a number",
        ),
        (
            'import os; os.write(3, b\'{"op":"broken","message":"not my fault"}\')\n' + ENCODER,
            "contract_violation",
            "load",
            "another question",
        ),
        (
            in_encode(answering('{"op":"failed","error_type":[]}')),
            "contract_violation",
            "encode",
            "an unknown kind of failure",
        ),
        (in_encode("import os; os.write(3, b'[' * 60000)"), "contract_violation", "encode", "not JSON"),
        (in_encode("import os; os.write(3, b' ' * 70000)"), "contract_violation", "encode", "over the limit"),
        (
            in_encode("import os, time; os.close(3); time.sleep(60)"),
            "contract_violation",
            "encode",
            "closed its channel",
        ),
        ('import os; os.write(3, b\'{"op":"done","bytes":0}\')\n' + ENCODER, "contract_violation", "load", "protocol"),
        (
            "class E(Exception):\n    def __str__(self): raise self\n" + in_encode("raise E"),
            "exception",
            "encode",
            "",
        ),
    ],
)
def test_a_broken_encoder(lab: Lab, code: str, kind: str, stage: str, words: str) -> None:
    fault = fault_of(lab, code)
    assert (fault.error_type, fault.stage) == (kind, stage)
    assert words in fault.message
    assert fault.blame is Blame.CODE


@pytest.mark.parametrize("told", [{"op": "loaded"}, {"op": "ready"}, {"op": "done", "bytes": 0}])
@pytest.mark.parametrize("where", ["import", "setup"])
def test_answers_in_the_services_name_are_refused(lab: Lab, told: dict[str, object], where: str) -> None:
    """Else a call could be over, by the clock, before it began."""
    fake = f"import json, os, time; os.write(3, json.dumps({told!r}).encode()); time.sleep(0.2)\n"
    code = fake + ENCODER if where == "import" else f"{ENCODER}\ndef setup(ctx):\n    {fake}"
    fault = fault_of(lab, code)
    assert fault.error_type is ErrorType.CONTRACT_VIOLATION
    assert "the protocol of the jail" in fault.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "expected frames as uint8 of shape [2, 3, 18, 22], got NoneType"),
        ("return torch.zeros(2, 3, 18, 22)", "got float32 of shape [2, 3, 18, 22]"),
        ("return torch.full((2, 3, 18, 22), torch.nan)", "with values that are not finite"),
        ("return torch.zeros(3, 3, 18, 22, dtype=torch.uint8)", "got uint8 of shape [3, 3, 18, 22]"),
        ("return torch.zeros(2, 18, 22, 3, dtype=torch.uint8)", "got uint8 of shape [2, 18, 22, 3]"),
        ("return torch.zeros(2, 3, 18, 22, dtype=torch.int64)", "got int64"),
        ("return [1, 2]", "got list"),
    ],
)
def test_wrong_frames_are_named(lab: Lab, body: str, words: str) -> None:
    fault = decode_fault(lab, body)
    assert (fault.error_type, fault.stage) == (ErrorType.INVALID_OUTPUT, Stage.DECODE)
    assert words in fault.message


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (40, "signal 40")])
def test_the_process_that_kills_itself(lab: Lab, number: int, name: str) -> None:
    fault = fault_of(lab, in_encode(f"import os; os.kill(os.getpid(), {number})"))
    assert (fault.error_type, fault.message) == (ErrorType.SIGNALLED, f"the process was ended by {name}")


def test_what_was_printed_comes_with_the_fault(lab: Lab) -> None:
    fault = fault_of(lab, in_encode("import sys; print('one'); print('two', file=sys.stderr); 1/0"))
    assert fault.log_tail is not None
    assert sorted(fault.log_tail.split()) == ["one", "two"]


def test_a_flood_of_output_is_cut_and_harms_nobody(lab: Lab) -> None:
    code = in_encode("for _ in range(100): print('x' * 1_000_000)\nprint('the end'); 1/0")
    fault = fault_of(lab, code)
    assert fault.log_tail is not None
    assert fault.log_tail.endswith("the end\n")
    assert len(fault.log_tail) < LIMITS.log_bytes + 100
    assert fault.log_tail.startswith("[9999") and "bytes cut]" in fault.log_tail


@pytest.mark.parametrize("where", ["encode", "setup", "import"])
def test_what_never_returns_ends_with_the_wall_clock(lab: Lab, where: str) -> None:
    sleep = "import time; time.sleep(60)"
    code = {
        "encode": in_encode("while True: pass"),
        "setup": f"{ENCODER}\ndef setup(ctx):\n    {sleep}",
        "import": f"{sleep}\n{ENCODER}",
    }[where]
    fault = fault_of(lab, code, wall_s=0.5)
    assert fault.error_type is ErrorType.WALL_TIME_LIMIT
    assert fault.stage is (Stage.ENCODE if where == "encode" else Stage.LOAD)
    assert fault.limit == 0.5
    assert fault.used is not None and 0.5 <= fault.used < 1.5


def test_an_honest_call_right_after_every_fault(lab: Lab) -> None:
    shape = geometry()
    with pytest.raises(SubmissionError):
        lab.encode(in_encode("import os; os.abort()"))
    assert len(lab.encode(ENCODER).bitstream) == shape.nbytes


def test_a_long_chain_of_causes_is_cut_and_the_exception_still_named(lab: Lab) -> None:
    code = in_encode(
        "e = ValueError('first')\nfor i in range(100_000):\n    n = ValueError(i); n.__cause__ = e; e = n\nraise e"
    )
    fault = fault_of(lab, code)
    assert fault.error_type is ErrorType.EXCEPTION
    assert fault.message == "ValueError: 99999"
    assert fault.traceback is not None and "encoder.py" in fault.traceback


def test_the_log_of_a_crash_shows_the_submissions_frames_alone(lab: Lab) -> None:
    fault = fault_of(lab, in_encode("import ctypes; ctypes.string_at(0)"))
    assert fault.log_tail is not None
    assert 'File "encoder.py"' in fault.log_tail
    assert "/sandbox/" not in fault.log_tail and "Extension modules" not in fault.log_tail


@pytest.mark.parametrize("how", [".to('meta')", ".to_sparse()"])
def test_frames_without_values_are_wrong_frames(lab: Lab, how: str) -> None:
    fault = decode_fault(lab, f"return torch.zeros(2, 3, 18, 22, dtype=torch.uint8){how}")
    assert fault.error_type is ErrorType.INVALID_OUTPUT
    assert "expected frames as uint8 of shape [2, 3, 18, 22]" in fault.message
