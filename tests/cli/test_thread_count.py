"""How many threads, and what `dpad doctor` says about teams that spin."""

import os
import subprocess
import sys

import pytest
import torch

from dpad import threads


def test_sane_numbers(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert threads.sane() == 3 and threads.sane(5) == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "available", lambda: 4)
    for load, count in ((0.0, 4), (5.2, 3), (7.4, 1), (60.0, 1)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        assert threads.sane() == count
    with pytest.raises(ValueError, match="threads = 0"):
        threads.sane(0)
    assert threads.sane(threads.MOST) == threads.MOST
    with pytest.raises(ValueError, match="threads = 100000: .* from 1 to 1024"):
        threads.sane(100_000)
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS = 100000"):
        threads.sane()


def test_a_quota_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for text, count in (("max 100000", 8), ("250000 100000", 2), ("10000 100000", 1), ("", 8)):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
        assert threads.available() == count


def test_advice():
    slow = {"team": 4, "one": 1e-4, "all": 12e-4}
    assert "12.0 times slower" in threads.advice(slow)
    assert "OMP_WAIT_POLICY=passive" in threads.advice(slow)
    for fine in ({**slow, "all": 1.2e-4}, {**slow, "team": 1}):
        assert threads.advice(fine) is None


def test_a_team_is_measured():
    before = torch.get_num_threads()
    found = threads.compare(rounds=1, calls=2)
    assert found["team"] == before == torch.get_num_threads()
    assert 0 < found["one"] < 1 and 0 < found["all"] < 1


def test_doctor_reports_it(run, monkeypatch):
    monkeypatch.setattr(threads, "compare", lambda: {"team": 4, "one": 1e-4, "all": 12e-4})
    found = run("doctor --json").json
    assert found["threads"]["team"] == 4
    assert any("12.0 times slower" in text for text in found["warnings"])
    text = run("doctor").stdout
    assert "100 us with one, 1200 us with 4" in text


@pytest.mark.parametrize("chosen", [None, "active"])
def test_the_command_line_lets_threads_sleep(chosen):
    """Before torch is imported, and not where the user has chosen."""
    code = (
        "import os, sys\nfrom dpad import cli, threads\nassert 'torch' not in sys.modules\n"
        "try: cli.main(['--version'])\nexcept SystemExit: pass\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if chosen is None else {"OMP_WAIT_POLICY": chosen}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split()[-1] == (chosen or "passive")
