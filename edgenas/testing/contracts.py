"""What every plug-in of a kind must do, as test classes to inherit from.

    class TestMine(TransportContract):
        @pytest.fixture
        def link(self) -> Transport: ...

The other end must run POSIX programs, and see this machine's files where a test looks for them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenas.errors import DeviceError
from edgenas.hardware import Finished, Transport
from edgenas.testing.processes import outlives

PATIENCE_S = 60.0


class TransportContract:
    """A connection carries files, arguments, lines and an exit status unharmed."""

    @pytest.fixture
    def link(self) -> Transport:
        """The transport under test; its `python` runs there."""
        raise NotImplementedError

    def _run(self, link: Transport, code: str, *arguments: str) -> tuple[list[str], Finished]:
        lines: list[str] = []
        ended = link.run(
            [link.python, "-c", code, *arguments],
            idle_s=PATIENCE_S,
            on_line=lines.append,
            environment={"EDGENAS_A": "b c; $HOME"},
        )
        return lines, ended

    def test_lines_status_stderr_and_environment_come_back(self, link: Transport) -> None:
        """Blank lines, letters beyond ASCII and a missing last newline included."""
        lines, ended = self._run(
            link,
            "import os, sys; sys.stdout.reconfigure(encoding='utf-8'); print('x\\n\\nä\\n'); "
            "sys.stderr.write('oh'); print(os.environ['EDGENAS_A'], end=''); sys.exit(3)",
        )
        assert lines == ["x", "", "ä", "", "b c; $HOME"]
        assert ended.returncode == 3
        assert ended.stderr.endswith("oh")

    def test_a_signal_is_a_negative_status(self, link: Transport) -> None:
        """As `subprocess` has it."""
        assert self._run(link, "import os; os.kill(os.getpid(), 9)")[1].returncode == -9

    def test_arguments_are_never_read_by_a_shell(self, link: Transport, tmp_path: Path) -> None:
        """Not once, not twice."""
        canary = tmp_path / "canary"
        nasty = [f"$(touch {canary})", f"; touch {canary} #", f"`touch {canary}`", "a\nb", "", "'"]
        nasty += ["-oProxyCommand=x", '"$HOME"', "*", "~", "\\", f"|| touch {canary}"]
        lines, _ = self._run(link, "import sys; print(ascii(sys.argv[1:]))", *nasty)
        assert lines == [ascii(nasty)]
        assert not canary.exists()

    def test_files_arrive_whole(self, link: Transport, tmp_path: Path) -> None:
        """Any bytes; a second time, and when one of them changed."""
        one, two = tmp_path / "one one", tmp_path / "two"
        one.write_bytes(bytes(range(256)) * 300)
        two.write_bytes(b"")
        code = (
            "import sys, hashlib; "
            "[print(hashlib.sha256(open(p, 'rb').read()).hexdigest()[:8]) for p in sys.argv[1:]]"
        )
        for change in (b"", b"", b"\r\n\x00"):
            one.write_bytes(one.read_bytes() + change)
            paths = link.push({"1.model": one, "2.model": two})
            assert set(paths) == {"1.model", "2.model"}
            lines, _ = self._run(link, code, paths["1.model"], paths["2.model"])
            here = self._local_sums(one, two)
            assert lines == here

    def _local_sums(self, *paths: Path) -> list[str]:
        from edgenas.artifacts import sha256_file

        return [sha256_file(path)[:8] for path in paths]

    def test_a_hung_command_is_stopped_with_its_children(
        self, link: Transport, tmp_path: Path
    ) -> None:
        """And the error says how long the silence was."""
        pids = tmp_path / "pids"
        code = (
            "import os, subprocess, sys, time; "
            "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']); "
            "open(sys.argv[1], 'w').write(f'{os.getpid()} {p.pid}'); "
            "print('started', flush=True); time.sleep(300)"
        )
        lines: list[str] = []
        with pytest.raises(DeviceError, match="silent for 6 s") as caught:
            link.run(
                [link.python, "-c", code, str(pids)],
                idle_s=6,
                on_line=lines.append,
                environment={},
            )
        assert caught.value.exit_code == 4
        assert lines == ["started"]
        for pid in map(int, pids.read_text().split()):
            assert not outlives(pid, PATIENCE_S), f"process {pid} outlived the timeout"
