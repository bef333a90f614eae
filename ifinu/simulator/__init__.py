"""
An Evolution API on a real socket that sends nothing, answers as the real one does, and remembers everything.

For the demo, the tests and load. Beside the gateway's own stored messages, which faults can make wrong, it
keeps a ledger of what "WhatsApp" really got; a claim such as "nothing is sent twice" is checked against that.

    with Simulator(api_key="…") as simulator:       # in this process, on a thread
        requests.post(f"{simulator.url}/message/sendText/ifinu", …)
        assert len(simulator.sends) == 1

    run(SimulatorConfig(api_key="…", port=8080))    # this process, until SIGTERM; `python -m ifinu.simulator`
    Control(url, api_key).summary()                 # and from another one
"""

from ifinu.simulator.cluster import Cluster
from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.fault_script import ENDINGS, Gateway, Outcome
from ifinu.simulator.process import run
from ifinu.simulator.remote_control import Control
from ifinu.simulator.send_ledger import Send, duplicates
from ifinu.simulator.threaded import Simulator

__all__ = [
    "ENDINGS",
    "Cluster",
    "Control",
    "Gateway",
    "Outcome",
    "Send",
    "Simulator",
    "SimulatorConfig",
    "duplicates",
    "run",
]
