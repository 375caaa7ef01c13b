"""Settings: every mistake is named, with the nearest thing that would have been right."""

from pathlib import Path

import pytest

from paceline.errors import ConfigError
from paceline.pipeline.config import Config, load_config


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_default() -> None:
    assert load_config(None) == Config()
    assert load_config(None, seed=None, limit_ms=None) == Config()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = config(tmp_path, "seed = 3\nlimit_ms = 2\n[search]\npopulation = 8\n")
    loaded = load_config(path, seed=5)
    assert (loaded.seed, loaded.limit_ms, loaded.search.population) == (5, 2.0, 8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sed = 1", "unknown option 'sed'; did you mean 'seed'"),
        ("[search]\npopluation = 1", r"\[search\] unknown option 'popluation'; did you mean 'population'"),
        ("[serch]\npopulation = 1", "unknown option 'serch'; did you mean 'search'"),
        ("xyzzy = 1", "unknown option 'xyzzy'; known options: seed, limit_ms"),
        ("limit_ms = -1", "limit_ms = -1: Input should be greater than 0"),
        ('[data]\nkind = "photos"', r"\[data\] kind = 'photos'"),
        ('[data]\nkind = "folder"', "needs `path`"),
        ("[search\n", "is not TOML"),
        ("seed = 1\nseed = 2", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config(config(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the config .*nothing\.toml: No such file"):
        load_config(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="can't read the config"):
        load_config(tmp_path / "binary.toml")


def test_data_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    loaded = load_config(config(tmp_path, '[data]\nkind = "npz"\npath = "data.npz"'))
    assert loaded.data.path == tmp_path / "data.npz"


def test_the_key_names_the_settings() -> None:
    assert Config().key() == Config().key() != Config(seed=1).key()
