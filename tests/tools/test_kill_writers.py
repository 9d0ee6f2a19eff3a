"""Commands that are killed leave what they write whole; the tool that kills them two hundred times would notice."""

import pytest

from tools.kill_writers import Writer, collect, kill, leftovers


def test_what_is_missing_or_broken_is_found(tmp_path):
    def refuse(path):
        raise ValueError("half")

    out = tmp_path / "out"
    writer = Writer("nothing", ("--version",), out, refuse, before=True)
    assert kill(writer, 0.0, tmp_path / "log") == "MISSING"
    out.write_text("")
    assert kill(writer, 0.0, tmp_path / "log") == "BROKEN: ValueError: half"


@pytest.mark.slow
def test_every_writing_command_survives_being_killed(tmp_path):
    done = collect(tmp_path, kills=11, seed=3)
    assert len(done) == 11 and sum(sum(writer.found.values()) for writer in done) == 11
    found = {what for writer in done for what in writer.found}
    assert found <= {"nothing", "whole", "whole (it had ended)"}, found
    assert leftovers(tmp_path) == []
