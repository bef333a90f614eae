"""
A simulated Evolution API on a real socket: it answers as the real one does, sends nothing, and records everything.

For the demo, tests and load tests. Beside the gateway's stored messages, which faults can falsify, it keeps a ledger of
the messages that "WhatsApp" really got. Tests such as "nothing is sent twice" compare with that ledger.

    with Simulator(api_key="…") as simulator:       # in this process, on a thread
        requests.post(f"{simulator.url}/message/sendText/ifinu", …)
        assert len(simulator.sends) == 1

    run(SimulatorConfig(api_key="…", port=8080))    # this process, until SIGTERM; `python -m ifinu.simulator`
    Control(url, api_key).summary()                 # and from another one
    Control(url, api_key).numbers()                 # by which to judge the pace of each instance
"""

from ifinu.simulator.cluster import Cluster
from ifinu.simulator.config import SimulatorConfig
from ifinu.simulator.fault_script import ENDINGS, Gateway, Outcome
from ifinu.simulator.number_figures import figures
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
    "figures",
    "run",
]
