"""Files with a password: byte order marks, links, modes, and mounted secrets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from minted_connect.cli.private_files import read_private
from minted_connect.errors import ConfigurationError
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import Minted

NO_PASSWORD = {"MINTED_CONNECT_PASSWORD": None}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a file with a mode, in a directory with a mode."""

    def write(mode: int, directory_mode: int = 0o755, text: str = "secret\n") -> Path:
        directory = tmp_path / "secrets"
        directory.mkdir(exist_ok=True)
        directory.chmod(directory_mode)
        file = directory / "password"
        file.write_text(text, "utf-8")
        file.chmod(mode)
        return file

    return write


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file system read-only, as far as `os.statvfs` reports it."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))


@pytest.fixture
def other_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a user that owns no file."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)


@pytest.mark.parametrize(
    ("mode", "directory_mode"),
    [(0o600, 0o777), (0o400, 0o777), (0o440, 0o755), (0o444, 0o755), (0o440, 0o700), (0o444, 0o500)],
)
def test_private_file_or_mounted_secret_is_read(write, mode, directory_mode):
    assert read_private(write(mode, directory_mode), "password") == "secret\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="the file must belong to root")
@pytest.mark.usefixtures("other_user")
@pytest.mark.parametrize("mode", [0o440, 0o640, 0o644])
def test_readable_file_of_root_is_read(write, mode):
    assert read_private(write(mode, 0o755), "password") == "secret\n"


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("mode", [0o440, 0o444, 0o644])
def test_readable_file_on_read_only_file_system_is_read(write, mode):
    assert read_private(write(mode, 0o777), "password") == "secret\n"


@pytest.mark.parametrize(
    ("mode", "directory_mode", "verb"),
    [
        (0o640, 0o777, "access"),
        (0o444, 0o775, "access"),
        (0o644, 0o755, "access"),
        (0o640, 0o700, "access"),
        (0o660, 0o700, "change"),
        (0o602, 0o700, "change"),
    ],
)
def test_exposed_file_of_this_user_is_refused_with_chmod(write, mode, directory_mode, verb):
    file = write(mode, directory_mode)
    with pytest.raises(ConfigurationError) as caught:
        read_private(file, "password")
    assert str(caught.value) == f"password: other users can {verb} {file}; run: chmod 600 {file}"
    file.chmod(0o600)
    assert read_private(file, "password")


@pytest.mark.parametrize("place", ["read_only", "other_user"])
def test_exposed_file_that_cannot_be_changed_is_refused_without_chmod(write, request, place):
    request.getfixturevalue(place)
    with pytest.raises(ConfigurationError) as caught:
        read_private(write(0o666, 0o777), "password")
    assert "chmod" not in str(caught.value)
    assert "mount it read-only with mode 0440" in str(caught.value)


def test_link_is_judged_by_the_file_it_leads_to(write, tmp_path):
    """Check the layout of a Kubernetes secret: links in a directory that everybody can write to."""
    file = write(0o440)
    mount = tmp_path / "mount"
    mount.mkdir()
    mount.chmod(0o1777)
    (mount / "..data").symlink_to(file.parent)
    link = mount / "password"
    link.symlink_to(Path("..data") / "password")
    assert read_private(link, "password") == "secret\n"
    file.chmod(0o666)
    with pytest.raises(ConfigurationError) as caught:
        read_private(link, "password")
    assert f"{link} (a link to {file}); run: chmod 600 {file}" in str(caught.value)


def test_broken_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match=r"cannot be read \(FileNotFoundError\)"):
        read_private(tmp_path / "link", "password")


def test_loop_of_links_is_refused(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(ConfigurationError, match=r"cannot be read \(OSError\)"):
        read_private(tmp_path / "one", "password")


def test_exposed_directory_or_device_is_refused_without_chmod(tmp_path):
    tmp_path.chmod(0o755)
    for place in (tmp_path, Path("/dev/null")):
        with pytest.raises(ConfigurationError, match=r"is not a regular file$"):
            read_private(place, "password")


def test_file_that_is_not_utf_8_is_refused_with_advice(tmp_path):
    file = tmp_path / "password"
    file.write_bytes("secret".encode("utf-16"))
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match="save it as UTF-8"):
        read_private(file, "password")


def test_byte_order_mark_is_ignored(minted: Minted, sandbox: ThreadedSandbox, write, tmp_path: Path) -> None:
    file = write(0o600, text=f"\ufeff{sandbox.password}\r\n")
    assert minted("rates", "--password-file", file, env=NO_PASSWORD).code == 0
    assert minted("rates", "--password-stdin", stdin=f"\ufeff{sandbox.password}\n", env=NO_PASSWORD).code == 0
    config = tmp_path / "config" / "minted-connect" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'\ufeffdefault = "here"\n[profiles.here]\nbase_url = "{sandbox.url}"\nusername = "{sandbox.username}"\n'
        f'password_file = "{file}"\n',
        "utf-8",
    )
    config.chmod(0o600)
    assert minted("rates", "--profile", "here", env=NO_PASSWORD).code == 0
