"""Each client its own data: what a node holds, what it tells when it joins, and what all agree on then."""

from fedkd.data.own.agreement import Agreement, agreed
from fedkd.data.own.at_client import OwnAtClient
from fedkd.data.own.at_server import OwnAtServer
from fedkd.data.own.form import Form
from fedkd.data.own.told import Counts, Told

__all__ = ["Agreement", "Counts", "Form", "OwnAtClient", "OwnAtServer", "Told", "agreed"]
