"""The minutes of a GPU are spent in order, and a cut loses one step; rehearsed on the CPU with tiny steps."""

import json
import sys
import time
from pathlib import Path

from companion.__main__ import command_parser
from companion.choose import chosen
from gpu_run import Step, perform, plan


def python(code):
    return sys.executable, "-c", code


def test_every_step_of_the_plan_exists(tmp_path):
    steps = plan(tmp_path)
    assert (steps[0].name, steps[0].must) == ("smoke", True)
    for step in steps:
        if "companion" in step.command:
            args = command_parser().parse_args(step.command[step.command.index("companion") + 1 :])
            assert chosen(args)
        else:
            assert next(Path(word) for word in step.command if word.endswith(".py")).is_file()


def test_a_step_that_must_pass_stops_the_rest(tmp_path):
    for must, wanted in ((True, [1]), (False, [1, 0])):
        steps = [Step("smoke", python("raise SystemExit(1)"), 60, must=must), Step("next", python("pass"), 60)]
        assert [entry["status"] for entry in perform(steps, tmp_path, 60)] == wanted


def test_each_step_says_what_it_wrote_and_a_cut_keeps_the_steps_before(tmp_path):
    write = f"open({str(tmp_path / 'made.txt')!r}, 'w').write('x')"
    steps = [Step("writes", python(write), 60), Step("hangs", python("import time; time.sleep(600)"), 1.0)]
    start = time.monotonic()
    entries = perform(steps, tmp_path, 60)
    assert time.monotonic() - start < 60
    assert [(e["step"], e["status"]) for e in entries] == [("writes", 0), ("hangs", "stopped")]
    assert entries[0]["wrote"] == ["made.txt"]
    assert [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()] == entries
    assert perform(steps, tmp_path / "late", 0) == []
