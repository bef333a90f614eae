from __future__ import annotations

from importlib import resources

from ifinu.broker import rights


def test_every_command_of_every_script_is_one_that_is_tried():
    files = resources.files("ifinu.broker").joinpath("scripts").iterdir()
    scripts = [file.name.removesuffix(".lua") for file in files if file.name.endswith(".lua")]
    assert len(scripts) > 20
    assert rights.commands_of(scripts) <= rights._TRIES.keys()
    assert {*rights.WORKER, *rights.RECORDING} <= {*scripts}
