"""A whole server process with the toy engines: python -m tests.serve.toyserver
'{"drain_seconds": 5}' [pause]. Prints its port.
"""

import json
import sys

from tests.serve.conftest import Echo, Grey, toy_pool
from tests.serve.probe import with_probe

from miaobi.serve import listening, logs
from miaobi.serve.admission import Admission
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

if __name__ == "__main__":
    settings = Settings(**{"port": 0, "studio": False, **json.loads(sys.argv[1])})
    services = Services(
        settings,
        toy_pool(settings, echo=Echo(float(sys.argv[2])), grey=Grey()),
        Admission(settings),
    )
    make = listening.create_app
    listening.create_app = lambda services: with_probe(make(services))  # type: ignore[assignment]
    listening.CLOSING = 1
    at = listening.bind(settings)
    logs.configure(settings.log_level)
    print(at.getsockname()[1], flush=True)
    listening.listen(services, at)
    print("ended", flush=True)
