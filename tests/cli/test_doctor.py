"""finefold doctor."""

from finefold.cli.main import main


def test_an_unknown_check_is_a_usage_mistake(capsys):
    """--only with a name that is no check exits 2 and lists the checks."""
    assert main(["doctor", "data.toml", "--only", "alingment"]) == 2
    assert "the checks are alignment" in capsys.readouterr().err


def test_an_unknown_target_is_a_usage_mistake(capsys):
    """A target that is neither a file, a folder nor importable exits 2 and says what may stand there."""
    assert main(["doctor", "nowhere.toml"]) == 2
    assert "package.module:make_dataset" in capsys.readouterr().err
    assert main(["doctor", "no_such_module_here:make"]) == 2
    assert "cannot import" in capsys.readouterr().err
