"""`ifinu doctor`: checks of Redis, the ledger, the gateway and the settings, each with a fix."""

from ifinu.cli.doctor.command import doctor as doctor
