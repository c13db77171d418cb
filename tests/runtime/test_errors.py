"""Commands end with a line for people and the right exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import EXIT_USAGE, UserError, guard


class OtherPackageError(Exception):
    pass


def test_result_of_main_is_the_exit_code() -> None:
    assert guard(lambda: None)() == 0
    assert guard(lambda: 3)() == 3


@pytest.mark.parametrize(("error", "code"), [(UserError("x.yaml: no"), 1), (UserError("a\nb", exit_code=2), 2)])
def test_user_error_is_lines_on_stderr(error: UserError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    assert guard(main)() == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [f"error: {line}" for line in str(error).splitlines()]


def test_errors_of_other_packages_are_named_by_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OtherPackageError("registry says no")

    assert guard(main, OtherPackageError)() == 1
    assert capsys.readouterr().err == "error: registry says no\n"
    with pytest.raises(OtherPackageError):
        guard(main)()


def test_error_without_words_still_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OtherPackageError

    guard(main, OtherPackageError)()
    assert capsys.readouterr().err == "error: OtherPackageError\n"


def test_interrupt_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    assert guard(main)() == 130
    assert capsys.readouterr() == ("", "")


def test_system_exit_passes() -> None:
    with pytest.raises(SystemExit):
        guard(lambda: sys.exit(5))()


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = (
        "import sys; from runtime.errors import guard\n"
        "def main():\n    for i in range(100000): print(i)\n"
        "sys.exit(guard(main)())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(10) == 141


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nowhere_and_no_file_takes_their_place(closed: str, tmp_path: Path) -> None:
    program = (
        "import sys; from runtime.errors import guard\n"
        "def main():\n"
        f"    with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "        print('said'); print('complained', file=sys.stderr); sys.stdin.read()\n"
        "        assert file.fileno() > 2 and sys.stdout.isatty() is False\n"
        "        file.write('kept')\n"
        "sys.exit(guard(main)())"
    )
    command = f'"$0" -c "$1" {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "kept"
    assert "Traceback" not in done.stderr


def test_a_full_disk_under_the_output_is_one_line() -> None:
    program = "import sys; from runtime.errors import guard\nsys.exit(guard(lambda: print('x' * 100_000))())"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: output: cannot be written: No space left on device\n")


def test_default_exit_code() -> None:
    assert UserError("x").exit_code == 1
    assert EXIT_USAGE == 2
