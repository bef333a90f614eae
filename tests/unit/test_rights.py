from __future__ import annotations

from importlib import resources

from ifinu.broker import rights


def test_every_command_of_every_script_is_one_that_is_tried():
    scripts = [file.name.removesuffix(".lua") for file in resources.files("ifinu.broker").joinpath("scripts").iterdir()]
    assert len(scripts) > 20
    assert rights.commands_of(scripts) <= rights._TRIES.keys()
    assert {*rights.WORKER, *rights.RECORDING} <= {*scripts}
