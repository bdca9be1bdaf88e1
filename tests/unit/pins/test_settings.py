"""The index and CA that pip is set to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfslim.pins.settings import index_settings

NAMES = ("PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "PIP_CONFIG_FILE", "PIP_EXTRA_INDEX_URL")


@pytest.fixture
def pip_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "pip.conf"
    path.write_text("[global]\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def test_a_pip_conf_counts_and_its_extra_indexes_do_not(pip_conf: Path) -> None:
    pip_conf.write_text(
        "[global]\nindex-url = https://one/simple/\ncert = /ca.pem\n"
        "extra-index-url = file:///opt/more\n[install]\nindex-url = https://two/simple\n"
    )
    found = index_settings()
    assert (found.url, found.ca) == ("https://two/simple", "/ca.pem")
    assert found.environment() == {"SSL_CERT_FILE": "/ca.pem", "PIP_CERT": "/ca.pem"}


def test_variables_win(pip_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_conf.write_text("[global]\nindex-url = https://one/simple\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://three/simple")
    monkeypatch.setenv("PIP_CERT", "/other.pem")
    found = index_settings()
    assert (found.url, found.ca) == ("https://three/simple", "/other.pem")
