"""Passwords from pipes, deleted files and files of other users."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from minted_connect.cli.private_files import read_private
from minted_connect.errors import ConfigurationError
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import Minted

NO_PASSWORD = {"MINTED_CONNECT_PASSWORD": None}
REMEDY = "mount it read-only with mode 0440, or use a copy that belongs to this user and has mode 0600"

Pipe = Callable[[str], Path]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Return a function that writes a text to a pipe and returns the path of its end, as `<(command)` of a shell."""
    with ExitStack() as stack:

        def open_pipe(text: str) -> Path:
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            os.write(writing, text.encode())
            os.close(writing)
            return Path(f"/dev/fd/{reading}")

        yield open_pipe


@pytest.fixture
def other_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a user that owns no file and is not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)


@pytest.fixture
def foreign_file(tmp_path: Path, other_user: None) -> Path:
    """Return a file that neither root nor this user owns."""
    file = tmp_path / "password"
    file.write_text("secret\n", "utf-8")
    if os.getuid() == 0:
        os.chown(file, 65534, -1)
    return file


def test_password_file_can_be_a_pipe(minted: Minted, sandbox: ThreadedSandbox, pipe: Pipe) -> None:
    result = minted("rates", "--password-file", pipe(sandbox.password), env=NO_PASSWORD)
    assert (result.code, result.err) == (0, "")


@pytest.mark.usefixtures("other_user")
def test_pipe_of_another_user_is_read(pipe: Pipe) -> None:
    assert read_private(pipe("secret\n"), "password") == "secret\n"


def test_named_pipe_is_judged_by_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "pipe"
    os.mkfifo(file, 0o600)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(file.write_text, "secret\n", "utf-8")
        assert read_private(file, "password") == "secret\n"
    file.chmod(0o666)
    with pytest.raises(ConfigurationError, match="other users can change"):
        read_private(file, "password")


def test_deleted_file_is_read_by_its_descriptor(tmp_path: Path) -> None:
    """Check the way in which some shells pass a here-document."""
    file = tmp_path / "document"
    file.write_text("secret\n", "utf-8")
    file.chmod(0o600)
    with file.open() as opened:
        file.unlink()
        assert read_private(Path(f"/dev/fd/{opened.fileno()}"), "password") == "secret\n"


@pytest.mark.parametrize("path", ["/dev/null", "/dev"])
def test_device_and_directory_are_refused_without_chmod(minted: Minted, path: str) -> None:
    result = minted("rates", "--password-file", path, env=NO_PASSWORD)
    assert result.code == 2
    assert re.fullmatch(f"minted: password: {path} is not a regular file\n", result.err)


def test_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(ConfigurationError, match=r"cannot be read \(OSError\)"):
        read_private(tmp_path / "link", "password")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o644])
def test_file_owned_by_another_user_is_refused(foreign_file: Path, mode: int) -> None:
    foreign_file.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        read_private(foreign_file, "password")
    assert str(caught.value) == f"password: another user owns {foreign_file} and can change it; {REMEDY}"


@pytest.mark.parametrize("mode", [0o600, 0o440, 0o644])
def test_foreign_file_on_read_only_file_system_is_read(
    foreign_file: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_file.chmod(mode)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert read_private(foreign_file, "password") == "secret\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_root_refuses_a_file_that_its_owner_can_change(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file = tmp_path / "password"
    file.write_text("secret\n", "utf-8")
    file.chmod(0o644)
    os.chown(tmp_path, 65534, -1)
    os.chown(file, 65534, -1)
    with pytest.raises(ConfigurationError, match="another user owns"):
        read_private(file, "password")
